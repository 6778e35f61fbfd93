"""Figure 1 of the paper: how information flows from the digits through SEP to the outputs."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import withStroke

from orderscale_jax.figures import style
from orderscale_jax.figures.labels import label_area, place_labels, text_width
from orderscale_jax.graph import Edge, position_names

if TYPE_CHECKING:
    from orderscale_jax.analysis.ablation import EdgeAblation

LEAST_ATTENTION = 0.04  # of an arrow (paper, Figure 1)
ARROW = "#E0786E"  # a light red that leaves the labels on it readable
STATIONS = {"digits": style.BLUE, "SEP": style.ORANGE, "outputs": style.GREEN}

# Lengths in points; the axes' unit is the point, so that geometry is that of the print.
NODE_HEIGHT, ROW, COLUMN = 13.0, 32.0, 74.0
WIDEST_COLUMN, WIDEN = 170.0, 1.1
HEAD, FOOT, MARGIN, BETWEEN = 28.0, 22.0, 6.0, 18.0
LINE = 10.0  # of legend and caption
FULL = 0.4  # share of the space between columns that labels may take


@dataclasses.dataclass(frozen=True)
class Flow:
    """What one panel of the information flow shows.

    Attributes:
      title: of the panel, for example `two layers`.
      ablation: every edge's accuracy change.
      patterns: attention [L, H, T, T]; with several heads the largest counts.
      lens: logit-lens tokens, integer [L+1, T]; row 0 is the input.
      n_digits: size of the alphabet; tokens past it are MASK and SEP.
      patterns_of: which lists `patterns` describes, for the caption.
      example: the list [n] that `lens` describes, written beside the positions if given.
    """

    title: str
    ablation: EdgeAblation
    patterns: np.ndarray
    lens: np.ndarray
    n_digits: int
    patterns_of: str = "mean over the validation lists"
    example: tuple[int, ...] | None = None

    def __post_init__(self):
        layers, positions = np.shape(self.lens)
        if np.ndim(self.patterns) != 4 or np.shape(self.patterns)[::3] != (layers - 1, positions):
            raise ValueError(
                f"patterns must have shape [L, H, T, T] where lens has [L+1, T] = {[layers, positions]}; "
                f"got {list(np.shape(self.patterns))}"
            )

    @property
    def n_layers(self) -> int:
        return len(self.lens) - 1

    @property
    def names(self) -> tuple[str, ...]:
        return position_names(len(self.lens[0]) // 2)

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Names of the positions, with the example's digits where they are known."""
        if self.example is None:
            return self.names
        known = (*self.example, None, *self.example)
        return tuple(
            name if digit is None else f"{name} = {digit}"
            for name, digit in zip(self.names, known, strict=True)
        )

    @property
    def arrows(self) -> dict[Edge, float]:
        """Attention of every critical edge that has more than 0.04 of it."""
        head = slice(None) if self.ablation.head is None else [self.ablation.head]
        weights = np.asarray(self.patterns)[:, head].max(axis=1)
        return {
            edge: float(weights[edge]) for edge in self.ablation.critical if weights[edge] > LEAST_ATTENTION
        }

    @property
    def deltas(self) -> dict[Edge, float]:
        """Accuracy change of every edge, in percentage points."""
        return {
            edge: 100 * float(delta)
            for edge, delta in zip(self.ablation.edges, self.ablation.deltas, strict=True)
        }

    def token(self, layer: int, position: int) -> str:
        token = int(self.lens[layer][position])
        return {self.n_digits: "MASK", self.n_digits + 1: "SEP"}.get(token, str(token))


@style.styled
def information_flow(*flows: Flow) -> Figure:
    """Nodes per position and layer, an arrow per critical edge, panels side by side.

    A node carries the arg-max of the logit lens there. An arrow's width grows with attention, its
    label is the change of accuracy in percentage points when the edge is cut. Columns widen until
    no label overlaps another or a node; labels that still find no room are left off and counted in
    the caption.

    Source: paper, Figure 1.
    """
    if not flows:
        raise ValueError("information_flow needs at least one Flow")
    panels = [_Panel.fit(flow) for flow in flows]
    width = max(
        sum(panel.width for panel in panels) + BETWEEN * (len(panels) - 1) + 2 * MARGIN,
        style.COLUMN * style.POINTS,
    )
    legend_rows, legend_columns = _legend_shape(width - 2 * MARGIN)
    caption = textwrap.wrap(_caption(panels), width=int((width - 2 * MARGIN) / 3.7))
    bottom = MARGIN + LINE * len(caption) + (LINE + 3) * legend_rows + 8
    height = bottom + max(panel.height for panel in panels) + MARGIN

    figure = Figure(figsize=(width / style.POINTS, height / style.POINTS))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    spare = width - 2 * MARGIN - sum(panel.width for panel in panels)
    left = MARGIN + (spare / 2 if len(panels) == 1 else 0)
    for panel in panels:
        panel.draw(axes, left, height - MARGIN)
        if panel is not panels[-1]:
            x = left + panel.width + BETWEEN / 2
            axes.plot([x, x], [bottom, height - MARGIN], color=style.PALE, lw=0.8)
        left += panel.width + BETWEEN
    axes.text(
        MARGIN, MARGIN, "\n".join(caption), color=style.GREY, va="bottom", gid="caption", linespacing=1.2
    )
    axes.legend(
        handles=_legend_handles(),
        ncols=legend_columns,
        loc="lower center",
        bbox_to_anchor=(width / 2, MARGIN + LINE * len(caption) + 3),
        bbox_transform=axes.transData,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.5,
        handlelength=2.0,
        columnspacing=1.4,
    )
    return figure


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One model laid out, in points from the panel's left and top edge (y grows downwards)."""

    flow: Flow
    column: float
    row: float
    arrows: dict[Edge, tuple[np.ndarray, np.ndarray]]  # start and end
    labels: dict[Edge, np.ndarray]  # centres

    @classmethod
    def fit(cls, flow: Flow) -> _Panel:
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
            width = _line_width(weight)
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


def _line_width(weight: float) -> float:
    """Points, for an attention weight from 0 to 1."""
    return 0.6 + 3.0 * weight


def _legend_shape(width: float) -> tuple[int, int]:
    """Rows and columns, as many columns as fit; a legend fills column by column."""
    entries = [text_width(handle.get_label(), style.SMALL) + 33 for handle in _legend_handles()]
    for columns in range(len(entries), 1, -1):
        groups = np.array_split(entries, columns)
        if sum(max(group) for group in groups) < width:
            break
    return len(groups[0]), columns


def _legend_handles() -> list[Line2D]:
    nodes = [
        Line2D([], [], marker="o", ls="", ms=7, mfc="white", mec=colour, mew=1.4, label=name)
        for name, colour in STATIONS.items()
    ]
    residual = Line2D([], [], ls=(0, (1, 2)), lw=0.8, color=style.GREY, label="residual stream")
    attention = [
        Line2D([], [], lw=_line_width(weight), color=ARROW, label=f"attention {weight:g}")
        for weight in (0.1, 0.5, 1.0)
    ]
    return [*nodes, residual, *attention]


def _caption(panels: list[_Panel]) -> str:
    """What the arrows are, in one or two sentences that hold for these panels."""
    ablations = [panel.flow.ablation for panel in panels]
    modes = " / ".join(dict.fromkeys(_MODES.get(a.mode, a.mode) for a in ablations))
    tolerances = " / ".join(dict.fromkeys(f"{100 * a.tolerance:g}" for a in ablations))
    sources = " / ".join(dict.fromkeys(panel.flow.patterns_of for panel in panels))
    text = (
        f"Nodes: logit lens. Arrows: edges whose cut ({modes}) lowers accuracy by over {tolerances} "
        f"point{'' if tolerances == '1' else 's'}, with attention above {LEAST_ATTENTION} ({sources}). "
        "Numbers: change of accuracy in percentage points."
    )
    heads = {a.head for a in ablations}
    if heads != {None}:
        text += " Cut in head " + " / ".join(str(head) for head in sorted(heads, key=str)) + " only."
    elif any(np.shape(panel.flow.patterns)[1] > 1 for panel in panels):
        text += " Of several heads the largest attention is shown; the cut is in all."
    if not any(panel.arrows for panel in panels):
        text += " There is no such edge."
    missing = sum(len(panel.arrows) - len(panel.labels) for panel in panels)
    if missing:
        text += f" {missing} numbers are left off for want of room."
    return text


_MODES = {"renormalize": "rest of the row rescaled", "zero": "rest of the row as it was"}
