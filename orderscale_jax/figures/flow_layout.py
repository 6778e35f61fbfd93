"""One model's panel of the information flow: where its nodes, arrows and labels lie."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import withStroke

from orderscale_jax.figures import style
from orderscale_jax.figures.labels import label_area, place_labels, text_width
from orderscale_jax.graph import Edge

if TYPE_CHECKING:
    from orderscale_jax.figures.flow import Flow

ARROW = "#E0786E"  # a light red that leaves the labels on it readable
STATIONS = {"digits": style.BLUE, "SEP": style.ORANGE, "outputs": style.GREEN}

# Lengths in points; the axes' unit is the point, so that geometry is that of the print.
NODE_HEIGHT, ROW, COLUMN = 13.0, 32.0, 74.0
WIDEST_COLUMN, WIDEN = 170.0, 1.1
HEAD, FOOT = 28.0, 22.0
FULL = 0.4  # share of the space between columns that labels may take


def line_width(weight: float) -> float:
    """Points, for an attention weight from 0 to 1."""
    return 0.6 + 3.0 * weight


@dataclasses.dataclass(frozen=True)
class Panel:
    """One model laid out, in points from the panel's left and top edge (y grows downwards)."""

    flow: Flow
    column: float
    row: float
    arrows: dict[Edge, tuple[np.ndarray, np.ndarray]]  # start and end
    labels: dict[Edge, np.ndarray]  # centres

    @classmethod
    def fit(cls, flow: Flow) -> Panel:
        """The narrowest layout in which every label finds room, up to the widest column."""
        column, row = COLUMN, ROW
        while True:
            panel = cls(flow, column, row, {}, {})
            widest = column * WIDEN > WIDEST_COLUMN
            if widest or panel._has_room():
                arrows = panel._route()
                labels = panel._place(arrows)
                if widest or len(labels) == len(arrows):
                    return dataclasses.replace(panel, arrows=arrows, labels=labels)
            column, row = column * WIDEN, row * WIDEN**0.5

    @property
    def label_width(self) -> float:
        return max(text_width(label, style.SMALL) for label in self.flow.row_labels) + 5

    @property
    def node_width(self) -> float:
        """Of the widest token, so that all nodes are alike."""
        flow = self.flow
        tokens = {flow.token(la, p) for la in range(flow.n_layers + 1) for p in range(len(flow.names))}
        return max(NODE_HEIGHT, *(text_width(token, style.SMALL) + 7 for token in tokens))

    @property
    def width(self) -> float:
        last = self._node(self.flow.n_layers, 0)[0]
        content = (
            last + max(self.node_width, text_width(self._column_name(self.flow.n_layers), style.SMALL)) / 2
        )
        return max(content, text_width(self._title, style.NORMAL) + 4)

    @property
    def height(self) -> float:
        return HEAD + (len(self.flow.names) - 1) * self.row + FOOT

    @property
    def _title(self) -> str:
        return f"{self.flow.title}, accuracy {100 * self.flow.ablation.accuracy:.2f} %"

    def _column_name(self, layer: int) -> str:
        return "input" if layer == 0 else f"after L{layer - 1}"

    def _node(self, layer: int, position: int) -> np.ndarray:
        x = self.label_width + self.node_width / 2 + layer * self.column
        return np.array([x, HEAD + position * self.row])

    def _route(self) -> dict[Edge, tuple[np.ndarray, np.ndarray]]:
        """Arrows from the right of the key's node to the left of the query's node.

        Arrows that share a node leave and enter it at different heights, in the order in which they
        come, so that they do not merge.
        """
        edges = list(self.flow.arrows)
        half = np.array([self.node_width / 2, 0])

        def port(edge: Edge, end: str) -> np.ndarray:
            other = "key" if end == "query" else "query"
            sharing = sorted(
                getattr(e, other)
                for e in edges
                if e.layer == edge.layer and getattr(e, end) == getattr(edge, end)
            )
            rank = sharing.index(getattr(edge, other)) - (len(sharing) - 1) / 2
            step = min(3.5, (NODE_HEIGHT - 4) / max(len(sharing) - 1, 1))
            return np.array([0, rank * step])

        return {
            edge: (
                self._node(edge.layer, edge.key) + half + port(edge, "key"),
                self._node(edge.layer + 1, edge.query) - half + port(edge, "query") - (1, 0),
            )
            for edge in edges
        }

    def _has_room(self) -> bool:
        """Whether the labels' areas leave enough of the space between columns; cheaper than to place."""
        flow = self.flow
        space = (self.column - self.node_width) * self.height
        taken = np.zeros(flow.n_layers)
        for edge in flow.arrows:
            taken[edge.layer] += label_area(style.signed(flow.deltas[edge]), style.SMALL)
        return bool((taken <= FULL * space).all())

    def _place(self, arrows) -> dict[Edge, np.ndarray]:
        """Centres of the labels that find room between their layer's two columns of nodes."""
        labels = {}
        for layer in range(self.flow.n_layers):
            here = [edge for edge in arrows if edge.layer == layer]
            if not here:
                continue
            centres = place_labels(
                starts=np.array([arrows[edge][0] for edge in here]),
                ends=np.array([arrows[edge][1] for edge in here]),
                texts=[style.signed(self.flow.deltas[edge]) for edge in here],
                importance=[abs(self.flow.deltas[edge]) for edge in here],
                size=style.SMALL,
            )
            labels |= {edge: at for edge, at in zip(here, centres, strict=True) if at is not None}
        return labels

    def draw(self, axes, left: float, top: float) -> None:
        flow, names = self.flow, self.flow.names
        n = len(names) // 2
        colours = [STATIONS["digits"]] * n + [STATIONS["SEP"]] + [STATIONS["outputs"]] * n

        def at(point):
            return left + point[0], top - point[1]

        axes.text(*at((0, 2)), self._title, size=style.NORMAL, weight="bold", va="top", gid="title")
        for position, label in enumerate(flow.row_labels):
            first, last = self._node(0, position), self._node(flow.n_layers, position)
            xs, ys = zip(at(first), at(last), strict=True)
            axes.plot(xs, ys, ls=(0, (1, 2)), lw=0.8, color=style.GREY, zorder=1)
            x = self.label_width - 4
            axes.text(*at((x, first[1])), label, ha="right", va="center_baseline", gid="row")
        for layer in range(flow.n_layers + 1):
            x, _ = self._node(layer, 0)
            name = self._column_name(layer)
            axes.text(
                *at((x, self.height - 4)), name, ha="center", va="bottom", color=style.GREY, gid="column"
            )
            for position, colour in enumerate(colours):
                self._draw_node(axes, at(self._node(layer, position)), flow.token(layer, position), colour)
        for edge, weight in flow.arrows.items():
            start, end = self.arrows[edge]
            width = line_width(weight)
            arrow = FancyArrowPatch(
                at(start),
                at(end),
                arrowstyle=f"-|>,head_length={2 + 0.4 * width},head_width={1 + 0.3 * width}",
                mutation_scale=1,
                shrinkA=0,
                shrinkB=0,
                lw=width,
                color=ARROW,
                joinstyle="miter",
                zorder=2,
                gid=f"arrow {tuple(edge)}",
            )
            axes.add_patch(arrow)
        for edge, centre in self.labels.items():
            axes.text(
                *at(centre),
                style.signed(flow.deltas[edge]),
                ha="center",
                va="center_baseline",
                zorder=5,
                gid=f"label {tuple(edge)}",
                path_effects=[withStroke(linewidth=2.2, foreground="white")],
            )

    def _draw_node(self, axes, centre, token: str, colour: str) -> None:
        x, y = centre
        round_corner = NODE_HEIGHT / 2
        axes.add_patch(
            FancyBboxPatch(
                (x - self.node_width / 2, y - NODE_HEIGHT / 2),
                self.node_width,
                NODE_HEIGHT,
                boxstyle=f"round,pad=0,rounding_size={round_corner}",
                facecolor="white",
                edgecolor=colour,
                lw=1.4,
                zorder=3,
                gid="node",
            )
        )
        axes.text(x, y, token, ha="center", va="center_baseline", zorder=4, gid="token")
