"""Circuits, exactly: what a model does with every set of its edges, and what follows from that.

`circuit_table(model, lists)` tries every set; `find_circuits(table)` tells the minimal circuits, Shapley
values and interactions; `compare(model, lists, table)` scores what approximates them.
"""

from orderscale_jax.circuits.approximations import (
    Comparison,
    compare,
    greedy_backward,
    greedy_pruning,
    kernel_shap,
    single_edge,
)
from orderscale_jax.circuits.attribution import (
    edge_attribution,
    integrated_activations,
    integrated_inputs,
    learned_masks,
)
from orderscale_jax.circuits.export import to_mib_graph, to_shapiq
from orderscale_jax.circuits.games import (
    Circuits,
    as_game,
    find_circuits,
    interactions,
    inverse_moebius,
    minimal_sets,
    moebius,
    pair_kinds,
    shapley_values,
)
from orderscale_jax.circuits.results import tabulate_circuits, tabulate_comparison, tabulate_samples
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
    "Comparison",
    "SampledShapley",
    "Search",
    "all_sets",
    "as_game",
    "circuit_table",
    "compare",
    "edge_attribution",
    "find_circuits",
    "greedy_backward",
    "greedy_circuit",
    "greedy_pruning",
    "integrated_activations",
    "integrated_inputs",
    "interactions",
    "inverse_moebius",
    "kernel_shap",
    "learned_masks",
    "minimal_sets",
    "moebius",
    "pair_kinds",
    "sample_shapley",
    "score_sets",
    "search_circuits",
    "shapley_values",
    "single_edge",
    "tabulate_circuits",
    "tabulate_comparison",
    "tabulate_samples",
    "to_mib_graph",
    "to_shapiq",
]
