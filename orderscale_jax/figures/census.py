"""A census of models in one picture: are their circuits the same, and what carries order in each?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from orderscale_jax.analysis.order import EXCHANGES
from orderscale_jax.errors import UserError
from orderscale_jax.figures import style
from orderscale_jax.figures.order import FIELDS

BAR = 0.8  # of the mean Jaccard index above which circuits are called stable (arXiv 2510.00845)
LOWEST = 0.5  # index with the darkest colour
ALIKE = LinearSegmentedColormap.from_list("alike", ["#E8896F", "#F7D9CE", "white"])
KINDS = {
    "two_layer": "two layers",
    "two_layer_fresh": "two layers, lists drawn afresh",
    "three_layer": "three layers",
    "layer_norm": "two layers, LayerNorm",
}
BETWEEN = {  # of what two first circuits are
    "between_seeds": "two seeds",
    "between_resamples": "lists resampled",
    "between_draws": "messages\nredrawn",
    "between_modes": "other meaning of a cut",
}
ROW, ORDERS = 0.21, 3.1  # inches: of a line of the table, of the panels below
AROUND = 1.05  # inches above and below the table


@style.styled
def census_overview(said: Mapping[str, Any]) -> Figure:
    """Likeness of first minimal circuits as a table; below, what becomes of lists when SEP is changed.

    The table has a line for each kind of model and a column for each meaning of a cut; indices below 0.8, the
    bar for a stable circuit, are bold. Below, a mark is a model and a line the median.

    Args:
      said: what `orderscale census` writes to census.json.

    Raises:
      UserError: it holds no summary.
    """
    summary = said.get("summary") if isinstance(said, Mapping) else None
    if not isinstance(summary, Mapping) or not summary:
        raise UserError("there is no census to draw: give what orderscale census wrote to census.json")
    with_order = [kind for kind, found in summary.items() if "order" in found]
    heights = [AROUND + ROW * len(summary), *[ORDERS] * bool(with_order)]
    figure = Figure(figsize=(style.PAGE, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _likeness(parts[0], summary)
    if with_order:
        _orders(parts[1], said, with_order)
    return figure


def _likeness(subfigure, summary: Mapping[str, Any]):
    """Mean Jaccard indices: a block for each comparison, in it a column for each meaning of a cut."""
    modes = list(dict.fromkeys(mode for found in summary.values() for mode in found["circuits"]))

    def index(found, mode: str, key: str) -> float:
        value = found["circuits"].get(mode, {}).get(key, {}) or {}
        return np.nan if value.get("jaccard") is None else value["jaccard"]

    tables = {
        key: np.array([[index(found, mode, key) for mode in modes] for found in summary.values()])
        for key in BETWEEN
    }
    shown = {key: np.flatnonzero(np.isfinite(table).any(0)) for key, table in tables.items()}
    shown = {key: columns for key, columns in shown.items() if len(columns)}
    widths = [len(columns) for columns in shown.values()]
    row = subfigure.subplots(1, len(shown), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (key, columns) in zip(row, shown.items(), strict=True):
        table = tables[key][:, columns]
        axes.imshow(table, cmap=ALIKE, vmin=LOWEST, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                weight = "bold" if value < BAR else "normal"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center_baseline", weight=weight)
        axes.set_title(BETWEEN[key], loc="center", size=style.SMALL)
        turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(columns)), [modes[j] for j in columns], **turned)
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(table) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=style.PALE, lw=0.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
    models = [max(of["models"] for of in found["circuits"].values()) for found in summary.values()]
    names = [f"{KINDS.get(kind, kind)} ({n})" for kind, n in zip(summary, models, strict=True)]
    row[0].set_yticks(range(len(names)), names)
    title = f"Mean Jaccard index of first minimal circuits; bold: below {BAR:g}"
    subfigure.suptitle(title, x=0.01, ha="left", weight="bold")


def _orders(subfigure, said: Mapping[str, Any], kinds: list[str]):
    """What each change of SEP does, a panel a kind, a mark a model."""
    names = list(EXCHANGES)[::-1]
    panels = subfigure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        orders = [said["models"][kind][str(seed)]["order"] for seed in said["summary"][kind]["seeds"]]
        jitter = 0.25 * (2 * np.random.default_rng(0).random(len(orders)) - 1)
        for y in range(len(names)):
            axes.axhline(y, color=style.PALE, lw=0.4, zorder=0)
        for field, (color, marker) in FIELDS.items():
            for y, name in enumerate(names):
                shares = [order["exchange"][name][field] for order in orders]
                look = {"s": 6, "color": color, "marker": marker, "alpha": 0.6, "linewidths": 0}
                axes.scatter(shares, y + jitter, **look)
                axes.plot([np.median(shares)] * 2, [y - 0.38, y + 0.38], color=color, lw=1.2)
            axes.plot([], [], marker, color=color, ms=4, label=f"lists {field}")
        axes.set_yticks(range(len(names)), [EXCHANGES[name] for name in names])
        axes.tick_params(axis="y", length=0)
        title = f"{KINDS.get(kind, kind)} ({len(orders)})"
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(names) - 0.4), title=title)
        axes.set_xlabel("share of the lists of two different digits")
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    subfigure.suptitle("What becomes of lists when SEP is changed", x=0.01, ha="left", weight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    subfigure.legend(handles, labels, loc="upper right", ncols=2, borderaxespad=0.1, handletextpad=0.2)
