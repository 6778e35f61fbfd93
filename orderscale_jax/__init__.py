"""Order by Scale in JAX: train, ablate and explain small transformers that pack a list into one token."""

import importlib.metadata

from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, save_checkpoint
from orderscale_jax.model import Interventions, ListTransformer, ModelConfig, cut, patch
from orderscale_jax.task import TaskConfig, make_split

__version__ = importlib.metadata.version("orderscale-jax")

__all__ = [
    "Interventions",
    "ListTransformer",
    "ModelConfig",
    "TaskConfig",
    "cut",
    "load_checkpoint",
    "load_pretrained",
    "make_split",
    "patch",
    "save_checkpoint",
]
