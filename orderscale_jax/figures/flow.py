"""Figure 1 of the paper: how information flows from the digits through SEP to the outputs."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orderscale_jax.errors import UserError
from orderscale_jax.figures import style
from orderscale_jax.figures.flow_layout import ARROW, STATIONS, Panel, line_width
from orderscale_jax.figures.labels import text_width
from orderscale_jax.graph import Edge, position_names

if TYPE_CHECKING:
    from orderscale_jax.analysis.ablation import EdgeAblation

LEAST_ATTENTION = 0.04  # of an arrow (paper, Figure 1)

# Lengths in points.
MARGIN, BETWEEN = 6.0, 18.0
LINE = 10.0  # of legend and caption


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
        raise UserError("information_flow needs at least one Flow")
    panels = [Panel.fit(flow) for flow in flows]
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
        Line2D([], [], lw=line_width(weight), color=ARROW, label=f"attention {weight:g}")
        for weight in (0.1, 0.5, 1.0)
    ]
    return [*nodes, residual, *attention]


def _caption(panels: list[Panel]) -> str:
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
