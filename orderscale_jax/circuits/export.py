"""Tables and circuits in the forms that other tools read.

`to_shapiq` gives a game of the package shapiq (Muschalik et al. 2024), `to_mib_graph` a circuit in the form
of the JSON files of EAP-IG and of the Mechanistic Interpretability Benchmark (arXiv 2504.13151).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.circuits.scoring import check_scores
from orderscale_jax.circuits.table import BETTER, CircuitTable, check_measure
from orderscale_jax.errors import MissingPackage, UserError, check_kind
from orderscale_jax.graph import Edge, Graph


def to_shapiq(table: CircuitTable, measure: str = "accuracy", output: int | None = None):
    """The table as a `shapiq.Game` whose players are the live edges, in their order and with their names.

    Its values are larger the better a set is (the negative of `loss` and `kl`); shapiq takes the worth of no
    edges from all of them.

    Raises:
      MissingPackage: shapiq is not installed.
      UserError: the table is not complete, or there is no such measure or output.
    """
    check_kind("table", table, CircuitTable)
    check_measure(measure)
    if not table.is_complete:
        raise UserError("a game needs a table of all sets of edges, as circuit_table gives it")
    values = BETTER[measure] * table.values(measure, output)
    try:
        import shapiq
    except ImportError as error:
        raise MissingPackage(
            f"a game for shapiq needs another package ({error}): pip install shapiq"
        ) from error
    bits = 1 << np.arange(len(table.edges))

    class EdgeGame(shapiq.Game):
        """What sets of edges are worth, looked up."""

        def value_function(self, coalitions: np.ndarray) -> np.ndarray:
            return values[np.asarray(coalitions, int) @ bits]

    names = [table.graph.label(edge) for edge in table.edges]
    return EdgeGame(len(names), normalization_value=float(values[0]), player_names=names)


def to_mib_graph(table_or_graph: CircuitTable | Graph, scores, kept=None) -> dict[str, Any]:
    """A circuit as a dictionary for `json.dump`, with the keys `cfg`, `nodes` and `edges`.

    Nodes are positions at a depth: `input.d1` is what d1 holds before layer 0, `a1.o2` what o2 holds after
    the attention of layer 1, with positions `d1 … dn SEP o1 … on`. The edge with which SEP reads d1 in layer
    0 is `input.d1->a0.SEP`, that with which o2 reads o1 in layer 1 `a0.o1->a1.o2`. `logits` is a node
    without edges: it reads what the outputs hold last. Dead edges are there too, with score 0 and never in
    the circuit. (EAP-IG's own loader takes heads and not positions for nodes, so it does not read these.)

    Args:
      table_or_graph: a table or the graph of a model.
      scores: [E], of the live edges.
      kept: bool [E], the live edges in the circuit; None for all of them.

    Raises:
      UserError: there is not a finite score or a truth value for each live edge.
    """
    graph = table_or_graph.graph if isinstance(table_or_graph, CircuitTable) else table_or_graph
    check_kind("table_or_graph", graph, Graph)
    live = {edge: i for i, edge in enumerate(graph.live_edges)}
    scores = check_scores(scores, len(live))
    kept = np.ones(len(live), bool) if kept is None else kept
    if real_numbers("kept", kept).shape != (len(live),) or np.asarray(kept).dtype != bool:
        raise UserError(f"kept must be {len(live)} truth values, one for each live edge")
    stages = ["input", *(f"a{layer}" for layer in range(graph.n_layers))]
    nodes = {f"{stage}.{name}": {"in_graph": False} for stage in stages for name in graph.names}
    edges = {}
    for edge in graph.edges:
        ends, i = _ends(graph, edge), live.get(edge)
        inside = i is not None and bool(kept[i])
        edges["->".join(ends)] = {"score": 0.0 if i is None else float(scores[i]), "in_graph": inside}
        if inside:
            for end in ends:
                nodes[end]["in_graph"] = True
    nodes["logits"] = {"in_graph": True}
    return {"cfg": {"n_layers": graph.n_layers, "list_len": graph.list_len}, "nodes": nodes, "edges": edges}


def _ends(graph: Graph, edge: Edge) -> tuple[str, str]:
    """The nodes from which and to which an edge leads."""
    before = f"a{edge.layer - 1}" if edge.layer else "input"
    return f"{before}.{graph.names[edge.key]}", f"a{edge.layer}.{graph.names[edge.query]}"
