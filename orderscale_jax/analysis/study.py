"""All the paper's questions at once, asked of one model on the same lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from orderscale_jax.analysis.ablation import EdgeAblation, ablate_edges
from orderscale_jax.analysis.accuracy import Accuracy, accuracy_on
from orderscale_jax.analysis.attention import (
    AttentionStatistics,
    SepAttention,
    attention_statistics,
    sep_attention,
)
from orderscale_jax.analysis.circuit import ClosedForm, closed_form, why_no_equations
from orderscale_jax.analysis.difference import Difference, decompose_difference
from orderscale_jax.analysis.errors import ListErrors, list_errors
from orderscale_jax.analysis.exchange import Exchange, exchange_in_closed_form, exchange_in_model
from orderscale_jax.analysis.joint import JointAblation, ablate_jointly
from orderscale_jax.analysis.lens import LogitLens, logit_lens
from orderscale_jax.analysis.observation import Observation, observe
from orderscale_jax.analysis.order import Order, what_carries_order
from orderscale_jax.analysis.parameters import ParameterOverview, parameter_overview
from orderscale_jax.analysis.separability import (
    Reconstruction,
    Separability,
    reconstruct_from_positions,
    separate_outputs,
)
from orderscale_jax.circuits import CircuitTable, circuit_table
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model import MODES, ListTransformer, ModelConfig
from orderscale_jax.printing import Printable

REPORTED_EDGES = 12  # live edges of which a study tries every set: as three layers have on lists of two


@dataclasses.dataclass(frozen=True, repr=False)
class Study(Printable):
    """What the analyses found.

    What does not apply to the model is None (or an empty dictionary), and `not_applicable` says why.

    Attributes:
      observation: the model, the lists and its undisturbed pass over them.
      training: accuracy on the training lists; None where they were not given.
      parameters: what the model is made of.
      ablations: every edge cut alone, by mode.
      attention, lens, errors: attention statistics, logit lens, wrong lists.
      sep: SEP's scores of the digits in layer 0.
      moderation: by mode, the edges cut through which the last output reads earlier ones in the last layer.
      circuits: by mode, what the model does with every set of its live edges; empty for many edges.
      notebook: by mode, the same edges cut together with every edge that is dead, as the published
        notebook does (without the edge of its list that does not exist).
      exchange: alpha_1 and alpha_2 exchanged in the running model.
      order: what in SEP carries order, part by part.
      separability, reconstruction: the outputs in the space spanned by the position vectors.
      closed_form, difference, exchange_closed_form: the analyses of the two equations.
      not_applicable: by key of `tabulate`, a sentence.
    """

    observation: Observation
    training: Accuracy | None
    parameters: ParameterOverview
    ablations: dict[str, EdgeAblation]
    attention: AttentionStatistics
    lens: LogitLens
    errors: ListErrors
    sep: SepAttention | None
    circuits: dict[str, CircuitTable]
    moderation: dict[str, JointAblation]
    notebook: dict[str, JointAblation]
    exchange: Exchange | None
    order: Order | None
    separability: Separability | None
    reconstruction: Reconstruction
    closed_form: ClosedForm | None
    difference: Difference | None
    exchange_closed_form: Exchange | None
    not_applicable: dict[str, str]

    def table(self) -> str:
        """The tables of all analyses, one below the other."""
        parts = {}
        for name, value in self._facts().items():
            by_mode = value if isinstance(value, dict) else {"": value}
            parts |= {f"{name} {mode}".strip(): x for mode, x in by_mode.items() if isinstance(x, Printable)}
        return "\n\n".join(f"[{name}]\n{part.table()}" for name, part in parts.items())


def study_model(
    model: ListTransformer,
    lists: np.ndarray,
    training_lists: np.ndarray | None = None,
    *,
    untrained: Collection[str] = (),
) -> Study:
    """Runs over `lists` [B, n] whatever applies to `model`; over `training_lists` only its accuracy.

    `untrained` names arrays that the training left as they were drawn (`config.untrained_arrays`).

    Raises:
      UserError: no lists, or lists that do not fit the model.
    """
    seen = observe(model, lists)
    graph, missing = seen.graph, _not_applicable(model.config)
    if (seen.lists == seen.lists[:, :1]).all():
        missing.setdefault("order", "No list has two different digits.")
    moderating = moderating_edges(graph)
    dead = [edge for edge in graph.edges if not graph.is_live(edge) and graph.carries(edge)]

    def unless_missing(key: str, analyse):
        return None if key in missing else analyse(seen)

    def cut_together(edges):
        return {mode: ablate_jointly(seen, edges, mode) for mode in MODES} if moderating else {}

    return Study(
        observation=seen,
        training=None if training_lists is None else accuracy_on(model, training_lists),
        parameters=parameter_overview(model, untrained),
        ablations={mode: ablate_edges(model, seen.lists, mode) for mode in MODES},
        attention=attention_statistics(seen),
        lens=logit_lens(seen),
        errors=list_errors(seen.lists, seen),
        sep=unless_missing("sep_attention", sep_attention),
        circuits={}
        if "exact_circuit" in missing
        else {mode: circuit_table(model, seen.lists, mode) for mode in MODES},
        moderation=cut_together(moderating),
        notebook=cut_together([*dead, *moderating]),
        exchange=unless_missing("alpha_swap_full_model", exchange_in_model),
        order=unless_missing("order", what_carries_order),
        separability=unless_missing("separability", separate_outputs),
        reconstruction=reconstruct_from_positions(seen),
        closed_form=unless_missing("circuit", closed_form),
        difference=unless_missing("logit_difference", decompose_difference),
        exchange_closed_form=unless_missing("alpha_swap", exchange_in_closed_form),
        not_applicable=missing,
    )


def moderating_edges(graph: Graph) -> list[Edge]:
    """The edges of the last layer through which the last output reads earlier outputs."""
    if graph.n_layers < 2:
        return []
    return [Edge(graph.n_layers - 1, graph.outputs[-1], key) for key in graph.outputs[:-1]]


def _not_applicable(config: ModelConfig) -> dict[str, str]:
    reasons = {}
    if (n_edges := len(config.graph.live_edges)) > REPORTED_EDGES:
        reasons["exact_circuit"] = (
            f"With {n_edges} live edges there are {2**n_edges:,} sets of them, and a study tries all up to "
            f"{2**REPORTED_EDGES:,}: orderscale circuits tries more, and draws some of very many."
        )
    elif not n_edges:
        reasons["exact_circuit"] = "No edge can reach an output."
    of_order = ("alpha_swap_full_model", "moderation_edge_ablation", "joint_ablation_notebook")
    if reason := why_no_equations(config):
        why = f"{reason[0].upper()}{reason[1:]}."
        reasons |= dict.fromkeys(("circuit", "logit_difference", "alpha_swap", "order"), why)
    if config.list_len == 1:
        why = "Lists of one digit have no order."
        reasons |= dict.fromkeys(("sep_attention", "separability", *of_order), why)
    elif config.n_layers == 1:
        why = "With one layer nothing that SEP reads reaches an output, and no output reads another."
        reasons |= dict.fromkeys(of_order, why)
    return reasons
