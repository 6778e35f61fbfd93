"""What carries order: what exchanging each part of SEP does, at which dose, and where lists are lost."""

from __future__ import annotations

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.analysis import Order
from orderscale_jax.errors import check_kind
from orderscale_jax.figures import style

NAMES = {  # of what is exchanged, as in `Order.exchange`
    "reversed_list": "all of SEP",
    "alphas": "both weights (α₁, α₂)",
    "positions": "weights of P₁, P₂ alone",
    "embeddings": "weights of E[d1], E[d2] alone",
    "random_weights": "P₁, P₂ as in another list",
    "random_directions": "random, as long as P's",
    "random_directions_embeddings": "random, as long as E's",
}
CONTROLS = ("random_weights", "random_directions", "random_directions_embeddings")


@style.styled
def order_exchanges(found: Order) -> Figure:
    """Lists reversed by each exchange in SEP, and by doses of it; lists right by the gap of the two alphas.

    In the first panel controls are grey. In the second a dose of 1 is the exchange of the weights of P_1 and
    P_2; the dashed lines are random vectors of the same length. In the third numbers count lists.
    """
    check_kind("found", found, Order)
    figure = Figure(figsize=(style.PAGE, 2.45), layout="constrained")
    bars, doses, gaps = figure.subplots(1, 3, width_ratios=(1.35, 1, 1))
    names = list(NAMES)[::-1]
    shares = [found.exchange[name].reversed for name in names]
    colors = [style.GREY if name in CONTROLS else style.BLUE for name in names]
    bars.barh(range(len(names)), shares, color=colors, height=0.65)
    bars.set_yticks(range(len(names)), [NAMES[name] for name in names])
    for y, share in enumerate(shares):
        bars.text(share + 0.015, y, f"{100 * share:.1f}", va="center", size=style.SMALL)
    bars.set(xlim=(0, 1.12), xlabel="lists reversed", title="exchanged in SEP")
    factors = list(found.scaling)
    for field, color in (("reversed", style.BLUE), ("right", style.ORANGE)):
        along, random = (
            [getattr(x, field) for x in effects] for effects in zip(*found.scaling.values(), strict=True)
        )
        doses.plot(factors, along, color=color, lw=1.1)
        doses.plot(factors, random, color=color, lw=0.9, ls=(0, (3, 2)))
        top = int(np.argmax(along))
        doses.annotate(
            field,
            (factors[top], along[top]),
            xytext=(0, 3),
            textcoords="offset points",
            color=color,
            ha="center",
        )
    doses.set(
        xlabel="dose along P₁ − P₂ (1: exchange),\ndashed: a random vector as long",
        ylim=(-0.02, 1.04),
        title="steering SEP",
    )
    middles = np.arange(len(found.gap_lists))
    gaps.bar(middles, np.nan_to_num(found.gap_accuracy), color=style.SKY, width=0.8)
    for x, count in enumerate(found.gap_lists):
        gaps.text(x, 0.03, f"{count:,}", ha="center", va="bottom", rotation=90)
    edges = [f"{edge:g}".replace("0.", ".") for edge in found.gaps]
    gaps.set_xticks(np.arange(len(edges)) - 0.5, edges)
    gaps.set(xlabel="|α₁ − α₂|", ylim=(0, 1.04), title="lists right")
    bars.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    for axes in (doses, gaps):
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    return figure
