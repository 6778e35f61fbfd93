"""A census of circuits: does what is found in one model hold for others that were trained alike?

`examine` says of one model what its exact tables hold. `summarize` compares what was said: of models with
other seeds, of the same model on resampled lists, with other meanings of a cut, and, where a cut edge gets
the message of another list, with others drawn.

Similarity of two circuits is their Jaccard index, edges in both by edges in either. A model has several
minimal circuits; its *first* one is the most accurate of the smallest, as one would report it.

Dimensions: B lists, K = 2^E sets of E live edges, R resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from orderscale_jax.analysis.order import is_in_positions
from orderscale_jax.circuits import CircuitTable, checks, circuit_table, minimal_sets, shapley_values
from orderscale_jax.circuits.games import check_tolerance, count_edges, is_sufficient, members
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.files import plain
from orderscale_jax.model import ListTransformer

Row = Mapping[str, Any]  # what `examine` gives
Circuits = Sequence[Sequence[int]]  # minimal ones, the first one first, each as indices of live edges


def examine(
    model: ListTransformer,
    lists,
    modes: Sequence[str],
    *,
    tolerance: float = 0.01,
    n_resamples: int = 20,
    n_draws: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """What the exact tables of one model say, by meaning of a cut, as JSON can hold it.

    Args:
      model: with few enough edges for `circuit_table`.
      lists: digits [B, n].
      modes: meanings of a cut.
      tolerance: of accuracy, see `find_circuits`.
      n_resamples: R, how often B lists are drawn from the lists, with replacement.
      n_draws: how often `resample` draws its messages anew.
      seed: of what is drawn; the draws have those after it.

    Returns:
      By mode: `accuracy` intact, `minimal` circuits, `shapley` values; of the resamples of lists
      (`resampled`) and of the further draws of messages (`redrawn`, empty in other modes) the `minimal`
      circuits of each.

    Raises:
      UserError: as `circuit_table` does, the tolerance is not in [0, 1), or another number is below 0.
    """
    seed = checks.check_seed(seed)
    for name, value in {"n_resamples": n_resamples, "n_draws": n_draws}.items():
        checks.whole_number(name, value, 0)
    check_tolerance(tolerance)
    if not modes:
        raise UserError("a model is examined with one meaning of a cut at least, and none is given")

    def minimal(values: np.ndarray) -> list[list[int]]:
        return _in_order(values, tolerance)

    found = {}
    for mode in modes:
        draws = range(seed + 1, seed + 1 + n_draws) if mode == "resample" else ()
        table = circuit_table(model, lists, mode, seed=seed)
        values = table.values()
        found[mode] = plain(
            {
                "accuracy": values[-1],
                "minimal": minimal(values),
                "shapley": shapley_values(values),
                "resampled": [minimal(of_lists) for of_lists in resample(table, n_resamples, seed)],
                "redrawn": [minimal(circuit_table(model, lists, mode, seed=x).values()) for x in draws],
            }
        )
    return found


def resample(table: CircuitTable, n_resamples: int, seed: int) -> np.ndarray:
    """Accuracy [R, K] of every set on lists drawn with replacement from those of the table.

    Raises:
      UserError: `table` is not a CircuitTable, or a number is below 0.
    """
    check_kind("table", table, CircuitTable)
    seed, n_resamples = checks.check_seed(seed), checks.whole_number("n_resamples", n_resamples, 0)
    drawn = np.random.default_rng(seed).integers(0, table.n_lists, (n_resamples, table.n_lists))
    weights = np.zeros((table.n_lists, n_resamples), np.float32)
    for column, row in zip(weights.T, drawn, strict=True):
        column[:] = np.bincount(row, minlength=table.n_lists)
    total = 0.0
    for bits, version in zip(table.right, table.version.T, strict=True):
        right = np.unpackbits(bits, axis=1, count=table.n_lists).astype(np.float32)
        total = total + (right @ weights)[version]  # whole numbers, exact in float32
    return total.T.astype(np.float64) / (table.n_lists * len(table.right))


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """What the rows of one kind of model have in common, by meaning of a cut.

    Returns:
      By mode: `models`; `minimal`, how many models have so many minimal circuits; `sizes`, how many of all
      minimal circuits have so many edges; `most_frequent`, the `circuit` that is minimal in most models, and
      in how many (`models`); `between_seeds` (pairs of models), `between_resamples` and
      `between_draws` (a model and itself with lists or messages drawn anew) and `between_modes` (a model in
      this mode and in each of the others), each with the number of `pairs` and over them `jaccard` (the mean
      index of the first circuits), `closest` (the mean index of the two minimal circuits that are most alike)
      and `shared` (the fraction in which the same set is minimal in both); `shapley` and `shapley_deviation`
      over models.

    Raises:
      UserError: there are no rows, or they are not of the same modes and as many edges.
    """
    rows = list(rows) if isinstance(rows, Iterable) and not isinstance(rows, Mapping) else []
    kinds = {tuple((mode, len(of["shapley"])) for mode, of in sorted(row.items())) for row in rows}
    if len(kinds) != 1 or not rows[0]:
        raise UserError(
            "a census is summarised from one row or more, with the same meanings of a cut and as many edges"
        )
    found = {}
    for mode in rows[0]:
        own = [row[mode]["minimal"] for row in rows]
        resampled, redrawn = (
            [(row[mode]["minimal"], other) for row in rows for other in row[mode][name]]
            for name in ("resampled", "redrawn")
        )
        of_modes = [
            (row[mode]["minimal"], row[other]["minimal"]) for row in rows for other in row if other != mode
        ]
        shapley = np.array([row[mode]["shapley"] for row in rows])
        found[mode] = plain(
            {
                "models": len(rows),
                "minimal": _counts(len(circuits) for circuits in own),
                "sizes": _counts(len(circuit) for circuits in own for circuit in circuits),
                "most_frequent": _most_frequent(own),
                "between_seeds": _similarity(itertools.combinations(own, 2)),
                "between_resamples": _similarity(resampled),
                "between_draws": _similarity(redrawn),
                "between_modes": _similarity(of_modes),
                "shapley": shapley.mean(0),
                "shapley_deviation": shapley.std(0),
            }
        )
    return found


def summarize_order(orders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How much what carries order differs between models, from the `order` of each (`tabulate_order`).

    Returns:
      `models`; by what is changed (`exchange`), and by random vectors as long (`random_vectors`), `reversed`,
      `right`, `repeated` and `length`, each as least, lower quartile, median, upper quartile and most over
      models; `intact`, `same_digit_larger` and `accuracy_by_alpha_gap` likewise; `in_positions`, of how many
      models `analysis.order.is_in_positions` is true.

    Raises:
      UserError: there is no model, or something else is given.
    """
    if not orders:
        raise UserError("what carries order is summarised over one model at least")
    needed = {"intact", "exchange", "random_vectors", "same_digit_larger", "accuracy_by_alpha_gap"}
    if not all(isinstance(order, Mapping) and needed <= order.keys() for order in orders):
        raise UserError("what carries order is summarised from what tabulate_order gives of each model")

    def effects(of_models: Sequence[Mapping[str, Any]]):
        fields = ("reversed", "right", "repeated", "length")
        return {field: _spread(effect[field] for effect in of_models) for field in fields}

    gaps = [
        {name: bin[name] for name in ("from", "to")}
        | {
            name: _spread(order["accuracy_by_alpha_gap"][i][name] for order in orders)
            for name in ("lists_right", "all_right")
        }
        for i, bin in enumerate(orders[0]["accuracy_by_alpha_gap"])
    ]
    by_name = {
        kind: {name: effects([order[kind][name] for order in orders]) for name in orders[0][kind]}
        for kind in ("exchange", "random_vectors")
    }
    return {
        "models": len(orders),
        "intact": effects([order["intact"] for order in orders]),
        **by_name,
        "same_digit_larger": _spread(order["same_digit_larger"] for order in orders),
        "accuracy_by_alpha_gap": gaps,
        "in_positions": sum(map(is_in_positions, orders)),
    }


def jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    """The Jaccard index of two sets of edges; 1 for two empty ones."""
    either = set(first) | set(second)
    return len(set(first) & set(second)) / len(either) if either else 1.0


def _spread(values) -> list[float | None]:
    """Least, lower quartile, median, upper quartile and most of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return plain(np.quantile(known, (0, 0.25, 0.5, 0.75, 1))) if known else [None] * 5


def _similarity(pairs) -> dict[str, float | None]:
    """Means over pairs of models' minimal circuits; None over no pair."""
    marks = [
        (
            jaccard(a[0], b[0]),
            max(jaccard(x, y) for x in a for y in b),
            any(list(x) == list(y) for x in a for y in b),
        )
        for a, b in pairs
    ]
    means = np.mean(marks, axis=0) if marks else [None] * 3
    return dict(zip(("jaccard", "closest", "shared"), means, strict=True)) | {"pairs": len(marks)}


def _in_order(values: np.ndarray, tolerance: float) -> list[list[int]]:
    """The minimal circuits of a game [K] as indices of edges, the smallest first, of these the best first."""
    minimal = minimal_sets(is_sufficient(values, values[-1], tolerance))
    ordered = sorted(minimal, key=lambda x: (x.bit_count(), -values[x], x))
    return [members(x, count_edges(values)) for x in ordered]


def _counts(numbers) -> dict[str, int]:
    values, counts = np.unique(list(numbers), return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def _most_frequent(circuits: Sequence[Circuits]) -> dict[str, Any]:
    """The set that is minimal in most models, and in how many."""
    every = [tuple(circuit) for of_model in circuits for circuit in of_model]
    most = max(sorted(set(every)), key=every.count)
    return {"circuit": list(most), "models": every.count(most)}
