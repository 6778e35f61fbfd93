"""When runs break through: the share still stuck over the steps, and the share freed over a dose."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Sized

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from matplotlib.transforms import ScaledTranslation

from orderscale_jax.errors import UserError
from orderscale_jax.figures import cells, style
from orderscale_jax.figures.legends import legend_below
from orderscale_jax.training.sweep_results import Summary, wilson_interval

MOST = 8  # curves that can be told apart
MARKERS = "osD^vPX*"
APART, BESIDE = 0.7, 3.5  # points between curves that run together, and between series at one dose
AIR, CHARACTER = 0.02, 0.021  # between labels of an axis and of their characters, as shares of the axis


@style.styled
def survival_curves(groups: Mapping[str, Summary] | Sequence[Summary], *, log: bool = False) -> Figure:
    """The share of runs without a transition so far over training steps, a curve per group.

    Kaplan and Meier's estimate, with 95 % intervals by the exponential Greenwood formula where it has any.
    A tick is where runs ended without a transition. Curves are drawn 0.7 points apart, so that none hides
    another while they run together.

    Args:
      groups: by their labels; in a sequence each is named by its fields.
      log: whether steps are on a logarithmic axis.

    Raises:
      UserError: there is no group, more than `MOST`, or one without runs.
    """
    from scipy.stats import ecdf

    named = isinstance(groups, Mapping)
    labels = list(groups) if named else [cells.words(summary.values) or "all runs" for summary in groups]
    summaries = list(groups.values()) if named else groups
    _check(summaries, "group")
    curves = [ecdf(summary.waits).sf for summary in summaries]
    figure = Figure(figsize=(style.COLUMN, 2.0), layout="constrained")
    axes = figure.subplots()
    start = 0.7 * min(curve.quantiles[0] for curve in curves) if log else 0.0
    for i, (label, summary, curve) in enumerate(zip(labels, summaries, curves, strict=True)):
        look = _look(axes, i, down=APART * (i - (len(labels) - 1) / 2))
        if band := _band(curve):
            axes.fill_between(*band, step="post", alpha=0.13, lw=0, gid="band", **look)
        steps, shares = np.append(start, curve.quantiles), np.append(1.0, curve.probabilities)
        dashes = "-" if i < len(style.CYCLE) else (0, (3, 1))
        label = f"{label}: {summary.transitions} of {summary.n_runs}"
        axes.plot(steps, shares, drawstyle="steps-post", lw=1.2, ls=dashes, label=label, gid="curve", **look)
        tick = {"ls": "", "marker": "|", "ms": 6, "mew": 1.0, "clip_on": False, "in_layout": False}
        stuck = summary.steps[~np.isfinite(summary.transition_steps)]
        axes.plot(stuck, curve.evaluate(stuck), gid="stuck", **tick, **look)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter("")
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(start, (1.15 if log else 1.03) * max(curve.quantiles[-1] for curve in curves))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set(ylim=(-0.04, 1.04), xlabel="training step", ylabel="share of runs still stuck")
    legend_below(
        figure, *axes.get_legend_handles_labels(), "how many broke through (tick: ended stuck, band: 95 %)"
    )
    return figure


@style.styled
def dose_response(
    series: Mapping[str, Sequence[tuple[float, Summary]]], xlabel: str = "dose", *, log: bool = False
) -> Figure:
    """What a dose does: the share of runs that break through, and below it how soon they do.

    Above, a dot is the share of runs with a transition, with Wilson's 95 % interval. Below, it is the step
    by which half of all runs had theirs, with a bar from a quarter of them to three quarters, and an arrow
    where fewer ever had. Series stand beside each other at every dose.

    Args:
      series: by their labels, each some pairs of a dose and its runs.
      xlabel: what the dose is.
      log: whether doses are on a logarithmic axis; 0 is then on its left, behind a break.

    Raises:
      UserError: there is no series, more than `MOST`, one without doses, a dose without runs, or one that
        is not finite or, on a logarithmic axis, negative.
    """
    _check(series, "series")
    doses = np.unique([dose for points in series.values() for dose, _ in points])
    if not all(series.values()) or not np.isfinite(doses).all():
        raise UserError("every series needs a dose, and doses must be finite")
    if not all(summary.n_runs for points in series.values() for _, summary in points):
        raise UserError("every dose needs at least one run")
    if log and (doses[0] < 0 or doses[-1] == 0):
        raise UserError("doses on a logarithmic axis must not be negative, and not all 0")
    series = {label: sorted(points, key=lambda point: point[0]) for label, points in series.items()}
    quartiles = {  # [3, D]
        label: np.transpose([[s.transition_quantile(q) for q in (0.25, 0.5, 0.75)] for _, s in points])
        for label, points in series.items()
    }
    reached = [found[np.isfinite(found)].max(initial=0) for found in quartiles.values()]
    top = 1.1 * (max(reached) or max(s.steps.max() for points in series.values() for _, s in points))
    figure = Figure(figsize=(style.COLUMN, 2.7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    zero = _dose_axis((above, below), doses, log)
    for i, (label, points) in enumerate(series.items()):
        x = np.array([zero if log and dose == 0 else dose for dose, _ in points])
        counts = [(summary.transitions, summary.n_runs) for _, summary in points]
        intervals = np.transpose([wilson_interval(*count) for count in counts])
        low, median, high = quartiles[label]
        endless = np.isfinite(low) & np.isnan(high)
        bars = low, np.where(endless, top, high)
        shares = np.array([transitions / runs for transitions, runs in counts])
        for axes, y, ends, gid in ((above, shares, intervals, "share"), (below, median, bars, "median")):
            look = _look(axes, i, right=BESIDE * (i - (len(series) - 1) / 2))
            axes.vlines(x, *ends, lw=1.3, alpha=0.5, gid=f"{gid} bar", **look)
            axes.plot(x[x != zero], y[x != zero], lw=0.8, alpha=0.6, **look)
            dot = {"ls": "", "marker": MARKERS[i], "ms": 4.5, "mec": "white", "mew": 0.5}
            axes.plot(x, y, label=label, gid=gid, **dot, **look | {"zorder": 3})
        arrow = {"ls": "", "marker": "^", "ms": 3.5, "mec": "none", "clip_on": False, "in_layout": False}
        below.plot(x[endless], np.full(endless.sum(), top), gid="endless", **arrow, **look)
    above.set(ylim=(-0.05, 1.05), ylabel="share that\nbroke through")
    below.set(ylim=(0, top), ylabel="transition step\n(median, quartiles)", xlabel=xlabel)
    below.yaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    figure.align_ylabels()
    legend_below(figure, *above.get_legend_handles_labels())
    return figure


def _check(shown: Sized, noun: str):
    if not 0 < len(shown) <= MOST:
        raise UserError(f"this figure takes 1 to {MOST} {noun}{'s' * (noun[-1] != 's')}, got {len(shown)}")


def _look(axes, i: int, right: float = 0.0, down: float = 0.0) -> dict:
    """Colour, order and place of the i-th curve, moved by some points on the page but not in its data."""
    shift = ScaledTranslation(right / style.POINTS, -down / style.POINTS, axes.figure.dpi_scale_trans)
    color = style.CYCLE[i % len(style.CYCLE)]
    return {"color": color, "zorder": 2.5 - 0.01 * i, "transform": axes.transData + shift}


def _band(curve) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps [E] with the lower and upper ends of a curve's interval, or None where it has none at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that it has none while the share is 1 or 0
        interval = curve.confidence_interval(method="log-log")
    known = np.flatnonzero(np.isfinite(interval.low.probabilities))
    if not known.size:
        return None
    shown = np.arange(known[0], min(known[-1] + 2, len(curve.quantiles)))  # up to where the last one ends
    filled = np.minimum(shown, known[-1])
    return curve.quantiles[shown], interval.low.probabilities[filled], interval.high.probabilities[filled]


def _dose_axis(panels, doses: np.ndarray, log: bool) -> float | None:
    """Ticks at doses, with labels where there is room; where 0 is on a logarithmic axis, None without it."""
    zero, x, scale = None, doses, np.log10 if log else np.asarray
    if log and doses[0] == 0:
        low, high = np.log10(doses[[1, -1]])
        zero = 10 ** (low - max(0.3, (high - low) / 4))
        x = np.append(zero, doses[1:])
    at = scale(x)
    span = at[-1] - at[0] or 1.0
    labels, kept, free = [cells.entry(dose) for dose in doses.tolist()], [], -np.inf
    for i, label in enumerate(labels):
        place, half = (at[i] - at[0]) / span, CHARACTER * len(label) / 2
        if place - half >= free:
            kept.append(i)
            free = place + half + AIR
    for axes in panels:
        ends = at[0] - 0.07 * span, at[-1] + 0.07 * span
        if log:
            axes.set_xscale("log")
            ends = 10 ** np.array(ends)
        axes.set_xlim(*ends)
        axes.set_xticks(x, [""] * len(x), minor=True)
        axes.set_xticks(x[kept], [labels[i] for i in kept])
        if zero:
            between = np.sqrt(x[0] * x[1])
            gap = {"ha": "center", "va": "center", "color": style.GREY, "size": style.SMALL, "gid": "break"}
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0}
            axes.text(between, 0, "//", transform=axes.get_xaxis_transform(), bbox=box, **gap)
    return zero
