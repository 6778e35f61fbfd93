"""Every analysis that applies to a model, run once over the same lists."""

from __future__ import annotations

import dataclasses

import numpy as np

from orderscale_jax import analysis
from orderscale_jax.analysis.ablation import MODES, EdgeAblation, ablate_edges
from orderscale_jax.formatting import enumerate_words
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model import ListTransformer


@dataclasses.dataclass(frozen=True)
class Study:
    """What the analyses found.

    What does not apply to the model is None (or an empty dictionary), and `not_applicable` says why.

    Attributes:
      observation: the model, the lists and its undisturbed pass over them.
      parameters: what the model is made of.
      ablations: every edge cut alone, by mode.
      attention, lens, errors: attention statistics, logit lens, wrong lists.
      sep: SEP's scores of the digits in layer 0.
      moderation: by mode, the edges cut through which the last output reads earlier ones in the last layer.
      notebook: by mode, the same edges cut together with every edge that is dead, as the published
        notebook does (without the edge of its list that does not exist).
      exchange: alpha_1 and alpha_2 exchanged in the running model.
      separability, reconstruction: the outputs in the space spanned by the position vectors.
      closed_form, difference, exchange_closed_form: the analyses of the two equations.
      not_applicable: by key of `results`, a sentence.
    """

    observation: analysis.Observation
    parameters: analysis.ParameterOverview
    ablations: dict[str, EdgeAblation]
    attention: analysis.AttentionStatistics
    lens: analysis.LogitLens
    errors: analysis.ListErrors
    sep: analysis.SepAttention | None
    moderation: dict[str, analysis.JointAblation]
    notebook: dict[str, analysis.JointAblation]
    exchange: analysis.Exchange | None
    separability: analysis.Separability | None
    reconstruction: analysis.Reconstruction
    closed_form: analysis.ClosedForm | None
    difference: analysis.Difference | None
    exchange_closed_form: analysis.Exchange | None
    not_applicable: dict[str, str]


def study(model: ListTransformer, lists: np.ndarray) -> Study:
    """Runs over `lists` [B, n] whatever applies to `model`.

    Raises:
      UserError: no lists, or lists that do not fit the model.
    """
    observation = analysis.observe(model, lists)
    graph = observation.graph
    moderating = moderating_edges(graph)
    dead = [edge for edge in graph.edges if not graph.is_live(edge) and graph.carries(edge)]
    has_pairs, equations = graph.list_len > 1, not analysis.misfits(model.config)
    order_passes = has_pairs and graph.n_layers > 1
    return Study(
        observation=observation,
        parameters=analysis.parameter_overview(model),
        ablations={mode: ablate_edges(model, observation.lists, mode) for mode in MODES},
        attention=analysis.attention_statistics(observation),
        lens=analysis.logit_lens(observation),
        errors=analysis.list_errors(observation.lists, observation),
        sep=analysis.sep_attention(observation) if has_pairs else None,
        moderation=_cut_together(observation, moderating) if moderating else {},
        notebook=_cut_together(observation, [*dead, *moderating]) if moderating else {},
        exchange=analysis.exchange_in_model(observation) if order_passes else None,
        separability=analysis.separate_outputs(observation) if has_pairs else None,
        reconstruction=analysis.reconstruct_from_positions(observation),
        closed_form=analysis.closed_form(observation) if equations else None,
        difference=analysis.decompose_difference(observation) if equations else None,
        exchange_closed_form=analysis.exchange_in_closed_form(observation) if equations else None,
        not_applicable=_not_applicable(observation.model),
    )


def moderating_edges(graph: Graph) -> list[Edge]:
    """The edges of the last layer through which the last output reads earlier outputs."""
    if graph.n_layers < 2:
        return []
    return [Edge(graph.n_layers - 1, graph.outputs[-1], key) for key in graph.outputs[:-1]]


def _cut_together(observation, edges) -> dict[str, analysis.JointAblation]:
    return {mode: analysis.ablate_jointly(observation, edges, mode) for mode in MODES}


def _not_applicable(model: ListTransformer) -> dict[str, str]:
    config, reasons = model.config, {}
    if misfits := analysis.misfits(config):
        why = (
            "The two equations describe models of two layers, lists of 2 digits and one head, with frozen "
            f"projections and no LayerNorm, bias or MLP; this model has {enumerate_words(misfits)}."
        )
        reasons |= dict.fromkeys(("circuit", "logit_difference", "alpha_swap"), why)
    if config.list_len == 1:
        why = "Lists of one digit have no order."
        keys = ("sep_attention", "separability", "alpha_swap_full_model")
        reasons |= dict.fromkeys((*keys, "moderation_edge_ablation", "joint_ablation_notebook"), why)
    elif config.n_layers == 1:
        why = "With one layer nothing that SEP reads reaches an output, and no output reads another."
        keys = ("alpha_swap_full_model", "moderation_edge_ablation", "joint_ablation_notebook")
        reasons |= dict.fromkeys(keys, why)
    return reasons
