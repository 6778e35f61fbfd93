"""Which parts of a forward pass different sets of edges share.

What a position holds after a layer depends on few of the edges that are kept or cut: those above it. So
thousands of sets of edges leave a position in a few dozen *versions*, each of which is computed once: of
the 4,096 sets of the published three-layer model o2 ends in 1,261 versions, o1 in 109.

Dimensions: K sets of edges, E live edges, V versions of a position, M keys of a query.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from orderscale_jax.graph import Edge, Graph

FEWEST = 16  # versions to which those of a few sets are filled up, so that few programs are compiled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Read:
    """How the versions of a position after a layer come from those before it.

    Attributes:
      own: int [V], its version before.
      keep: float [V, M], weights of its edges in this layer.
      keys: int [V, M], the versions of what it reads.
    """

    own: np.ndarray
    keep: np.ndarray
    keys: np.ndarray


def plan(
    graph: Graph, kept: np.ndarray, *, fill_up: bool = False
) -> tuple[list[dict[int, Read | None]], np.ndarray]:
    """What is to be computed for sets of edges, and which version of each output a set ends in.

    Two sets share a version where the position's own version, its edges of the layer and, if any of them is
    kept, the versions of all that it could read are the same. (A key that is cut still matters then: the
    softmax is over all keys.)

    Args:
      graph: of the model.
      kept: bool [K, E], the live edges that each set keeps.
      fill_up: repeat versions up to a power of two, so that other sets find a program of the same shapes.

    Returns:
      By layer, what each position does that matters later, None for one that reads nothing; and the versions
      [K, n] of the outputs.
    """
    column = {edge: i for i, edge in enumerate(graph.live_edges)}
    held = dict.fromkeys(range(graph.n_positions), np.zeros(len(kept), int))
    layers = []
    for needed in _needed(graph):
        reads, after = {}, {}
        for query in needed:
            edges = graph.reads(len(layers), query)
            if not edges:
                reads[query], after[query] = None, held[query]
                continue
            bits = kept[:, [column[edge] for edge in edges]]
            keys = np.stack([held[edge.key] for edge in edges], 1)
            told = np.concatenate([held[query][:, None], bits, keys * bits.any(1, keepdims=True)], 1)
            distinct, version = np.unique(told, axis=0, return_inverse=True)
            if fill_up:
                more = max(FEWEST, 1 << (len(distinct) - 1).bit_length()) - len(distinct)
                distinct = np.concatenate([distinct, np.repeat(distinct[-1:], more, 0)])
            own, keep, keys = np.split(distinct, [1, 1 + len(edges)], axis=1)
            reads[query] = Read(own[:, 0].astype(np.int32), keep.astype(np.float32), keys.astype(np.int32))
            after[query] = version.reshape(-1)
        held = after
        layers.append(reads)
    return layers, np.stack([held[output] for output in graph.outputs], 1)


def edges_read(graph: Graph, layer: int, query: int) -> list[tuple[int, Edge]]:
    """The edges of a row with their indices among the live ones."""
    return [(graph.live_edges.index(edge), edge) for edge in graph.reads(layer, query)]


def _needed(graph: Graph) -> list[list[int]]:
    """By layer, the positions of which a later layer or the readout needs what they hold after it."""
    needed = [set(graph.outputs)]
    for layer in reversed(range(1, graph.n_layers)):
        read = {edge.key for query in needed[0] for edge in graph.reads(layer, query)}
        needed.insert(0, needed[0] | read)
    return [sorted(positions) for positions in needed]
