"""What carries order: what each change of SEP does, at which dose, and where lists are lost."""

from __future__ import annotations

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orderscale_jax.analysis import Order
from orderscale_jax.analysis.order import EXCHANGES
from orderscale_jax.errors import check_kind
from orderscale_jax.figures import style

FIELDS = {"reversed": (style.BLUE, "o"), "right": (style.VERMILLION, "^")}  # of an effect, how it is drawn
DASHED = (0, (3, 2))


@style.styled
def order_exchanges(found: Order) -> Figure:
    """Lists reversed and lists right after each change of SEP and each dose; lists right by the alphas' gap.

    Filled marks and lines are the changes, open marks and dashes random vectors as long. A dose is a multiple
    of the vector that exchanges the weights of P_1 and P_2, or of P_1 - P_2, towards the weights of the
    reversed list. Among the gaps numbers count lists.
    """
    check_kind("found", found, Order)
    figure = Figure(figsize=(style.PAGE, 5.0), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    effects, gaps = above.subplots(1, 2, width_ratios=(1, 0.8))
    _effects(effects, found)
    _gaps(gaps, found)
    gaps.set(title="lists right by |α₁ − α₂|")
    doses = below.subplots(1, 2, sharey=True)
    _doses(doses[0], found.scaling)
    doses[0].set(xlabel="times the exchange of P₁ and P₂", title="dose in proportion to |α₁ − α₂|")
    doses[0].set_ylabel(f"share of {found.n_lists:,} lists")
    _doses(doses[1], found.steering)
    doses[1].set(xlabel="times P₁ − P₂, towards the reversed list", title="one dose for every list")
    _legend(figure)
    return figure


def _legend(figure: Figure):
    """What colours, filled marks and dashes are, for all panels."""
    entries = [
        Line2D([], [], color=color, marker=marker, ms=4, lw=1.1, label=f"lists {field}")
        for field, (color, marker) in FIELDS.items()
    ]
    look = {"color": style.GREY, "marker": "o", "ms": 4, "mfc": "white", "lw": 0.9, "ls": DASHED}
    entries.append(Line2D([], [], **look, label="open, dashed: a random vector as long instead"))
    figure.legend(handles=entries, loc="outside lower center", ncols=3, handlelength=3)


def _effects(axes, found: Order):
    """A row for each change, a mark for each field."""
    names = list(found.exchange)[::-1]
    for field, (color, marker) in FIELDS.items():
        shares = [getattr(found.exchange[name], field) for name in names]
        axes.plot(shares, range(len(names)), marker, color=color, ms=4)
        controls = {y: found.random_vectors.get(name) for y, name in enumerate(names)}
        rows = [y for y, control in controls.items() if control is not None]
        random = [getattr(controls[y], field) for y in rows]
        axes.plot(random, rows, marker, color=color, ms=4, mfc="none", mew=0.8)
    axes.set_yticks(range(len(names)), [EXCHANGES[name] for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=style.PALE, lw=0.4)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(names) - 0.4), title="weights changed in SEP")
    axes.set_xlabel(f"share of {found.n_lists:,} lists of two different digits")
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))


def _doses(axes, effects):
    """Lines over the dose, dashed for random vectors."""
    for field, (color, marker) in FIELDS.items():
        along, random = ([getattr(x, field) for x in of] for of in zip(*effects.values(), strict=True))
        axes.plot(list(effects), along, color=color, lw=1.1, marker=marker, ms=2.5)
        axes.plot(list(effects), random, color=color, lw=0.9, ls=DASHED)
    axes.set_ylim(-0.02, 1.04)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))


def _gaps(axes, found: Order):
    """Bars for the lists observed, and next to them for all lists."""
    bins = [(found.gap_lists, found.gap_accuracy, style.SKY, "observed")]
    if found.all_lists is not None:
        bins.append((found.all_lists, found.all_accuracy, style.PALE, "all lists"))
    width = 0.8 / len(bins)
    for i, (counts, accuracy, color, label) in enumerate(bins):
        x = np.arange(len(counts)) + width * (i - (len(bins) - 1) / 2)
        axes.bar(x, np.nan_to_num(accuracy), color=color, width=0.95 * width, label=label)
        for at, count in zip(x, counts, strict=True):
            axes.text(at, 0.03, f"{count:,}", ha="center", va="bottom", rotation=90, size=style.SMALL)
    edges = [f"{edge:g}".replace("0.", ".") for edge in found.gaps]
    axes.set_xticks(np.arange(len(edges)) - 0.5, edges)
    axes.set(xlabel="|α₁ − α₂| (numbers: lists in the bin)", ylabel="share right", ylim=(0, 1.18))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    axes.legend(loc="upper left", ncols=2)
