"""Circuits of models with too many edges for a table of all sets: samples and searches, marked as such.

Dimensions: E live edges, M orders, K sets.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from orderscale_jax.circuits.checks import check_edges, check_seed, check_task, whole_number
from orderscale_jax.circuits.games import check_tolerance, is_sufficient
from orderscale_jax.circuits.table import BETTER, Progress, check_measure, score_sets
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.graph import Graph
from orderscale_jax.model import ListTransformer
from orderscale_jax.printing import Printable

SETS_AT_ONCE = 4096  # in one table, so that its memory is bounded
MOST_SETS = 2**20  # of a search


@dataclasses.dataclass(frozen=True, repr=False)
class SampledShapley(Printable):
    """Estimates of Shapley values from random orders of the edges.

    Attributes:
      graph, mode, measure: what was estimated.
      n_orders: M.
      shapley: float [E], the mean gain of adding each edge to those before it; unbiased.
      standard_error: float [E], of these means.
      intact, empty: the worth of all edges and of none; the estimates sum to their difference.
    """

    graph: Graph
    mode: str
    measure: str
    n_orders: int
    shapley: np.ndarray
    standard_error: np.ndarray
    intact: float
    empty: float

    def table(self) -> str:
        """A line per edge: the estimate and its standard error."""
        rows = [(f"edge ({self.mode}, {self.measure}), {self.n_orders:,} orders", "Shapley value", "error")]
        for edge, *found in zip(self.graph.live_edges, self.shapley, self.standard_error, strict=True):
            rows.append((self.graph.label(edge), *(number(x, 4) for x in found)))
        return columns(rows)


@dataclasses.dataclass(frozen=True, repr=False)
class Search(Printable):
    """Sufficient sets of edges that a search found.

    Attributes:
      graph, mode, measure, tolerance: what was searched for, see `games.Circuits`.
      how: what the search can and cannot promise, in words.
      n_sets: sets of edges that were tried.
      intact: the worth of all edges.
      found: bool [K, E], the edges that each set keeps.
      worth: float [K], theirs.
    """

    graph: Graph
    mode: str
    measure: str
    tolerance: float
    how: str
    n_sets: int
    intact: float
    found: np.ndarray
    worth: np.ndarray

    def table(self) -> str:
        """A line per set: its edges and its worth."""
        worth = percent if self.measure.endswith("accuracy") else number
        rows = [(f"{self.how}; {self.n_sets:,} sets tried", self.measure), ("all edges", worth(self.intact))]
        for kept, value in zip(self.found, self.worth, strict=True):
            edges = [edge for edge, is_kept in zip(self.graph.live_edges, kept, strict=True) if is_kept]
            rows.append((", ".join(map(self.graph.label, edges)) or "no edge", worth(value)))
        return columns(rows)


def sample_shapley(
    model: ListTransformer,
    lists,
    n_orders: int,
    mode: str = "renormalize",
    *,
    measure: str = "accuracy",
    seed: int = 0,
    progress: Progress | None = None,
) -> SampledShapley:
    """Estimates the Shapley value of every live edge from `n_orders` random orders (Castro et al., 2009).

    Args:
      model, lists, mode: as for `circuits.circuit_table`.
      n_orders: each takes E + 1 passes over the lists, less what orders share.
      measure: what sets are worth; the negative of `loss` and `kl`.
      seed: of the orders, and of what `resample` draws.
      progress: called with the orders done and their number.

    Raises:
      UserError: as `score_sets` does, there are fewer than two orders, which a standard error needs, or there
        is no live edge.
    """
    lists = _checked(model, lists, measure)
    n_orders, seed = whole_number("n_orders", n_orders, 2), check_seed(seed)
    graph, rng = model.config.graph, np.random.default_rng(seed)
    E = len(graph.live_edges)
    per_table = max(1, SETS_AT_ONCE // (E + 1))
    mean, squares = np.zeros(E), np.zeros(E)  # squares of what gains differ from their mean by
    for start in range(0, n_orders, per_table):
        orders = np.argsort(rng.random((min(per_table, n_orders - start), E)), axis=1)
        place = np.argsort(orders, axis=1)  # of each edge in its order
        kept = place[:, None] < np.arange(E + 1)[:, None]  # [m, E + 1, E]
        values = BETTER[measure] * score_sets(model, lists, kept.reshape(-1, E), mode, seed=seed).values(
            measure
        )
        values = values.reshape(len(orders), E + 1)
        gains = np.take_along_axis(np.diff(values), place, axis=1)
        done = start + len(orders)
        step = gains.mean(0) - mean
        mean = mean + step * len(orders) / done
        squares += ((gains - gains.mean(0)) ** 2).sum(0) + step**2 * start * len(orders) / done
        if progress is not None:
            progress(done, n_orders)
    return SampledShapley(
        graph=graph,
        mode=mode,
        measure=measure,
        n_orders=n_orders,
        shapley=mean,
        standard_error=np.sqrt(squares / (n_orders - 1) / n_orders),
        intact=float(values[0, -1]),
        empty=float(values[0, 0]),
    )


def greedy_circuit(
    model: ListTransformer,
    lists,
    mode: str = "renormalize",
    *,
    measure: str = "accuracy",
    tolerance: float = 0.01,
    seed: int = 0,
) -> Search:
    """Cuts, as long as the rest is sufficient, the edge whose cut leaves the most.

    No single edge of what is left can be cut any more; smaller circuits may exist.

    Raises:
      UserError: as `score_sets` does, the tolerance is not valid, or there is no live edge.
    """
    lists = _checked(model, lists, measure)
    check_tolerance(tolerance, measure)
    graph = model.config.graph
    kept, n_sets = np.ones(len(graph.live_edges), bool), 1

    def worth(sets):
        return BETTER[measure] * score_sets(model, lists, sets, mode, seed=seed).values(measure)

    intact = value = float(worth(kept[None])[0])
    while kept.any():
        cuts = np.flatnonzero(kept)
        candidates = np.repeat(kept[None], len(cuts), 0)
        candidates[np.arange(len(cuts)), cuts] = False
        values = worth(candidates)
        n_sets += len(cuts)
        best = int(values.argmax())
        if not is_sufficient(values[best], intact, tolerance):
            break
        kept, value = candidates[best], float(values[best])
    how = "greedy: edges are cut one by one, and smaller circuits may exist"
    return Search(graph, mode, measure, tolerance, how, n_sets, intact, kept[None], np.array([value]))


def search_circuits(
    model: ListTransformer,
    lists,
    most_edges: int,
    mode: str = "renormalize",
    *,
    measure: str = "accuracy",
    tolerance: float = 0.01,
    seed: int = 0,
    progress: Progress | None = None,
) -> Search:
    """Tries every set of at most `most_edges` live edges; finds all minimal circuits of that size or less.

    Raises:
      UserError: as `score_sets` does, the tolerance is not valid, there are too many such sets, or there is
        no live edge.
    """
    lists = _checked(model, lists, measure)
    check_tolerance(tolerance, measure)
    graph = model.config.graph
    E = len(graph.live_edges)
    most_edges = whole_number("most_edges", most_edges, 0, E)
    n_sets = sum(math.comb(E, k) for k in range(most_edges + 1))
    if n_sets > MOST_SETS:
        raise UserError(
            f"there are {n_sets:,} sets of at most {most_edges} of {E} edges, and {MOST_SETS:,} are tried at "
            "most: give a smaller most_edges, or take greedy_circuit"
        )
    every = itertools.chain.from_iterable(itertools.combinations(range(E), k) for k in range(most_edges + 1))
    full = score_sets(model, lists, np.ones((1, E), bool), mode, seed=seed)
    intact = float(BETTER[measure] * full.values(measure)[0])
    found: list[np.ndarray] = []
    worth: list[float] = []
    done = 0
    while chunk := list(itertools.islice(every, SETS_AT_ONCE)):
        kept = np.zeros((len(chunk), E), bool)
        for row, edges in zip(kept, chunk, strict=True):
            row[list(edges)] = True
        values = BETTER[measure] * score_sets(model, lists, kept, mode, seed=seed).values(measure)
        for i in np.flatnonzero(is_sufficient(values, intact, tolerance)):  # smaller sets come first
            if not any((kept[i] >= smaller).all() for smaller in found):
                found.append(kept[i])
                worth.append(float(values[i]))
        done += len(chunk)
        if progress is not None:
            progress(done, n_sets)
    how = f"exact: all minimal circuits of at most {most_edges} edges"
    sets = np.array(found, bool).reshape(-1, E)
    return Search(graph, mode, measure, tolerance, how, n_sets + 1, intact, sets, np.array(worth))


def _checked(model, lists, measure: str) -> np.ndarray:
    """The lists as an array, if there are edges to draw and a measure of what they are worth."""
    check_measure(measure)
    lists = check_task(model, lists)
    check_edges(model.config.graph)
    return lists
