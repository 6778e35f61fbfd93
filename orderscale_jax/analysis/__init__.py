"""The paper's questions, one file each: from a model and lists to a small dataclass of arrays.

`observe(model, lists)` runs the model once; the analyses take that observation. `study_model` asks all of
them. Every result has a short `repr` and a `table()` to print.
"""

from orderscale_jax.analysis.ablation import EdgeAblation, ablate_edges
from orderscale_jax.analysis.attention import (
    AttentionStatistics,
    SepAttention,
    attention_statistics,
    sep_attention,
)
from orderscale_jax.analysis.circuit import ClosedForm, closed_form, misfits, why_no_equations
from orderscale_jax.analysis.difference import Difference, decompose_difference
from orderscale_jax.analysis.errors import (
    ListErrors,
    OutputErrors,
    list_errors,
    output_errors,
    structure_p_value,
)
from orderscale_jax.analysis.exchange import Exchange, exchange_in_closed_form, exchange_in_model
from orderscale_jax.analysis.joint import JointAblation, ablate_jointly
from orderscale_jax.analysis.lens import LogitLens, logit_lens
from orderscale_jax.analysis.observation import Observation, Outcome, intervene, observe
from orderscale_jax.analysis.order import Effect, Order, what_carries_order
from orderscale_jax.analysis.parameters import Parameter, ParameterOverview, parameter_overview
from orderscale_jax.analysis.results import tabulate
from orderscale_jax.analysis.separability import (
    PairSeparation,
    Reconstruction,
    Separability,
    reconstruct_from_positions,
    separate_outputs,
)
from orderscale_jax.analysis.study import Study, study_model

__all__ = [
    "AttentionStatistics",
    "ClosedForm",
    "Difference",
    "EdgeAblation",
    "Effect",
    "Exchange",
    "JointAblation",
    "ListErrors",
    "LogitLens",
    "Observation",
    "Order",
    "Outcome",
    "OutputErrors",
    "PairSeparation",
    "Parameter",
    "ParameterOverview",
    "Reconstruction",
    "SepAttention",
    "Separability",
    "Study",
    "ablate_edges",
    "ablate_jointly",
    "attention_statistics",
    "closed_form",
    "decompose_difference",
    "exchange_in_closed_form",
    "exchange_in_model",
    "intervene",
    "list_errors",
    "logit_lens",
    "misfits",
    "observe",
    "output_errors",
    "parameter_overview",
    "reconstruct_from_positions",
    "sep_attention",
    "separate_outputs",
    "structure_p_value",
    "study_model",
    "tabulate",
    "what_carries_order",
    "why_no_equations",
]
