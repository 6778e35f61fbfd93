"""The two-layer circuit in pictures: the terms of the difference, and attention over the lists."""

from __future__ import annotations

import dataclasses

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.analysis import AttentionStatistics, Difference
from orderscale_jax.analysis.difference import TERMS
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style
from orderscale_jax.formatting import signed
from orderscale_jax.graph import Edge, Graph

BINS = np.linspace(0, 1, 41)  # of attention
MOST_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class AttentionHistograms:
    """How often each of R attention weights occurs (R = 2n, of one layer n; H heads).

    Attributes:
      n_lists: B.
      graph: of the model.
      counts: int [R, H, 40], lists by weight in 40 bins of equal width from 0 to 1; weights in the order of
        `AttentionStatistics.reads`.
      mean, deviation: [R, H], over lists.
    """

    n_lists: int
    graph: Graph
    counts: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, statistics: AttentionStatistics) -> AttentionHistograms:
        graph = Graph(statistics.alpha.shape[-1], len(statistics.mean_pattern))
        weights = np.stack([statistics.reads[edge] for edge in _read(graph)])  # [R, B, H]
        counts = [[np.histogram(np.clip(x, 0, 1), BINS)[0] for x in of_edge.T] for of_edge in weights]
        _, n_lists, _ = weights.shape
        mean, deviation = (of(weights.astype(np.float64), axis=1) for of in (np.mean, np.std))
        return cls(n_lists, graph, np.array(counts), mean, deviation)

    @property
    def n_heads(self) -> int:
        return self.counts.shape[1]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """What the R weights are of."""
        return _read(self.graph)


def _read(graph: Graph) -> tuple[Edge, ...]:
    """The edges of alpha_1 … alpha_n, then of beta_s, beta_o1 …"""
    n, last = graph.list_len, graph.n_layers - 1
    return graph.reads(0, n) + (graph.reads(last, 2 * n) if last else ())


@style.styled
def difference_bars(difference: Difference, published: Difference | None = None) -> Figure:
    """What each term adds to the logit of d2 minus the logit of d1 at o2.

    Bars from the base (`l_o1`) through the six terms to the final value; the stepped line is the sum so far.
    With the published checkpoint's, those are on the left and ours on the right, on the same scale.

    Source: paper, Figure 2.
    """
    shown = [difference] if published is None else [published, difference]
    for of in shown:
        check_kind("difference", of, Difference)
    n_rows = 2 + len(difference.terms)
    size = style.PAGE if len(shown) > 1 else style.COLUMN, 0.24 * n_rows + 0.75 + 0.15 * (len(shown) > 1)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for axes, of in zip(panels, shown, strict=True):
        _bars(axes, of)
    terms_named = (f"${TERMS[name].latex}$" for name in difference.terms)
    panels[0].set_yticks(range(n_rows), [r"$l_{o1}$ (base)", *terms_named, r"$l_{o2}$ (sum)"])
    panels[0].set_ylim(n_rows - 0.4, -0.6)
    panels[0].margins(x=0.04)
    if len(shown) > 1:
        for axes, name in zip(panels, style.SIDES, strict=True):
            axes.set_title(name, weight="bold")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", borderpad=0.2)
    return figure


def _bars(axes, difference: Difference) -> None:
    """A bar for the base, each term and the sum, their values beside them, and the sum so far."""
    terms = list(difference.terms.values())
    values = [difference.base, *terms, difference.final]
    totals = np.cumsum([difference.base, *terms])
    rows = np.arange(len(values))
    colours = [style.BLUE if value >= 0 else style.VERMILLION for value in terms]
    axes.barh(rows, values, height=0.62, color=[style.GREY, *colours, style.GREY])
    edges = np.arange(len(totals) + 1) - 0.5
    axes.stairs(totals, edges, orientation="horizontal", baseline=None, color=style.INK, lw=1.1)
    axes.plot([], [], color=style.INK, lw=1.1, label="sum so far")
    axes.axvline(0, color=style.GREY, lw=0.6)
    beside = {"xytext": (26, 0), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    for row, value in zip(rows, values, strict=True):
        axes.annotate(signed(value, 2), (1, row), **beside, ha="right", va="center_baseline")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"logit of $d_2$ − logit of $d_1$, mean over {difference.n_lists:,} lists")


@style.styled
def attention_histograms(
    statistics: AttentionStatistics | AttentionHistograms, published: AttentionHistograms | None = None
) -> Figure:
    """How often each attention weight occurs: alpha (SEP reads digits), beta (last output reads).

    For lists of two digits these are alpha_1, alpha_2, beta_s and beta_o1; in one layer there are no betas,
    as outputs read nothing. Several heads are drawn as outlines in one panel. With the published
    checkpoint's, those are on the left and ours on the right, on the same scales.

    Raises:
      UserError: the published one has lists of another length, other layers or heads.

    Source: paper, section 4 and its figure of attention histograms.
    """
    if not isinstance(statistics, AttentionHistograms):
        check_kind("statistics", statistics, AttentionStatistics)
        statistics = AttentionHistograms.of(statistics)
    shown = [statistics]
    if published is not None:
        check_kind("published", published, AttentionHistograms)
        if (published.graph, published.n_heads) != (statistics.graph, statistics.n_heads):
            raise UserError(
                "attention is compared between models with the same list length, layers and heads: one has "
                f"{_shape(published)}, the other {_shape(statistics)}"
            )
        shown = [published, statistics]
    n, n_heads = statistics.graph.list_len, statistics.n_heads
    columns = min(n, MOST_COLUMNS)
    rows_each = -(-n // columns)
    n_rows = rows_each * (2 if statistics.graph.n_layers > 1 else 1)
    width = style.COLUMN if columns * len(shown) <= 2 else style.PAGE
    height = 1.35 * n_rows + 0.2 * (n_heads > 1) + 0.2 * (len(shown) > 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    sides = figure.subfigures(1, len(shown), squeeze=False)[0]
    for side, of in zip(sides, shown, strict=True):
        grid = side.subplots(n_rows, columns, sharex=True, sharey="row", squeeze=False)
        _histograms(grid, of, rows_each)
    if len(shown) > 1:
        for side, name in zip(sides, style.SIDES, strict=True):
            side.suptitle(name, weight="bold", x=0.02, ha="left")
        for pair in zip(*(side.axes for side in sides), strict=True):
            top = max(axes.get_ylim()[1] for axes in pair)
            for axes in pair:
                axes.set_ylim(0, top)
    if n_heads > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(n_heads, 4))
    return figure


def _histograms(grid, histograms: AttentionHistograms, rows_each: int) -> None:
    """A panel for each weight: alphas above, `rows_each` rows of them, betas below."""
    n, n_heads, names = histograms.graph.list_len, histograms.n_heads, histograms.graph.names
    columns = grid.shape[1]
    for axes in grid.flat:
        axes.set_visible(False)
    for k, edge in enumerate(histograms.edges):
        block, i = divmod(k, n)
        of = names[edge.key].replace("SEP", "s") if block else i + 1
        title = rf"$\{('alpha', 'beta')[block]}_{{{of}}}$: {names[edge.query]} ← {names[edge.key]}"
        axes = grid[block * rows_each + i // columns, i % columns]
        axes.set_visible(True)
        for head, counts in enumerate(histograms.counts[k]):
            colour = style.CYCLE[head % len(style.CYCLE)]
            shares = counts / histograms.n_lists
            axes.stairs(shares, BINS, fill=n_heads == 1, color=colour, lw=1.1, label=f"head {head}")
            mark = style.INK if n_heads == 1 else colour
            axes.axvline(histograms.mean[k, head], color=mark, lw=0.9, ls=(0, (3, 2)))
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_title(title, pad=13 if n_heads == 1 else 4)
        if n_heads == 1:
            spread = f"mean {histograms.mean[k, 0]:.3f}, sd {histograms.deviation[k, 0]:.3f}"
            axes.text(0, 1.03, spread, transform=axes.transAxes, color=style.GREY, va="bottom")
        axes.set_xlabel(f"attention in layer {edge.layer}")
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, steps=(1, 2, 5, 10)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
        axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel(f"of {histograms.n_lists:,} lists")


def _shape(histograms: AttentionHistograms) -> str:
    graph = histograms.graph
    return f"lists of {graph.list_len}, {graph.n_layers} layers, {histograms.n_heads} heads"
