"""Circuits as plain numbers, lists and dictionaries that JSON can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orderscale_jax.circuits.approximations import Comparison
from orderscale_jax.circuits.games import Circuits, find_circuits, members, moebius
from orderscale_jax.circuits.sampling import SampledShapley, Search
from orderscale_jax.circuits.table import BETTER, CircuitTable, check_measure
from orderscale_jax.errors import UserError, check_kind
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
      `accuracy_by_subset` and the other measures; circuits as lists of indices of edges. Where `found` is of
      another measure than accuracy, `measure` tells it; what is told by output is of the same measure, and
      left out where outputs have none of their own.

    Raises:
      UserError: `found` is not of this table, or a measure does not exist.
    """
    check_kind("table", table, CircuitTable)
    check_kind("found", found, Circuits)
    for measure in measures:
        check_measure(measure)
    worth = BETTER[found.measure] * table.values(found.measure, found.output)
    if (found.graph, found.mode) != (table.graph, table.mode) or not np.array_equal(
        found.moebius, moebius(worth)
    ):
        raise UserError("these circuits are not of this table: give what find_circuits finds in it")
    n_outputs = 0 if found.measure == "list_accuracy" else table.accuracy.shape[1]
    each = [
        find_circuits(table, measure=found.measure, output=i, tolerance=found.tolerance)
        for i in range(n_outputs)
    ]
    by_output = {
        "shapley_by_output": [of.shapley for of in each],
        "minimal_circuits_by_output": [[_indices(of, x) for x in of.minimal] for of in each],
    }
    return plain(
        {
            "edges": table.edges,
            "n_lists": table.n_lists,
            "tolerance": found.tolerance,
            **_measure(found.measure),
            **{f"{name}_by_subset": table.values(name) for name in measures},
            **{f"worst_{name}_by_subset": table.worst[name] for name in measures if len(measures) > 1},
            "shapley": found.shapley,
            **(by_output if each else {}),
            "interactions": found.interactions,
            "pairs": found.pairs,
            "minimal_circuits": [_indices(found, x) for x in found.minimal],
            "smallest_circuits": [_indices(found, x) for x in found.smallest],
            "damaging_cuts": [_indices(found, x) for x in found.damaging],
        }
    )


def tabulate_comparison(found: Comparison) -> dict[str, Any]:
    """Rankings of one mode and their marks, by method; with them `random` and `best`."""
    check_kind("found", found, Comparison)
    marks = {
        name: vars(of) | {"mean_regret": of.mean_regret, "max_regret": of.max_regret}
        for name, of in found.all_marks.items()
    }
    scores = dict(zip(found.methods, found.scores, strict=True))
    return plain({"metric": found.metric, "measure": found.measure, "scores": scores, "marks": marks})


def tabulate_samples(shapley: SampledShapley, search: Search) -> dict[str, Any]:
    """One mode of `sampled_circuit`, for models with too many edges.

    Where the measure is not accuracy, `measure` tells it. The worth of sets (`intact`, `empty`, `shapley`) is
    the negative of `loss` and `kl`.

    Raises:
      UserError: the two are not of the same graph, mode and measure.
    """
    check_kind("shapley", shapley, SampledShapley)
    check_kind("search", search, Search)
    for name in ("graph", "mode", "measure"):
        ours, theirs = getattr(shapley, name), getattr(search, name)
        if ours != theirs:
            raise UserError(
                f"samples and a search go together if their {name} is the same; got {ours} and {theirs}"
            )
    return plain(
        {
            "edges": shapley.graph.live_edges,
            **_measure(search.measure),
            "n_orders": shapley.n_orders,
            "shapley": shapley.shapley,
            "standard_error": shapley.standard_error,
            "intact": shapley.intact,
            "empty": shapley.empty,
            "search": search.how,
            "tolerance": search.tolerance,
            "circuits": [[i for i, kept in enumerate(row) if kept] for row in search.found],
            f"circuits_{search.measure}": BETTER[search.measure] * search.worth,
        }
    )


def _measure(measure: str) -> dict[str, str]:
    return {} if measure == "accuracy" else {"measure": measure}


def _indices(found: Circuits, index: int) -> list[int]:
    return members(index, len(found.graph.live_edges))
