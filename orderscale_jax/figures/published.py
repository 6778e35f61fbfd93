"""The published checkpoints' numbers as what pictures are drawn from, so that they stand beside ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from orderscale_jax.analysis import Difference, EdgeAblation, SepAttention
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures.alternatives import Alternatives
from orderscale_jax.figures.circuit import AttentionHistograms
from orderscale_jax.figures.flow_layout import Flow
from orderscale_jax.formatting import count
from orderscale_jax.graph import Edge, Graph

PAPER_MODE = "zero"  # what it means that an edge is cut in the paper's Figure 1


@dataclasses.dataclass(frozen=True)
class Published:
    """A published checkpoint in the form in which pictures take ours.

    Attributes:
      flow: Figure 1.
      difference: Figure 2, of two layers.
      attention: Figure 3, None where it was not measured.
      sep: Figure 4, None where it was not measured.
    """

    flow: Flow
    difference: Difference | None
    attention: AttentionHistograms | None
    sep: SepAttention | None


def read_published(said: Mapping[str, Any], measured: Mapping[str, Any]) -> Published:
    """A checkpoint from what was stored of it.

    Args:
      said: its results, in the form of `tabulate`.
      measured: what pictures need and `said` lacks: the input column and the redundant routes of Figure 1,
        and of two layers the counts of Figure 3 and the points of Figure 4.
    """
    for name, given in (("said", said), ("measured", measured)):
        check_kind(name, given, Mapping)
        if not given:
            raise UserError(f"{name} must hold what was stored of a checkpoint, and it is empty")
    graph = Graph(said["list_len"], said["config"]["n_layers"])
    attention, scores = measured.get("attention"), measured.get("sep_scores")
    return Published(
        flow=_flow(graph, said, measured),
        difference=_difference(said["logit_difference"]) if "logit_difference" in said else None,
        attention=attention and _attention(graph, said["n_val_used"], attention),
        sep=scores and _sep(scores),
    )


def _flow(graph: Graph, said: Mapping[str, Any], measured: Mapping[str, Any]) -> Flow:
    found, lens = said["ablation"][PAPER_MODE], said["logit_lens_first_val"]
    accuracies = np.array([edge["accuracy"] for edge in found["edges"]])
    ablation = EdgeAblation(
        mode=PAPER_MODE,
        head=None,
        edges=tuple(Edge(edge["layer"], edge["query"], edge["key"]) for edge in found["edges"]),
        live=np.array([graph.is_live(edge) for edge in graph.edges]),
        accuracy=said["val"]["accuracy"],
        accuracies=accuracies,
        position_accuracies=np.full((len(accuracies), graph.list_len), np.nan),
        tolerance=found["critical_tolerance"],
        accuracy_without_non_critical=found["accuracy_without_non_critical"],
    )
    return Flow(
        title="published checkpoint",
        ablation=ablation,
        patterns=np.array(said["mean_pattern"]),
        lens=np.array([measured["embedding"], *lens["predicted"][1:]]),
        n_digits=said["n_digits"],
        patterns_of=f"mean over {count(said['n_val_used'], 'list')}",
        example=tuple(lens["tokens"][: graph.list_len]),
        alternatives=tuple(
            Alternatives(*(_edges(route[side]) for side in ("first", "second")), route["change"])
            for route in measured["alternatives"]
        ),
    )


def _edges(listed) -> tuple[Edge, ...]:
    return tuple(Edge(*edge) for edge in listed)


def _difference(said: Mapping[str, Any]) -> Difference:
    return Difference(
        n_lists=said["n_examples"],
        base=said["base_l_o1"],
        terms=dict(said["terms"]),
        o2_accuracy=said["o2_accuracy_alpha_unchanged"],
        o2_accuracy_with_alpha={
            (0.0, 1.0): said["o2_accuracy_alpha1_0_alpha2_1"],
            (1.0, 0.0): said["o2_accuracy_alpha1_1_alpha2_0"],
        },
    )


def _attention(graph: Graph, n_lists: int, measured: Mapping[str, Any]) -> AttentionHistograms:
    counts, mean, deviation = (np.array(measured[name]) for name in ("counts", "mean", "deviation"))
    return AttentionHistograms(n_lists, graph, counts, mean, deviation)


def _sep(measured: Mapping[str, Any]) -> SepAttention:
    scores = np.array(measured["scores"])  # [B, 2]
    correct = np.ones(len(scores), bool)
    correct[measured["wrong"]] = False
    gaps = np.abs(scores[:, 0] - scores[:, 1])
    right, wrong = (np.array([[gaps[of].mean()]]) for of in (correct, ~correct))
    return SepAttention(0, scores[:, None], correct, ((0, 1),), right, wrong)
