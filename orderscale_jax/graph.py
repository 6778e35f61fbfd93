"""Who may read whom: the edges of the information-flow graph, and which of them can matter.

Information travels digits -> SEP -> outputs and no other way (paper, section 3).
Positions are numbered `d1 … dn` = 0 … n-1, `SEP` = n, `o1 … on` = n+1 … 2n.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from orderscale_jax.errors import UserError
from orderscale_jax.host import check_memory
from orderscale_jax.options import check_types, check_values

EDGE_BYTES = 150  # of an `Edge`, measured


class Edge(NamedTuple):
    """One attention edge: in `layer` (from 0) position `query` reads position `key`."""

    layer: int
    query: int
    key: int


def position_names(list_len: int) -> tuple[str, ...]:
    """Names of the T = 2n+1 positions: `d1 … dn SEP o1 … on`."""
    numbers = range(1, list_len + 1)
    return (*(f"d{i}" for i in numbers), "SEP", *(f"o{i}" for i in numbers))


@dataclasses.dataclass(frozen=True)
class Graph:
    """The information-flow graph of a model with `n_layers` layers on lists of `list_len` digits.

    Raises:
      UserError: one of them is not a whole number of at least 1; later, if a property needs more memory
        than there is.
    """

    list_len: int
    n_layers: int

    def __post_init__(self):
        check_types(self, "Graph")
        check_values(self, "Graph", {"list_len": 1, "n_layers": 1}, {})

    @property
    def n_positions(self) -> int:
        return 2 * self.list_len + 1

    @property
    def sep(self) -> int:
        return self.list_len

    @property
    def outputs(self) -> range:
        return range(self.list_len + 1, self.n_positions)

    @property
    def names(self) -> tuple[str, ...]:
        return position_names(self.list_len)

    def readable(self, layer: int) -> np.ndarray:
        """Boolean [T, T] mask of `layer`: may query (row) read key (column)?

        In layer 0 an output reads only itself, and what it reads is then discarded (`carries`).
        """
        n = self.list_len
        self._check_memory("a mask of", self.n_positions**2)
        mask = np.tril(np.ones((self.n_positions, self.n_positions), bool), k=-1)
        mask[0, 0] = True  # the first digit has nothing before it; a softmax needs one key
        mask[n + 1 :, :n] = False
        if layer == 0:
            mask[n + 1 :] = False
            mask[self.outputs, self.outputs] = True
        return mask

    def carries(self, edge: Edge | str) -> bool:
        """False for the outputs' self-edges of layer 0: open before the softmax, zero after it."""
        layer, query, _ = self._edge(edge)
        return layer > 0 or query <= self.sep

    def reads(self, layer: int, query: int) -> tuple[Edge, ...]:
        """The edges through which `query` receives something in `layer`, by key."""
        keys = np.flatnonzero(self.readable(layer)[query])
        return tuple(edge for key in keys if self.carries(edge := Edge(layer, query, int(key))))

    @functools.cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, ordered by layer, query, key (13 for two layers and n=2, 20 for three)."""
        n = (
            self.list_len
        )  # digits read digits, SEP all digits, outputs SEP and outputs, in layer 0 themselves
        first, later = 1 + n * (n - 1) // 2 + 2 * n, 1 + n * (n - 1) + 2 * n
        self._check_memory("the edges of", EDGE_BYTES * (first + (self.n_layers - 1) * later))
        return tuple(
            Edge(layer, int(query), int(key))
            for layer in range(self.n_layers)
            for query, key in np.argwhere(self.readable(layer))
        )

    @functools.cached_property
    def live_edges(self) -> tuple[Edge, ...]:
        """The edges through which anything can reach the logits (5 of 13, 12 of 20 for n=2)."""
        return tuple(sorted(self._reaching(self.n_layers, self.outputs)))

    def is_live(self, edge: Edge | str) -> bool:
        """Whether anything can reach the logits through an edge; UserError if it does not exist."""
        return self._edge(edge) in self._live

    @functools.cached_property
    def _live(self) -> frozenset[Edge]:
        return frozenset(self.live_edges)

    def upstream(self, layer: int, position: int) -> frozenset[Edge]:
        """The edges that can change the residual which `position` carries into `layer`.

        `layer == n_layers` asks about the final residual.
        """
        return self._reaching(layer, [position])

    def label(self, edge: tuple[int, int, int]) -> str:
        """`L0 SEP<-d1`: layer, query, key."""
        layer, query, key = edge
        return f"L{layer} {self.names[query]}<-{self.names[key]}"

    def check(self, edges: Iterable[tuple[int, int, int] | str]) -> tuple[Edge, ...]:
        """The given edges, each (layer, query, key) or a name as `label` writes it.

        Raises:
          UserError: one does not exist, or is not an edge at all.
        """
        if isinstance(edges, str) or not isinstance(edges, Iterable):
            raise UserError(f"edges must be given as a list of edges, got {edges!r}")
        return tuple(self._edge(edge) for edge in edges)

    def position(self, position: int | str) -> int:
        """The index of a position, given so or by its name; UserError if there is none."""
        if position in self.names:
            return self.names.index(position)
        try:
            index = operator.index(position)
        except TypeError:
            index = -1
        if not 0 <= index < self.n_positions:
            raise UserError(
                f"position {position!r} does not exist: there are {', '.join(self.names)}, or 0 … "
                f"{self.n_positions - 1}"
            )
        return index

    def _edge(self, given: tuple[int, int, int] | str) -> Edge:
        if isinstance(given, str):
            given = given.replace("←", "<-").replace("\u00a0", " ")  # as reports print it
        try:
            edge = self._by_label[given] if isinstance(given, str) else Edge(*map(operator.index, given))
        except (KeyError, TypeError):
            if isinstance(given, str):
                raise UserError(
                    f"edge {given!r} does not exist: there are {', '.join(self._by_label)}"
                ) from None
            raise UserError(
                f"an edge is three whole numbers (layer, query, key) or a name, got {given!r}"
            ) from None
        if edge not in self._existing:
            raise UserError(
                f"edge {tuple(edge)} does not exist: with {self.n_layers} layers and lists of "
                f"{self.list_len}, (layer, query, key) must be one of {len(self.edges)} edges; "
                f"layer {edge.layer} has " + (", ".join(self._pairs(edge.layer)) or "none")
            )
        return edge

    @functools.cached_property
    def _existing(self) -> frozenset[Edge]:
        return frozenset(self.edges)

    @functools.cached_property
    def _by_label(self) -> dict[str, Edge]:
        return {self.label(edge): edge for edge in self.edges}

    def _pairs(self, layer: int) -> list[str]:
        return [f"({e.query}, {e.key})" for e in self.edges if e.layer == layer]

    def _reaching(self, layer: int, positions: Iterable[int]) -> frozenset[Edge]:
        """The edges that can change the residual of one of these positions before `layer`."""
        found, sources = set(), set(positions)
        for below in reversed(range(layer)):
            read = [edge for source in sources for edge in self.reads(below, source)]
            found.update(read)
            sources.update(edge.key for edge in read)
        return frozenset(found)

    def _check_memory(self, what: str, n_bytes: int):
        """UserError if so many bytes are more than all that is free."""
        shape = f"list_len={self.list_len} and n_layers={self.n_layers}"
        check_memory(n_bytes, f"{what} a graph with {shape} take", "give shorter lists or fewer layers")
