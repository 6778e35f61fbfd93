"""Edges as players of a cooperative game: what each set of them is worth says who matters, and how together.

A game is an array [2^E] of the worth of every set, bit e of the index telling that edge e is in it (as
`CircuitTable.values` gives it); `as_game` refuses what is not a game. Sums over subsets take E passes over
the array, so everything here is exact and quick up to 16 edges.

Sources: Shapley (1953); the interaction index of Grabisch and Roubens (1999); Moebius transform as in Rota
(1964), whose coefficients are also called Harsanyi dividends.
"""

from __future__ import annotations

import dataclasses
import numbers

import numpy as np

from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.circuits.table import BETTER, CircuitTable, check_measure
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, number
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.printing import Printable

LARGEST = 1e100  # worth of a set, either sign
ROUNDING = 1e-9  # a set that loses just the tolerance is sufficient, however it is rounded


@dataclasses.dataclass(frozen=True, repr=False)
class Circuits(Printable):
    """What a complete table says about the circuits in a model.

    Attributes:
      graph, mode: of the table.
      measure, output: what the sets are worth: a measure, of one output or (None) of all.
      tolerance: a set of edges is sufficient if it is worse than the intact model by this at most.
      intact, empty: the worth of all edges and of none.
      minimal: indices of the sufficient sets of which no proper subset is sufficient, smallest first.
      smallest: those of them with the fewest edges.
      damaging: minimal damaging cuts, as indices: the rest is not sufficient if such a set is cut, and still
        sufficient if any proper subset of it is cut.
      shapley: float [E], the Shapley value of each edge.
      interactions: float [E, E], the Shapley interaction index of each pair; 0 on the diagonal.
      moebius: float [2^E], what a set is worth beyond all its proper subsets together.
      pairs: how many pairs of edges are of each kind, see `pair_kinds`.
    """

    graph: Graph
    mode: str
    measure: str
    output: int | None
    tolerance: float
    intact: float
    empty: float
    minimal: tuple[int, ...]
    smallest: tuple[int, ...]
    damaging: tuple[int, ...]
    shapley: np.ndarray
    interactions: np.ndarray
    moebius: np.ndarray
    pairs: dict[str, int]

    def edges_of(self, index: int) -> tuple[Edge, ...]:
        """The edges of a set that is given as its index."""
        edges = self.graph.live_edges
        return tuple(edges[e] for e in members(index, len(edges)))

    def names_of(self, index: int) -> str:
        """The same in words."""
        return ", ".join(map(self.graph.label, self.edges_of(index))) or "no edge"

    def table(self) -> str:
        """Shapley values, then the minimal circuits and the smallest sets whose loss does damage."""
        rows = [(f"edge ({self.mode}, {self.measure})", "Shapley value")]
        rows += [
            (self.graph.label(e), number(x, 4))
            for e, x in zip(self.graph.live_edges, self.shapley, strict=True)
        ]
        rows.append(("all edges less none", number(self.intact - self.empty, 4)))
        minimal = [self.names_of(x) for x in self.minimal]
        damaging = [self.names_of(x) for x in self.damaging]
        return "\n".join(
            [
                columns(rows),
                f"minimal circuits within {self.tolerance:g}: {len(minimal)}",
                *(f"  {x}" for x in minimal),
                f"minimal damaging cuts: {len(damaging)}",
                *(f"  {x}" for x in damaging),
                "pairs: " + ", ".join(f"{count} {kind}" for kind, count in self.pairs.items()),
            ]
        )


def find_circuits(
    table: CircuitTable, *, measure: str = "accuracy", output: int | None = None, tolerance: float = 0.01
) -> Circuits:
    """Minimal circuits, damaging cuts, Shapley values and interactions of a complete table.

    Of measures that grow as a model gets worse (`loss`, `kl`) the negative is what a set is worth.

    Raises:
      UserError: the table is not complete, the measure or output does not exist, or the tolerance is not in
        [0, 1) for accuracies, or below 0 for others.
    """
    check_kind("table", table, CircuitTable)
    check_measure(measure)
    check_tolerance(tolerance, measure)
    if not table.is_complete:
        raise UserError("circuits are found in a table of all sets of edges, as circuit_table gives it")
    values = BETTER[measure] * table.values(measure, output)
    sufficient = is_sufficient(values, values[-1], tolerance)
    minimal = minimal_sets(sufficient)
    fewest = min(map(int.bit_count, minimal))
    return Circuits(
        graph=table.graph,
        mode=table.mode,
        measure=measure,
        output=output,
        tolerance=tolerance,
        intact=float(values[-1]),
        empty=float(values[0]),
        minimal=minimal,
        smallest=tuple(x for x in minimal if x.bit_count() == fewest),
        damaging=minimal_sets(~sufficient[::-1]),  # the last row, without any cut, becomes the first
        shapley=shapley_values(values),
        interactions=interactions(values),
        moebius=moebius(values),
        pairs=pair_kinds(values, tolerance),
    )


def is_sufficient(values, intact: float, tolerance: float):
    """Whether sets of this worth lose the tolerance at most against all edges, however that is rounded."""
    return values >= intact - tolerance - ROUNDING


def members(index: int, n_edges: int) -> list[int]:
    """The edges in a set that is given as its index."""
    return [e for e in range(n_edges) if index >> e & 1]


def check_tolerance(tolerance: float, measure: str = "accuracy"):
    """UserError unless a tolerance is one: in [0, 1) for accuracies, 0 or more for other measures."""
    fraction = measure.endswith("accuracy")
    real = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    if not real or not 0 <= tolerance < (1 if fraction else np.inf):
        wanted = "a fraction from 0 to below 1" if fraction else "a number, 0 or more"
        raise UserError(f"tolerance must be {wanted} for {measure}; got {tolerance!r}")


def as_game(values) -> np.ndarray:
    """A game as a new float64 array [2^E]; UserError unless there is a number up to 1e100 for each set."""
    found = real_numbers("a game", values)
    if (np.abs(found) > LARGEST).any():  # sums of it are to be finite
        raise UserError(f"a game must hold numbers up to {LARGEST:g}, and one is {np.abs(found).max():g}")
    if found.ndim != 1 or not len(found) or len(found) & (len(found) - 1):
        raise UserError(f"a game is an array with a value for each of 2^E sets, got {list(found.shape)}")
    return found


def count_edges(game: np.ndarray) -> int:
    """E of a game [2^E]."""
    return len(game).bit_length() - 1


def minimal_sets(wanted: np.ndarray) -> tuple[int, ...]:
    """Indices of the sets with `wanted` [2^E] of which no proper subset has it, smallest first."""
    wanted = as_game(wanted) != 0
    n_edges, below = count_edges(wanted), wanted.copy()  # whether the set or a subset of it is wanted
    for axis in _axes(below, n_edges):
        axis[:, 1] |= axis[:, 0]
    indices = np.arange(len(wanted))
    minimal = wanted.copy()
    for e in range(n_edges):
        has = indices >> e & 1 == 1
        minimal[has] &= ~below[indices[has] ^ (1 << e)]
    return tuple(sorted(map(int, np.flatnonzero(minimal)), key=lambda x: (x.bit_count(), x)))


def moebius(values: np.ndarray) -> np.ndarray:
    """The Moebius transform [2^E]: `values[S]` is its sum over all subsets of S."""
    out = as_game(values)
    for axis in _axes(out, count_edges(out)):
        axis[:, 1] -= axis[:, 0]
    return out


def inverse_moebius(dividends: np.ndarray) -> np.ndarray:
    """The game [2^E] whose Moebius transform is given."""
    out = as_game(dividends)
    for axis in _axes(out, count_edges(out)):
        axis[:, 1] += axis[:, 0]
    return out


def shapley_values(values: np.ndarray) -> np.ndarray:
    """Shapley values [E]: each set's dividend, shared equally by its edges."""
    dividends = moebius(values)
    n_edges = count_edges(dividends)
    share = dividends / np.maximum(_sizes(n_edges), 1)
    return np.array([share[_holding(n_edges, e)].sum() for e in range(n_edges)])


def interactions(values: np.ndarray) -> np.ndarray:
    """Shapley interaction indices [E, E]: what a pair is worth beyond its two edges, averaged over sets.

    Above 0 the edges need each other, below 0 one can replace the other.
    """
    dividends = moebius(values)
    n_edges = count_edges(dividends)
    share = dividends / np.maximum(_sizes(n_edges) - 1, 1)
    out = np.zeros((n_edges, n_edges))
    for i in range(n_edges):
        for j in range(i):
            both = _holding(n_edges, i) & _holding(n_edges, j)
            out[i, j] = out[j, i] = share[both].sum()
    return out


def pair_kinds(values: np.ndarray, tolerance: float) -> dict[str, int]:
    """How many pairs of edges are of each kind when they are cut from the intact model.

    `or`: cutting both costs more than the two cuts alone together, by more than the tolerance: one edge can
    replace the other. `and`: it costs less, by more than that: each is needed for what the other does.
    `additive`: neither, and cutting both costs more than the tolerance. `idle`: it costs no more.

    Raises:
      UserError: the game is not valid, or the tolerance is not a number, 0 or more.
    """
    values = as_game(values)
    check_tolerance(tolerance, "a game")
    n_edges, full = count_edges(values), len(values) - 1
    kinds = dict.fromkeys(("and", "or", "additive", "idle"), 0)
    for i in range(n_edges):
        for j in range(i):
            first, second, both = (values[full] - values[full ^ x] for x in (1 << i, 1 << j, 1 << i | 1 << j))
            if both > first + second + tolerance + ROUNDING:
                kinds["or"] += 1
            elif both < first + second - tolerance - ROUNDING:
                kinds["and"] += 1
            else:
                kinds["additive" if both > tolerance + ROUNDING else "idle"] += 1
    return kinds


def _axes(values: np.ndarray, n_edges: int):
    """For each edge a view [..., 2, ...] whose second axis is without and with it."""
    return (values.reshape(2 ** (n_edges - e - 1), 2, 2**e) for e in range(n_edges))


def _sizes(n_edges: int) -> np.ndarray:
    return np.array([x.bit_count() for x in range(2**n_edges)])


def _holding(n_edges: int, edge: int) -> np.ndarray:
    return np.arange(2**n_edges) >> edge & 1 == 1
