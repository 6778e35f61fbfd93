"""Every edge's ablation as a matrix per layer."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from orderscale_jax.analysis import EdgeAblation
from orderscale_jax.errors import check_kind
from orderscale_jax.figures import style
from orderscale_jax.formatting import signed

# Lengths in points.
CELL, SMALL_CELL = 24.0, 12.0  # the first has room for a number
MOST_NUMBERED = 9  # positions; beyond, cells are small and colour speaks alone
LEFT, GAP, TITLE, TICKS = 24.0, 8.0, 18.0, 14.0
BELOW = 58.0  # colour bar and legend
COLOURS = LinearSegmentedColormap.from_list(
    "change", ["#B0301C", "#F3B8A2", "#EFEFEF", "#8CBFE0", style.BLUE]
)
LEAST_SCALE = 1.0  # percentage points at the end of the colour scale, so that noise stays pale
DEAD = {"facecolor": "white", "edgecolor": "#BDBDBD", "hatch": "/////", "lw": 0}
CRITICAL = {"facecolor": "none", "edgecolor": style.INK, "lw": 1.2}


@style.styled
def ablation_matrix(ablation: EdgeAblation) -> Figure:
    """The change of accuracy when each edge is cut: a matrix per layer, query rows, key columns.

    Dead edges (none of their effect can reach an output) are hatched, critical ones framed, and
    cells without an edge are blank.

    Source: paper, section 3, the ablation behind its Figure 1.
    """
    check_kind("ablation", ablation, EdgeAblation)
    n_layers, positions, names = ablation.graph.n_layers, ablation.graph.n_positions, ablation.graph.names
    numbered = positions <= MOST_NUMBERED
    cell = CELL if numbered else SMALL_CELL
    side = positions * cell
    columns = max(1, min(n_layers, int(style.PAGE * style.POINTS // (side + LEFT + GAP))))
    rows = -(-n_layers // columns)
    width = max(columns * (LEFT + side + GAP), style.COLUMN * style.POINTS)
    height = rows * (TITLE + TICKS + side + GAP) + BELOW
    points = 100 * np.asarray(ablation.deltas, float)
    scale = max(np.abs(points[np.asarray(ablation.live)]).max(initial=0), LEAST_SCALE)
    norm = Normalize(-scale, scale)

    figure = Figure(figsize=(width / style.POINTS, height / style.POINTS))
    left = (width - columns * (LEFT + side + GAP)) / 2
    for layer in range(n_layers):
        row, column = divmod(layer, columns)
        x = left + LEFT + column * (LEFT + side + GAP)
        y = height - (row + 1) * (TITLE + TICKS + side) - row * GAP
        axes = figure.add_axes((x / width, y / height, side / width, side / height))
        axes.set(xlim=(0, positions), ylim=(positions, 0))
        axes.set_xticks(np.arange(positions) + 0.5, names, rotation=0 if numbered else 90)
        axes.set_yticks(np.arange(positions) + 0.5, names)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_title(f"layer {layer}", weight="bold", pad=TICKS + (2 if numbered else 8))
        axes.set_xticks(np.arange(positions + 1), minor=True)
        axes.set_yticks(np.arange(positions + 1), minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color=style.PALE, lw=0.4)
        axes.set_axisbelow(False)
    for edge, change, live in zip(ablation.edges, points, ablation.live, strict=True):
        axes, corner = figure.axes[edge.layer], (edge.key, edge.query)
        if not live:
            axes.add_patch(Rectangle(corner, 1, 1, **DEAD, gid="dead"))
            continue
        colour = COLOURS(norm(change))
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, lw=0, gid="live"))
        if numbered:
            dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5
            ink = "white" if dark else style.INK
            where = (edge.key + 0.5, edge.query + 0.5)
            axes.text(*where, signed(change), color=ink, ha="center", va="center_baseline", zorder=3)
    for edge in ablation.critical:
        frame = Rectangle((edge.key, edge.query), 1, 1, **CRITICAL, zorder=3, clip_on=False, gid="critical")
        figure.axes[edge.layer].add_patch(frame)

    _scale_and_legend(figure, norm, points.max(initial=0), ablation)
    return figure


def _scale_and_legend(figure: Figure, norm: Normalize, gain: float, ablation: EdgeAblation) -> None:
    """The colour bar, up to the largest gain, and the meaning of hatch and frame, below the matrices."""
    width, height = figure.get_size_inches() * style.POINTS
    bar_width = min(width - 40, 200)
    left = (width - bar_width) / 2
    bar = figure.add_axes((left / width, (BELOW - 16) / height, bar_width / width, 6 / height))
    digits = 0 if norm.vmax > 5 else 1
    colours, form = ScalarMappable(norm, COLOURS), lambda value, _: signed(value, digits)
    figure.colorbar(colours, cax=bar, orientation="horizontal", format=form)
    bar.set_xlim(norm.vmin, max(gain, 0.1 * norm.vmax))
    where = "" if ablation.head is None else f", head {ablation.head}"
    bar.set_xlabel(f"change of accuracy when cut ({ablation.mode}{where}), percentage points", labelpad=2)
    figure.legend(
        handles=[
            Patch(**CRITICAL, label=f"critical (below {signed(-100 * ablation.tolerance)})"),
            Patch(**DEAD, label="dead: reaches no output"),
        ],
        loc="lower center",
        ncols=2,
        borderpad=0.3,
        borderaxespad=0,
        handlelength=1.4,
    )
