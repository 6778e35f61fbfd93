"""Circuits as plain numbers, lists and dictionaries that JSON can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orderscale_jax.circuits.approximations import Comparison
from orderscale_jax.circuits.games import Circuits, find_circuits
from orderscale_jax.circuits.sampling import SampledShapley, Search
from orderscale_jax.circuits.table import CircuitTable
from orderscale_jax.files import plain


def tabulate_circuits(
    table: CircuitTable, found: Circuits, measures: Sequence[str] = ("accuracy",)
) -> dict[str, Any]:
    """One mode of `exact_circuit` in `results.json`.

    Args:
      table: complete.
      found: of that table.
      measures: of which to tell what every set has, and what its worst list has.

    Returns:
      `edges` [[layer, query, key], …]; by index of a set, whose bit i means that edge i is kept,
      `accuracy_by_subset` and the other measures; circuits as lists of indices of edges.
    """
    n_outputs = table.accuracy.shape[1]
    each = [find_circuits(table, output=i, tolerance=found.tolerance) for i in range(n_outputs)]
    return plain(
        {
            "edges": table.edges,
            "n_lists": table.n_lists,
            "tolerance": found.tolerance,
            **{f"{name}_by_subset": table.values(name) for name in measures},
            **{f"worst_{name}_by_subset": table.worst[name] for name in measures if len(measures) > 1},
            "shapley": found.shapley,
            "shapley_by_output": [of.shapley for of in each],
            "interactions": found.interactions,
            "pairs": found.pairs,
            "minimal_circuits": [_indices(found, x) for x in found.minimal],
            "minimal_circuits_by_output": [[_indices(of, x) for x in of.minimal] for of in each],
            "smallest_circuits": [_indices(found, x) for x in found.smallest],
            "damaging_cuts": [_indices(found, x) for x in found.damaging],
        }
    )


def tabulate_comparison(found: Comparison) -> dict[str, Any]:
    """Rankings of one mode and their marks, by method; with them `random` and `best`."""
    named = zip((*found.methods, "random", "best"), (*found.marks, found.random, found.best), strict=True)
    marks = {
        name: vars(of) | {"mean_regret": of.mean_regret, "max_regret": of.max_regret} for name, of in named
    }
    scores = dict(zip(found.methods, found.scores, strict=True))
    return plain({"metric": found.metric, "measure": found.measure, "scores": scores, "marks": marks})


def tabulate_samples(shapley: SampledShapley, search: Search) -> dict[str, Any]:
    """One mode of `sampled_circuit`, for models with too many edges."""
    return plain(
        {
            "edges": shapley.graph.live_edges,
            "n_orders": shapley.n_orders,
            "shapley": shapley.shapley,
            "standard_error": shapley.standard_error,
            "intact": shapley.intact,
            "empty": shapley.empty,
            "search": search.how,
            "tolerance": search.tolerance,
            "circuits": [[i for i, kept in enumerate(row) if kept] for row in search.found],
            "circuits_accuracy": search.worth,
        }
    )


def _indices(found: Circuits, index: int) -> list[int]:
    return [i for i in range(len(found.graph.live_edges)) if index >> i & 1]
