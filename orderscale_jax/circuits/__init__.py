"""Circuits, exactly: what a model does with every set of its edges, and what follows from that.

`circuit_table(model, lists)` tries every set; `find_circuits(table)` tells the minimal circuits, Shapley
values and interactions.
"""

from orderscale_jax.circuits.games import (
    Circuits,
    find_circuits,
    interactions,
    inverse_moebius,
    minimal_sets,
    moebius,
    pair_kinds,
    shapley_values,
)
from orderscale_jax.circuits.results import tabulate_circuits, tabulate_samples
from orderscale_jax.circuits.sampling import (
    SampledShapley,
    Search,
    greedy_circuit,
    sample_shapley,
    search_circuits,
)
from orderscale_jax.circuits.table import MEASURES, CircuitTable, all_sets, circuit_table, score_sets

__all__ = [
    "MEASURES",
    "CircuitTable",
    "Circuits",
    "SampledShapley",
    "Search",
    "all_sets",
    "circuit_table",
    "find_circuits",
    "greedy_circuit",
    "interactions",
    "inverse_moebius",
    "minimal_sets",
    "moebius",
    "pair_kinds",
    "sample_shapley",
    "score_sets",
    "search_circuits",
    "shapley_values",
    "tabulate_circuits",
    "tabulate_samples",
]
