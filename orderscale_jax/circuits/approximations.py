"""Cheap rankings of edges next to the exact ones.

What needs only the worth of some sets is a function of a game, an array [2^E] as in `circuits.games`, larger
is better; what needs gradients is in `circuits.attribution`. `compare` judges all of them by one table.

Sources: Conmy et al. 2023 (ACDC, arXiv 2304.14997), Lundberg and Lee 2017 (arXiv 1705.07874).

Dimensions: E live edges, M methods.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.linalg import null_space

from orderscale_jax.circuits import attribution, scoring
from orderscale_jax.circuits.checks import check_edges, check_seed, check_task, whole_number
from orderscale_jax.circuits.games import as_game, check_tolerance, count_edges, find_circuits, shapley_values
from orderscale_jax.circuits.scoring import Marks
from orderscale_jax.circuits.table import BETTER, CircuitTable, check_measure, score_sets
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, number, significant
from orderscale_jax.graph import Graph
from orderscale_jax.model import ListTransformer
from orderscale_jax.printing import Printable

KERNEL_SAMPLES = 128  # sets that `compare` lets Kernel SHAP draw
SAME = 1e-3  # how far nats and logits may differ, also relatively, between two devices


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Printable):
    """How good the rankings of edges by several methods are.

    Attributes:
      graph, mode: of the table.
      metric: what is differentiated.
      measure: what sets are worth in the game in which rankings are judged.
      tolerance: of the minimal circuits, in accuracy.
      methods: names of M functions, of this module, `attribution` and `games`.
      scores: float [M, E], larger is more important.
      marks: of each method.
      random: what a ranking drawn at random has on average.
      best: what the best sets of each size have.
    """

    graph: Graph
    mode: str
    metric: str
    measure: str
    tolerance: float
    methods: tuple[str, ...]
    scores: np.ndarray
    marks: tuple[Marks, ...]
    random: Marks
    best: Marks

    @property
    def all_marks(self) -> dict[str, Marks]:
        """Those of every method, then `random` and `best`."""
        return dict(zip(self.methods, self.marks, strict=True)) | {"random": self.random, "best": self.best}

    def table(self) -> str:
        """A method in each row, with its marks."""
        head = ("CPR", "CMD", "AUROC", "Spearman", "mean regret", "max regret")
        rows = [(f"ranking ({self.mode}, {self.measure})", *head)]
        for name, marks in self.all_marks.items():
            whole = (number(x, 3) for x in (marks.cpr, marks.cmd, marks.auroc, marks.spearman))
            label = "best of each size" if name == "best" else name
            rows.append((label, *whole, significant(marks.mean_regret, 3), significant(marks.max_regret, 3)))
        return columns(rows)


def compare(
    model: ListTransformer,
    lists,
    table: CircuitTable,
    *,
    metric: str = "logit_difference",
    measure: str | None = None,
    tolerance: float = 0.01,
) -> Comparison:
    """Ranks the edges by every method and judges the rankings by a complete table.

    Args:
      model, lists: those of the table.
      table: as `circuit_table` gives it, in the mode in which edges are to be cut; its seed is that of all
        that is drawn.
      metric: what methods with gradients differentiate, one of `attribution.METRICS`.
      measure: what sets are worth, to the other methods and to all marks but AUROC; None for the metric.
      tolerance: minimal circuits, whose edges AUROC asks for, lose this much accuracy at most.

    Raises:
      UserError: the table is not complete or not of this model and these lists, a name does not exist, or the
        model has no live edge.
    """
    check_kind("table", table, CircuitTable)
    attribution.check_metric(metric)
    measure = metric if measure is None else measure
    check_measure(measure)
    check_tolerance(tolerance)
    lists = check_task(model, lists)
    check_edges(model.config.graph)
    _check_same(model, lists, table)
    circuits = find_circuits(table, tolerance=tolerance)
    values = BETTER[measure] * table.values(measure)
    scores = {
        "single_edge": single_edge(values),
        "greedy_pruning": greedy_pruning(values),
        "greedy_backward": greedy_backward(values),
        "kernel_shap": kernel_shap(values, KERNEL_SAMPLES, table.seed),
        "shapley_values": shapley_values(values),
    }
    for method in (
        attribution.edge_attribution,
        attribution.integrated_inputs,
        attribution.integrated_activations,
        attribution.learned_masks,
    ):
        scores[method.__name__] = method(model, lists, table.mode, metric=metric, seed=table.seed)
    members = scoring.in_minimal(circuits.minimal, len(table.edges))
    return Comparison(
        graph=table.graph,
        mode=table.mode,
        metric=metric,
        measure=measure,
        tolerance=tolerance,
        methods=tuple(scores),
        scores=np.stack(list(scores.values())),
        marks=tuple(scoring.mark_ranking(x, values, members) for x in scores.values()),
        random=scoring.random_marks(values, members),
        best=scoring.best_marks(values),
    )


def _check_same(model: ListTransformer, lists: np.ndarray, table: CircuitTable):
    """UserError unless the model does on the lists what the table says of all edges and of none."""
    fits = table.graph == model.config.graph and table.n_lists == len(lists) and table.is_complete
    if fits:
        ends = [-1, 0]
        found = score_sets(model, lists, table.kept[ends], table.mode, seed=table.seed)
        fits = all(
            np.allclose(ours, theirs[ends], rtol=SAME, atol=SAME)
            for name in ("loss", "logit_difference")
            for ours, theirs in (
                (getattr(found, name), getattr(table, name)),
                (found.worst[name], table.worst[name]),
            )
        )
    if not fits:
        raise UserError(
            "the table is not of this model and these lists, or not of all sets: make it anew with "
            "circuit_table"
        )


def single_edge(values: np.ndarray) -> np.ndarray:
    """The worth of all edges less that of all but one, [E]: ablation of single edges."""
    values = as_game(values)
    n_edges, full = count_edges(values), len(values) - 1
    return values[full] - values[full ^ (1 << np.arange(n_edges))]


def greedy_pruning(values: np.ndarray) -> np.ndarray:
    """The threshold [E] at which pruning from the outputs back loses each edge (ACDC, Conmy et al. 2023).

    For a threshold tau the edges are gone through once, from the last of the graph to the first, so by layer
    from the last to the first, and within a layer from the last query and key to the first. An edge is
    removed for good if what is then left is worth less than what was there before by tau at most. The run
    for tau is the same up to the next difference above tau that it met, so that the sweep tries these in
    turn, from minus infinity on until everything is removed. An edge's score is the smallest threshold at
    which it goes, even if it stays at a larger one. A score below 0 is that of an edge whose removal helps.
    """
    values = as_game(values)
    n_edges = count_edges(values)
    scores, tau = np.full(n_edges, np.inf), -np.inf
    while True:
        kept, ahead = len(values) - 1, []
        for e in reversed(range(n_edges)):
            cost = values[kept] - values[kept ^ 1 << e]
            if cost <= tau:
                kept ^= 1 << e
                scores[e] = min(scores[e], tau)
            else:
                ahead.append(cost)
        if not ahead:
            return scores
        tau = min(ahead)


def greedy_backward(values: np.ndarray) -> np.ndarray:
    """The step 0 … E-1 at which each edge goes, [E], if every step removes what costs least.

    Of edges that cost the same the last goes first, as rankings put the first of equals first.
    """
    values = as_game(values)
    n_edges, kept = count_edges(values), len(values) - 1
    scores = np.zeros(n_edges)
    for step in range(n_edges):
        left = [e for e in reversed(range(n_edges)) if kept >> e & 1]
        gone = max(left, key=lambda e: values[kept ^ 1 << e])
        scores[gone], kept = step, kept ^ 1 << gone
    return scores


def kernel_shap(values: np.ndarray, n_samples: int | None = None, seed: int = 0) -> np.ndarray:
    """Shapley values [E] by weighted least squares (Kernel SHAP, Lundberg and Lee 2017).

    Of all weights of edges that add up to what all edges are worth beyond none, those whose sums over sets
    come closest to what the sets are worth. With all sets these are the Shapley values exactly.

    Args:
      n_samples: sets to draw with replacement, as often as their weight in the squares tells; None, or as
        many as there are sets but none and all, takes each of them once.
      seed: of the drawing.

    Raises:
      UserError: no set is to be drawn, or the seed is not valid.
    """
    values, seed = as_game(values), check_seed(seed)
    n_edges, full = count_edges(values), len(values) - 1
    if n_samples is not None:
        n_samples = whole_number("n_samples", n_samples, 1)
    worth = values[full] - values[0]
    if n_edges < 2:
        return np.full(n_edges, worth)
    sets = np.arange(1, full)
    sizes = np.bitwise_count(sets).astype(int)
    many = np.array([math.comb(n_edges, k) for k in range(n_edges + 1)])
    weights = 1.0 / (many[sizes] * sizes * (n_edges - sizes))
    if n_samples is not None and n_samples < len(sets):
        drawn = np.random.default_rng(seed).choice(len(sets), n_samples, p=weights / weights.sum())
        sets, weights = sets[drawn], np.ones(n_samples)
    held = (sets[:, None] >> np.arange(n_edges) & 1).astype(float)
    free = null_space(np.ones((1, n_edges)))  # directions in which the sum does not change
    off, root = values[sets] - values[0] - held.sum(1) * worth / n_edges, np.sqrt(weights)
    found, *_ = np.linalg.lstsq(root[:, None] * held @ free, root * off)
    return worth / n_edges + free @ found
