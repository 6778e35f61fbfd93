"""Redundant routes: edges of which none is needed alone, but one of two sets is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from orderscale_jax.circuits import minimal_sets
from orderscale_jax.circuits.games import as_game, check_tolerance, is_sufficient, members
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Edge


@dataclasses.dataclass(frozen=True)
class Alternatives:
    """Two routes of which a model needs one.

    Cutting any one edge costs at most the tolerance, cutting an edge of each route costs more.

    Attributes:
      first, second: the edges of each route.
      change: of accuracy when both routes are cut.
    """

    first: tuple[Edge, ...]
    second: tuple[Edge, ...]
    change: float

    @property
    def edges(self) -> tuple[Edge, ...]:
        return self.first + self.second


def alternatives(
    edges: Sequence[Edge], accuracies: np.ndarray, *, tolerance: float = 0.01
) -> tuple[Alternatives, ...]:
    """The redundant routes among E edges, the costliest first; no edge is in two of them.

    They are made of the pairs of edges that it takes to damage the model: cutting both costs more than the
    tolerance, cutting one does not. Pairs that share edges are one pair of routes if every edge of one side
    is in such a pair with every edge of the other side; else only the costliest of them is told.

    Args:
      edges: [E].
      accuracies: [2^E], of every set of edges, as `circuits.CircuitTable.values` gives them.
      tolerance: of accuracy, as of a critical edge.

    Raises:
      UserError: there is not one accuracy for every set, or the tolerance is no fraction.
    """
    values, n_edges = as_game(accuracies), len(edges)
    check_tolerance(tolerance)
    if len(values) != 2**n_edges:
        raise UserError(f"{n_edges} edges have {2**n_edges} sets; got {len(values)} accuracies")

    def change(cut: Iterable[int]) -> float:
        left = len(values) - 1 - sum(1 << e for e in set(cut))
        return float(values[left] - values[-1])

    damages = ~is_sufficient(values[::-1], values[-1], tolerance)  # by the edges that are cut
    pairs = [tuple(members(cut, n_edges)) for cut in minimal_sets(damages) if cut.bit_count() == 2]
    routes = []
    for together in _connected(pairs):
        sides = _sides(together)
        both = sum(1 << e for e in sum(sides, ()))
        if not (_is_complete(together, sides) and damages[both]):
            first, second = min(together, key=change)
            sides = (first,), (second,)
        routes.append((change(sum(sides, ())), sides))
    return tuple(
        Alternatives(*(tuple(edges[e] for e in side) for side in sides), cost)
        for cost, sides in sorted(routes)
    )


def _connected(pairs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The pairs, those together that hang together."""
    groups: list[list[tuple[int, int]]] = []
    for pair in pairs:
        touching = [group for group in groups if any(set(pair) & set(other) for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([*itertools.chain(*touching), pair])
    return groups


def _sides(pairs: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first edge and all that are in no pair with it, and those that are; each in order."""
    one = min(pairs)[0]
    edges = set(itertools.chain(*pairs))
    other = {e for pair in pairs if one in pair for e in pair} - {one}
    return tuple(sorted(edges - other)), tuple(sorted(other))


def _is_complete(pairs: list[tuple[int, int]], sides: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Whether the pairs are just those of an edge of one side and an edge of the other."""
    return set(pairs) == {tuple(sorted(pair)) for pair in itertools.product(*sides)}
