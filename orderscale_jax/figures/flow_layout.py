"""One panel of the information flow: what it shows, and where its nodes, arrows and labels lie."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import withStroke

from orderscale_jax.analysis import EdgeAblation
from orderscale_jax.errors import UserError
from orderscale_jax.figures import style
from orderscale_jax.figures.labels import label_area, place_labels, text_width
from orderscale_jax.formatting import signed
from orderscale_jax.graph import Edge, position_names

LEAST_ATTENTION = 0.04  # of an arrow (paper, Figure 1)
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
            raise UserError(
                f"patterns must have shape [L, H, T, T] where lens has [L+1, T] = {[layers, positions]}; "
                f"got {list(np.shape(self.patterns))}"
            )
        if self.example is not None and len(self.example) != positions // 2:
            raise UserError(f"example must be a list of {positions // 2} digits, got {len(self.example)}")

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
        pairs = zip(self.names, known, strict=True)
        return tuple(name if digit is None else f"{name} = {digit}" for name, digit in pairs)

    @property
    def arrows(self) -> dict[Edge, float]:
        """Attention of every critical edge that has more than 0.04 of it."""
        head = slice(None) if self.ablation.head is None else [self.ablation.head]
        weights = np.asarray(self.patterns)[:, head].max(axis=1)
        critical = self.ablation.critical
        return {edge: float(weights[edge]) for edge in critical if weights[edge] > LEAST_ATTENTION}

    @property
    def deltas(self) -> dict[Edge, float]:
        """Accuracy change of every edge, in percentage points."""
        changes = zip(self.ablation.edges, self.ablation.deltas, strict=True)
        return {edge: 100 * float(delta) for edge, delta in changes}

    def token(self, layer: int, position: int) -> str:
        token = int(self.lens[layer][position])
        return {self.n_digits: "MASK", self.n_digits + 1: "SEP"}.get(token, str(token))


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
        n_layers = self.flow.n_layers
        name = text_width(self._column_name(n_layers), style.SMALL)
        content = self._node(n_layers, 0)[0] + max(self.node_width, name) / 2
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
            beside = [e for e in edges if (e.layer, getattr(e, end)) == (edge.layer, getattr(edge, end))]
            sharing = sorted(getattr(e, other) for e in beside)
            rank = sharing.index(getattr(edge, other)) - (len(sharing) - 1) / 2
            step = min(3.5, (NODE_HEIGHT - 4) / max(len(sharing) - 1, 1))
            return np.array([0, rank * step])

        def ends(edge: Edge):
            start = self._node(edge.layer, edge.key) + half + port(edge, "key")
            return start, self._node(edge.layer + 1, edge.query) - half + port(edge, "query") - (1, 0)

        return {edge: ends(edge) for edge in edges}

    def _has_room(self) -> bool:
        """Whether the labels' areas leave enough of the space between columns; cheaper than to place."""
        flow = self.flow
        space = (self.column - self.node_width) * self.height
        taken = np.zeros(flow.n_layers)
        for edge in flow.arrows:
            taken[edge.layer] += label_area(signed(flow.deltas[edge]), style.SMALL)
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
                texts=[signed(self.flow.deltas[edge]) for edge in here],
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
            look = {"ha": "center", "va": "bottom", "color": style.GREY}
            axes.text(*at((x, self.height - 4)), name, gid="column", **look)
            for position, colour in enumerate(colours):
                self._draw_node(axes, at(self._node(layer, position)), flow.token(layer, position), colour)
        for edge, weight in flow.arrows.items():
            width = line_width(weight)
            head = f"-|>,head_length={2 + 0.4 * width},head_width={1 + 0.3 * width}"
            look = {"arrowstyle": head, "lw": width, "color": ARROW, "joinstyle": "miter", "zorder": 2}
            as_given = {"mutation_scale": 1, "shrinkA": 0, "shrinkB": 0}
            ends = map(at, self.arrows[edge])
            axes.add_patch(FancyArrowPatch(*ends, **look, **as_given, gid=f"arrow {tuple(edge)}"))
        for edge, centre in self.labels.items():
            look = {"ha": "center", "va": "center_baseline", "zorder": 5}
            halo = [withStroke(linewidth=2.2, foreground="white")]
            text = signed(flow.deltas[edge])
            axes.text(*at(centre), text, path_effects=halo, gid=f"label {tuple(edge)}", **look)

    def _draw_node(self, axes, centre, token: str, colour: str) -> None:
        x, y = centre
        corner = (x - self.node_width / 2, y - NODE_HEIGHT / 2)
        shape = f"round,pad=0,rounding_size={NODE_HEIGHT / 2}"
        look = {"facecolor": "white", "edgecolor": colour, "lw": 1.4, "zorder": 3, "gid": "node"}
        axes.add_patch(FancyBboxPatch(corner, self.node_width, NODE_HEIGHT, boxstyle=shape, **look))
        axes.text(x, y, token, ha="center", va="center_baseline", zorder=4, gid="token")
