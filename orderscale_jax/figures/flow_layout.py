"""One panel of the information flow: what it shows, and where its nodes, arrows and labels lie."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import withStroke

from orderscale_jax.analysis import EdgeAblation
from orderscale_jax.errors import UserError
from orderscale_jax.figures import style
from orderscale_jax.figures.alternatives import Alternatives
from orderscale_jax.figures.labels import label_area, place_labels, text_width
from orderscale_jax.formatting import signed
from orderscale_jax.graph import Edge, position_names

LEAST_ATTENTION = 0.04  # of an arrow (paper, Figure 1)
ARROW = "#E0786E"  # a light red that leaves the labels on it readable
STATIONS = {"digits": style.BLUE, "SEP": style.ORANGE, "outputs": style.GREEN}
MOST_ALTERNATIVES = 3  # pairs of redundant routes that a panel shows
LETTERS = "abcdef"  # of their routes
DASHES = (0, (2.0, 1.3))  # in line widths
WRONG = "✗"

# Lengths in points; the axes' unit is the point, so that geometry is that of the print.
NODE_HEIGHT, ROW, COLUMN = 13.0, 32.0, 70.0
WIDEST_COLUMN, WIDEN = 170.0, 1.1
HEAD, FOOT = 28.0, 22.0
NOTE, NOTE_LINE = 10.0, 22.0  # a line of text below a panel, and the dashes in front of it
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
      outputs: the tokens [n] that the model says to it; None takes the last row of `lens`, which is the same
        in models without a final LayerNorm and a bias of the unembedding.
      alternatives: redundant routes; those are shown all of whose edges have more than 0.04 of attention.
    """

    title: str
    ablation: EdgeAblation
    patterns: np.ndarray
    lens: np.ndarray
    n_digits: int
    patterns_of: str = "mean over the validation lists"
    example: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None
    alternatives: tuple[Alternatives, ...] = ()

    def __post_init__(self):
        layers, positions = np.shape(self.lens)
        if np.ndim(self.patterns) != 4 or np.shape(self.patterns)[::3] != (layers - 1, positions):
            raise UserError(
                f"patterns must have shape [L, H, T, T] where lens has [L+1, T] = {[layers, positions]}; "
                f"got {list(np.shape(self.patterns))}"
            )
        if self.example is not None and len(self.example) != positions // 2:
            raise UserError(f"example must be a list of {positions // 2} digits, got {len(self.example)}")
        if self.outputs is not None and len(self.outputs) != positions // 2:
            raise UserError(f"outputs must be {positions // 2} tokens, got {len(self.outputs)}")

    @property
    def n_layers(self) -> int:
        return len(self.lens) - 1

    @property
    def names(self) -> tuple[str, ...]:
        return position_names(len(self.lens[0]) // 2)

    @property
    def said(self) -> tuple[int, ...]:
        """Tokens [n] that the model says to the example."""
        n = len(self.names) // 2
        said = self.lens[-1][n + 1 :] if self.outputs is None else self.outputs
        return tuple(int(token) for token in said)

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Names of the positions; of an example, its digits and what the model says, errors marked."""
        if self.example is None:
            return self.names
        n = len(self.example)
        digits = (f"{name} = {digit}" for name, digit in zip(self.names, self.example, strict=False))
        answers = zip(self.names[n + 1 :], self.said, self.example, strict=True)
        return *digits, self.names[n], *(self._answer(*answer) for answer in answers)

    def _answer(self, name: str, said: int, digit: int) -> str:
        text = f"{name} says {self._word(said)}"
        return text if said == digit else f"{text} {WRONG}\nright: {digit}"

    @property
    def weights(self) -> np.ndarray:
        """Attention [L, T, T], of several heads the largest or that of the head in which edges were cut."""
        head = slice(None) if self.ablation.head is None else [self.ablation.head]
        return np.asarray(self.patterns)[:, head].max(axis=1)

    @property
    def arrows(self) -> dict[Edge, float]:
        """Attention of every critical edge that has more than 0.04 of it."""
        critical, weights = self.ablation.critical, self.weights
        return {edge: float(weights[edge]) for edge in critical if weights[edge] > LEAST_ATTENTION}

    @property
    def shown_alternatives(self) -> tuple[Alternatives, ...]:
        """The redundant routes that are drawn, `MOST_ALTERNATIVES` at most."""
        weights = self.weights
        seen = [x for x in self.alternatives if all(weights[edge] > LEAST_ATTENTION for edge in x.edges)]
        return tuple(seen[:MOST_ALTERNATIVES])

    @property
    def dashed(self) -> dict[Edge, tuple[float, str]]:
        """Attention and the letter of its route, of every edge on a redundant route."""
        weights, letters = self.weights, iter(LETTERS)
        routes = [route for x in self.shown_alternatives for route in (x.first, x.second)]
        named = zip(letters, routes, strict=False)
        return {edge: (float(weights[edge]), letter) for letter, route in named for edge in route}

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each pair of redundant routes: the accuracy change if both are cut."""
        pairs = zip(LETTERS[::2], LETTERS[1::2], self.shown_alternatives, strict=False)
        return tuple(f"{a} or {b} suffices; both cut: {signed(100 * x.change)}" for a, b, x in pairs)

    @property
    def captions(self) -> dict[Edge, str]:
        """What is written on each arrow: a change of accuracy, or the letter of a redundant route."""
        changes, letters = self.deltas, self.dashed
        return {edge: signed(changes[edge]) for edge in self.arrows} | {
            edge: letter for edge, (_, letter) in letters.items()
        }

    @property
    def deltas(self) -> dict[Edge, float]:
        """Accuracy change of every edge, in percentage points."""
        changes = zip(self.ablation.edges, self.ablation.deltas, strict=True)
        return {edge: 100 * float(delta) for edge, delta in changes}

    def token(self, layer: int, position: int) -> str:
        return self._word(self.lens[layer][position])

    def _word(self, token: int) -> str:
        return {self.n_digits: "MASK", self.n_digits + 1: "SEP"}.get(int(token), str(int(token)))


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
        lines = (line for label in self.flow.row_labels for line in label.split("\n"))
        return max(text_width(line, style.SMALL) for line in lines) + 5

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
        return self._base + NOTE * len(self.flow.notes)

    @property
    def _base(self) -> float:
        """To below the names of the columns."""
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
        edges = sorted(self.flow.captions)
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
        for edge, text in flow.captions.items():
            taken[edge.layer] += label_area(text, style.SMALL)
        return bool((taken <= FULL * space).all())

    def _place(self, arrows) -> dict[Edge, np.ndarray]:
        """Centres of the labels that find room between their layer's two columns of nodes."""
        labels, captions, changes = {}, self.flow.captions, self.flow.deltas
        for layer in range(self.flow.n_layers):
            here = [edge for edge in arrows if edge.layer == layer]
            if not here:
                continue
            centres = place_labels(
                starts=np.array([arrows[edge][0] for edge in here]),
                ends=np.array([arrows[edge][1] for edge in here]),
                texts=[captions[edge] for edge in here],
                importance=[np.inf if edge in self.flow.dashed else abs(changes[edge]) for edge in here],
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
            look = {"ha": "right", "linespacing": 1.1, "gid": "row"}
            axes.text(*at((x, first[1])), label, va="center" if "\n" in label else "center_baseline", **look)
        for layer in range(flow.n_layers + 1):
            x, _ = self._node(layer, 0)
            name = self._column_name(layer)
            look = {"ha": "center", "va": "bottom", "color": style.GREY}
            axes.text(*at((x, self._base - 4)), name, gid="column", **look)
            for position, colour in enumerate(colours):
                self._draw_node(axes, at(self._node(layer, position)), flow.token(layer, position), colour)
        for edge, weight in flow.arrows.items():
            self._draw_arrow(axes, edge, weight, at, gid=f"arrow {tuple(edge)}")
        for edge, (weight, _) in flow.dashed.items():
            self._draw_arrow(axes, edge, weight, at, gid=f"dashed {tuple(edge)}", dashed=True)
        captions = flow.captions
        for edge, centre in self.labels.items():
            look = {"ha": "center", "va": "center_baseline", "zorder": 5}
            look |= {"style": "italic", "weight": "bold"} if edge in flow.dashed else {}
            halo = [withStroke(linewidth=2.2, foreground="white")]
            axes.text(*at(centre), captions[edge], path_effects=halo, gid=f"label {tuple(edge)}", **look)
        for i, note in enumerate(flow.notes):
            x, y = at((0, self._base + NOTE * (i + 0.5)))
            axes.plot([x, x + NOTE_LINE - 5], [y, y], ls=DASHES, lw=line_width(0.5), color=ARROW)
            axes.text(x + NOTE_LINE, y, note, va="center_baseline", gid="note")

    def _draw_arrow(self, axes, edge: Edge, weight: float, at, gid: str, dashed: bool = False) -> None:
        start, end = map(np.array, map(at, self.arrows[edge]))
        width = line_width(weight)
        look = {"lw": width, "color": ARROW, "zorder": 2}
        if dashed:  # the head stays whole, with a short piece of the line
            to = end - (end - start) * (4 + 2 * width) / np.hypot(*(end - start))
            axes.plot(*zip(to, start, strict=True), ls=DASHES, dash_capstyle="butt", **look)
            start = to
        head = f"-|>,head_length={2 + 0.4 * width},head_width={1 + 0.3 * width}"
        as_given = {"mutation_scale": 1, "shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"}
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle=head, **look, **as_given, gid=gid))

    def _draw_node(self, axes, centre, token: str, colour: str) -> None:
        x, y = centre
        corner = (x - self.node_width / 2, y - NODE_HEIGHT / 2)
        shape = f"round,pad=0,rounding_size={NODE_HEIGHT / 2}"
        look = {"facecolor": "white", "edgecolor": colour, "lw": 1.4, "zorder": 3, "gid": "node"}
        axes.add_patch(FancyBboxPatch(corner, self.node_width, NODE_HEIGHT, boxstyle=shape, **look))
        axes.text(x, y, token, ha="center", va="center_baseline", zorder=4, gid="token")
