"""The masked attention-only transformer: its definition in residuals, the same in scales, and what may be
changed on the way through it.
"""

from orderscale_jax.model.config import ModelConfig
from orderscale_jax.model.interventions import CUTS, MODES, Interventions, Trace, cut, keep_weights, patch
from orderscale_jax.model.transformer import (
    ListTransformer,
    array_names,
    bind,
    frozen_projections,
    init_params,
    matching_arrays,
)

__all__ = [
    "CUTS",
    "MODES",
    "Interventions",
    "ListTransformer",
    "ModelConfig",
    "Trace",
    "array_names",
    "bind",
    "cut",
    "frozen_projections",
    "init_params",
    "keep_weights",
    "matching_arrays",
    "patch",
]
