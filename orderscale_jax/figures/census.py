"""A census of models in one picture: are their circuits the same, and what carries order in each?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.analysis.order import EXCHANGES
from orderscale_jax.errors import UserError
from orderscale_jax.figures import style
from orderscale_jax.figures.order import FIELDS

BAR = 0.8  # of the mean Jaccard index above which circuits are called stable (arXiv 2510.00845)
KINDS = {
    "two_layer": "two layers",
    "two_layer_fresh": "two layers,\nlists drawn afresh",
    "three_layer": "three layers",
    "layer_norm": "two layers,\nLayerNorm",
}
BETWEEN = {
    "between_seeds": ("seeds", style.BLUE, "o"),
    "between_resamples": ("resampled lists", style.GREEN, "s"),
    "between_draws": ("draws of messages", style.PURPLE, "^"),
    "between_modes": ("meanings of a cut", style.VERMILLION, "D"),
}


@style.styled
def census_overview(said: Mapping[str, Any]) -> Figure:
    """Likeness of first minimal circuits by kind of model and meaning of a cut; below, what reverses lists.

    Below, a dot is a model and a line the median. The dashed line is the bar of 0.8 for a stable circuit.

    Args:
      said: what `orderscale census` writes to census.json.

    Raises:
      UserError: it holds no summary.
    """
    summary = said.get("summary") if isinstance(said, Mapping) else None
    if not isinstance(summary, Mapping) or not summary:
        raise UserError("there is no census to draw: give what orderscale census wrote to census.json")
    with_order = [kind for kind, found in summary.items() if "order" in found]
    rows = 1 + bool(with_order)
    figure = Figure(figsize=(style.PAGE, 2.3 + 2.8 * (rows - 1)), layout="constrained")
    heights = figure.subfigures(rows, 1, squeeze=False, height_ratios=(2.3, 2.8)[:rows])[:, 0]
    for axes, (kind, found) in zip(_row(heights[0], len(summary)), summary.items(), strict=True):
        modes = list(found["circuits"])
        for i, (key, (name, color, marker)) in enumerate(BETWEEN.items()):
            marks = [found["circuits"][mode][key]["jaccard"] for mode in modes]
            x = np.arange(len(modes)) + 0.18 * (i - 1.5)
            axes.plot(x, [np.nan if y is None else y for y in marks], marker, color=color, ms=4, label=name)
        axes.axhline(BAR, color=style.GREY, lw=0.6, ls=(0, (4, 3)))
        models = found["circuits"][modes[0]]["models"]
        axes.set_title(f"{KINDS.get(kind, kind)} ({models})")
        axes.set_xticks(range(len(modes)), modes, rotation=35, ha="right", rotation_mode="anchor")
        axes.set(ylim=(-0.03, 1.08), xlim=(-0.5, len(modes) - 0.5))
    first = heights[0].axes[0]
    first.set_ylabel("mean Jaccard index of\nfirst minimal circuits")
    heights[0].legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=4, handlelength=1)
    if with_order:
        _orders(heights[1], said, with_order)
    return figure


def _row(subfigure, n: int):
    return subfigure.subplots(1, n, sharey=True, squeeze=False)[0]


def _orders(subfigure, said: Mapping[str, Any], kinds: list[str]):
    """What each change of SEP does, a panel a kind, a dot a model."""
    names = list(EXCHANGES)[::-1]
    for axes, kind in zip(_row(subfigure, len(kinds)), kinds, strict=True):
        orders = [said["models"][kind][str(seed)]["order"] for seed in said["summary"][kind]["seeds"]]
        jitter = 0.25 * (2 * np.random.default_rng(0).random(len(orders)) - 1)
        for field, color in FIELDS.items():
            for y, name in enumerate(names):
                shares = [order["exchange"][name][field] for order in orders]
                axes.scatter(shares, y + jitter, s=4, color=color, alpha=0.6, linewidths=0)
                axes.plot([np.median(shares)] * 2, [y - 0.35, y + 0.35], color=color, lw=1)
        axes.set_yticks(range(len(names)), [EXCHANGES[name] for name in names])
        title = KINDS.get(kind, kind).replace("\n", " ")
        axes.set(xlim=(-0.02, 1.02), xlabel="lists reversed (blue), right (orange)", title=title)
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
