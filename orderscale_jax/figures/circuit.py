"""The two-layer circuit in pictures: the terms of the difference, and attention over the lists."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.analysis import AttentionStatistics, Difference
from orderscale_jax.analysis.difference import TERMS
from orderscale_jax.errors import check_kind
from orderscale_jax.figures import style
from orderscale_jax.formatting import signed
from orderscale_jax.graph import position_names

BINS = np.linspace(0, 1, 41)  # of attention
MOST_COLUMNS = 4


@style.styled
def difference_bars(difference: Difference) -> Figure:
    """What each term adds to the logit of d2 minus the logit of d1 at o2.

    Bars from the base (`l_o1`) through the six terms to the final value; the stepped line is the sum so far.

    Source: paper, Figure 2.
    """
    check_kind("difference", difference, Difference)
    terms = list(difference.terms.values())
    values = [difference.base, *terms, difference.final]
    terms_named = (f"${TERMS[name].latex}$" for name in difference.terms)
    names = [r"$l_{o1}$ (base)", *terms_named, r"$l_{o2}$ (sum)"]
    totals = np.cumsum([difference.base, *terms])
    rows = np.arange(len(values))
    colours = [style.BLUE if value >= 0 else style.VERMILLION for value in terms]

    figure = Figure(figsize=(style.COLUMN, 0.24 * len(values) + 0.75), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(rows, values, height=0.62, color=[style.GREY, *colours, style.GREY])
    edges = np.arange(len(totals) + 1) - 0.5
    axes.stairs(totals, edges, orientation="horizontal", baseline=None, color=style.INK, lw=1.1)
    axes.plot([], [], color=style.INK, lw=1.1, label="sum so far")
    axes.axvline(0, color=style.GREY, lw=0.6)
    beside = {"xytext": (26, 0), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    for row, value in zip(rows, values, strict=True):
        axes.annotate(signed(value, 2), (1, row), **beside, ha="right", va="center_baseline")
    axes.set_yticks(rows, names)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.04)
    axes.set_xlabel(f"logit of $d_2$ − logit of $d_1$, mean over {difference.n_lists:,} lists")
    figure.legend(loc="outside upper left", borderpad=0.2)
    return figure


@style.styled
def attention_histograms(statistics: AttentionStatistics) -> Figure:
    """How often each attention weight occurs: alpha (SEP reads digits), beta (last output reads).

    For lists of two digits these are alpha_1, alpha_2, beta_s and beta_o1. Several heads are drawn
    as outlines in one panel.

    Source: paper, section 4 and its figure of attention histograms.
    """
    check_kind("statistics", statistics, AttentionStatistics)
    n_lists, n_heads, n = statistics.alpha.shape
    columns = min(n, MOST_COLUMNS)
    rows_each = -(-n // columns)
    names = position_names(n)

    width = style.COLUMN if columns <= 2 else style.PAGE
    figure = Figure(figsize=(width, 1.35 * 2 * rows_each + 0.2 * (n_heads > 1)), layout="constrained")
    grid = figure.subplots(2 * rows_each, columns, sharex=True, sharey="row", squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for k, (edge, weights) in enumerate(statistics.reads.items()):
        block, i = divmod(k, n)
        of = names[edge.key].replace("SEP", "s") if block else i + 1
        title = rf"$\{('alpha', 'beta')[block]}_{{{of}}}$: {names[edge.query]} ← {names[edge.key]}"
        axes = grid[block * rows_each + i // columns, i % columns]
        axes.set_visible(True)
        _histogram(axes, weights)
        axes.set_title(title, pad=13 if n_heads == 1 else 4)
        if n_heads == 1:
            spread = f"mean {weights.mean():.3f}, sd {weights.std():.3f}"
            axes.text(0, 1.03, spread, transform=axes.transAxes, color=style.GREY, va="bottom")
        axes.set_xlabel(f"attention in layer {edge.layer}")
        axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel(f"of {n_lists:,} lists")
    if n_heads > 1:
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(n_heads, 4))
    return figure


def _histogram(axes, weights: np.ndarray) -> None:
    """Counts of weights [B, H]: filled for one head, an outline a head for several."""
    several = weights.shape[1] > 1
    for head, of_head in enumerate(weights.T):
        colour = style.CYCLE[head % len(style.CYCLE)]
        counts, _ = np.histogram(np.clip(of_head, 0, 1), BINS)
        axes.stairs(counts, BINS, fill=not several, color=colour, lw=1.1, label=f"head {head}")
        axes.axvline(of_head.mean(), color=colour if several else style.INK, lw=0.9, ls=(0, (3, 2)))
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
