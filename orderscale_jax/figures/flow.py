"""Figure 1 of the paper: how information flows from the digits through SEP to the outputs."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style
from orderscale_jax.figures.flow_layout import (
    ARROW,
    DASHES,
    LEAST_ATTENTION,
    STATIONS,
    WRONG,
    Flow,
    Panel,
    line_width,
)
from orderscale_jax.figures.labels import text_width
from orderscale_jax.formatting import MODE_WORDS, points_of

# Lengths in points.
MARGIN, BETWEEN = 6.0, 14.0
LINE = 10.0  # of legend and caption


@style.styled
def information_flow(*flows: Flow) -> Figure:
    """Nodes per position and layer, an arrow per critical edge, panels side by side.

    A node carries the arg-max of the logit lens there. An arrow's width grows with attention, its
    label is the change of accuracy in percentage points when the edge is cut. Redundant routes are dashed,
    a letter for each, with the change when both are cut below the panel. Columns widen until no label
    overlaps another or a node; labels that still find no room are left off and counted in the caption.

    Source: paper, Figure 1, which has no redundant routes.
    """
    if not flows:
        raise UserError("information_flow needs at least one Flow")
    for flow in flows:
        check_kind("a panel", flow, Flow)
    panels = [Panel.fit(flow) for flow in flows]
    width = max(
        sum(panel.width for panel in panels) + BETWEEN * (len(panels) - 1) + 2 * MARGIN,
        style.COLUMN * style.POINTS,
    )
    handles = _legend_handles(panels)
    legend_rows, legend_columns = _legend_shape(handles, width - 2 * MARGIN)
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
        handles=handles,
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


def _legend_shape(handles: list[Line2D], width: float) -> tuple[int, int]:
    """Rows and columns, as many columns as fit; a legend fills column by column."""
    entries = [text_width(handle.get_label(), style.SMALL) + 33 for handle in handles]
    for columns in range(len(entries), 1, -1):
        groups = np.array_split(entries, columns)
        if sum(max(group) for group in groups) < width:
            break
    return len(groups[0]), columns


def _legend_handles(panels: list[Panel]) -> list[Line2D]:
    nodes = [
        Line2D([], [], marker="o", ls="", ms=7, mfc="white", mec=colour, mew=1.4, label=name)
        for name, colour in STATIONS.items()
    ]
    residual = Line2D([], [], ls=(0, (1, 2)), lw=0.8, color=style.GREY, label="residual stream")
    attention = [
        Line2D([], [], lw=line_width(weight), color=ARROW, label=f"attention {weight:g}")
        for weight in (0.1, 1.0)
        if any(panel.arrows for panel in panels)
    ]
    redundant = Line2D([], [], lw=line_width(0.5), ls=DASHES, color=ARROW, label="redundant route")
    return [*nodes, residual, *attention, *[redundant] * any(panel.flow.dashed for panel in panels)]


def _caption(panels: list[Panel]) -> str:
    """What nodes and arrows are, in a few sentences that hold for these panels."""
    flows = [panel.flow for panel in panels]
    ablations = [flow.ablation for flow in flows]
    modes = " / ".join(dict.fromkeys(MODE_WORDS[a.mode] for a in ablations))
    tolerances = " / ".join(dict.fromkeys(points_of(a.tolerance) for a in ablations))
    sources = " / ".join(dict.fromkeys(flow.patterns_of for flow in flows))
    dashed = any(flow.dashed for flow in flows)
    text = (
        "In a node: logit lens, what the model would answer if it stopped there (arg-max of residual @ W_U); "
        f"only outputs in the last column are trained to answer. {'Solid arrows' if dashed else 'Arrows'}: "
        f"edges whose cut alone ({modes}) lowers accuracy by over {tolerances}; "
        "numbers: the change in percentage points. "
    )
    if dashed:
        text += "Dashed: no cut alone does, but one in each route. "
    text += f"Shown is attention above {LEAST_ATTENTION} ({sources})."
    if not any(flow.arrows for flow in flows):
        text += f" There is no {'solid arrow' if dashed else 'such edge'}."
    if left_off := sum(len(flow.alternatives) - len(flow.shown_alternatives) for flow in flows):
        text += f" {left_off} more pair{' of routes is' if left_off == 1 else 's of routes are'} not drawn."
    if any(WRONG in label for flow in flows for label in flow.row_labels):
        text += f" {WRONG}: a wrong answer."
    heads = {a.head for a in ablations}
    if heads != {None}:
        text += " Cut in head " + " / ".join(str(head) for head in sorted(heads, key=str)) + " only."
    elif any(np.shape(flow.patterns)[1] > 1 for flow in flows):
        text += " Of several heads the largest attention is shown; the cut is in all."
    missing = sum(len(panel.arrows) - len(panel.labels) for panel in panels)
    if missing:
        text += f" {missing} numbers are left off for want of room."
    return text
