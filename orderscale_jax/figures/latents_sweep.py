"""Many sparse autoencoders (SAEs): what width and k do, and which numbers rank SAEs alike.

Every function takes rows, a dictionary for each SAE: what `sae.study.row` and `sae.study.options` give of
it, and its `seed`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from orderscale_jax.errors import UserError
from orderscale_jax.figures import style
from orderscale_jax.figures.latents import DASHED, DOTTED, share_of
from orderscale_jax.figures.legends import legend_below
from orderscale_jax.formatting import number
from orderscale_jax.sae.views import GROUPS

MARKERS = "os^DvP"
SAME = ("family", "penalty", "learning_rate", "steps")  # in all rows of a grid
APART = 0.16  # between widths at the same k, of the distance between two k
PROXIES = {"loss_recovered": "loss recovered", "explained_variance": "explained variance"}
TRUTHS = {"mcc": "MCC with the dictionary", "steer_alone": "lists reversed by\nscaling the latent"}
LEAST = 3  # SAEs from which a rank correlation is told


@style.styled
def sae_grid(rows: Sequence[Mapping[str, Any]], group: str = "validation") -> Figure:
    """Lists right, loss recovered, MCC and lists reversed by scaling, over k, with one line for each width.

    A point is a seed, a line joins their means. An open point is an SAE none of whose latents is special; it
    stands for the nearest to one. Black lines are baselines: in the first panel the model with its own SEP,
    in the last the reconstructions unsteered; grey ones there are the controls, means over widths and seeds.

    Args:
      rows: SAEs that differ in width, k and seed alone.
      group: of lists on which the first two are measured: all, training or validation.

    Raises:
      UserError: there is no row, one lacks a number, they differ in something else, or there are too many
        widths.
    """
    measures = (f"patched_lists_{group}", f"loss_recovered_{group}", "mcc", "steer_alone")
    beside = (f"intact_lists_{group}", "steer_before", "steer_other_latent", "steer_random_direction")
    _check(rows, group, (*SAME, "width", "k", "seed", "special_code", *measures, *beside))
    if differ := [name for name in SAME if len({row[name] for row in rows}) > 1]:
        raise UserError(
            f"one grid is of SAEs that differ in width, k and seed alone; these differ in {differ[0]}"
        )
    if any(row["k"] is None for row in rows):
        raise UserError("SAEs of the family l1 have no k, over which a grid is drawn")
    widths, ks = (sorted({row[name] for row in rows}) for name in ("width", "k"))
    if len(widths) > len(MARKERS):
        raise UserError(f"a grid shows at most {len(MARKERS)} widths, got {len(widths)}")
    figure = Figure(figsize=(style.PAGE, 4.0), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    names = ("lists right, SAE in SEP's place", "loss recovered", TRUTHS["mcc"], "lists reversed by scaling")
    titles = (
        f"{group} lists",
        f"{group} lists",
        "of E[d] and P₁ − P₂",
        "of all lists of two different digits",
    )
    for axes, measure, name, title in zip(panels, measures, names, titles, strict=True):
        for i, width in enumerate(widths):
            chosen = [row for row in rows if row["width"] == width]
            _points(axes, chosen, measure, ks, i, APART * (i - (len(widths) - 1) / 2))
        axes.set(ylabel=name, title=title)
        axes.set_xticks(range(len(ks)), ks)
    for axes in (panels[0], panels[3]):
        axes.yaxis.set_major_formatter(share_of)
    for intact in sorted({row[beside[0]] for row in rows}):
        panels[0].axhline(intact, color=style.INK, lw=0.8, ls=DASHED, zorder=0, gid="intact")
    for name, look in zip(beside[1:], _controls(), strict=True):
        means = [np.mean([row[name] for row in rows if row["k"] == k]) for k in ks]
        panels[3].plot(range(len(ks)), means, **look, zorder=1, gid=name)
    for axes in (panels[0], panels[3]):
        axes.set_ylim(bottom=0)
    for axes in panels[2:]:
        axes.set_xlabel("k, latents kept per list")
    figure.align_ylabels(panels)
    handles = [
        Line2D([], [], color=style.CYCLE[i], marker=MARKERS[i], ms=4, lw=1) for i in range(len(widths))
    ]
    labels = [f"{width:,} latents" for width in widths]
    handles += [Line2D([], [], color=style.GREY, marker="o", mfc="white", ms=4, ls="")]
    handles += [Line2D([], [], **look) for look in _controls()]
    labels += ["open: no special latent", "baseline: own SEP (lists right), unsteered (reversed)"]
    labels += ["control: the largest other latent scaled", "control: a random vector scaled"]
    legend_below(figure, handles, labels)
    return figure


def _controls() -> tuple[dict[str, Any], ...]:
    """How the baseline and the two controls of steering are drawn."""
    grey = {"color": style.GREY, "lw": 1.0}
    return {"color": style.INK, "lw": 0.8, "ls": DASHED}, grey | {"ls": "-"}, grey | {"ls": DOTTED}


def _points(axes, rows, measure: str, ks, i: int, offset: float) -> None:
    """The seeds of one width, and the line through their means."""
    x = np.array([ks.index(row["k"]) + offset for row in rows])
    y = np.array([row[measure] for row in rows], float)
    is_open = np.array([row["special_code"] == 0 for row in rows])
    means = [(at, y[x == at].mean()) for at in np.unique(x)]
    axes.plot(*np.transpose(means), color=style.CYCLE[i], lw=1.0, zorder=2, gid="means")
    look = {"ls": "", "marker": MARKERS[i], "ms": 3.5, "mew": 0.8, "mec": style.CYCLE[i], "zorder": 3}
    axes.plot(x[~is_open], y[~is_open], mfc=style.CYCLE[i], **look, gid="seeds")
    axes.plot(x[is_open], y[is_open], mfc="white", **look, gid="seeds without special latent")


@style.styled
def proxies(rows: Sequence[Mapping[str, Any]], group: str = "validation") -> Figure:
    """Whether what is cheap to measure ranks SAEs as the known dictionary and steering do: Spearman's rho.

    A point is an SAE. Beside rho over all SAEs stands its mean over SAEs of one k, or of one family, as k
    alone may rank them. Where every SAE falls short of 1, shortfalls are on a logarithmic axis, and better is
    on the right; ranks are the same.

    Args:
      rows: SAEs of whatever kind, coloured by k or, if there are several, by family.
      group: of lists on which the cheap ones are measured: all, training or validation.

    Raises:
      UserError: there is no row, one lacks a number, or there are too many kinds.
    """
    _check(rows, group, ("family", "k", *(f"{name}_{group}" for name in PROXIES), *TRUTHS))
    kind = "family" if len({row["family"] for row in rows}) > 1 else "k"
    kinds = sorted({row[kind] for row in rows}, key=lambda value: (value is None, value))
    if len(kinds) > len(MARKERS):
        raise UserError(f"this figure tells at most {len(MARKERS)} of {kind} apart, got {len(kinds)}")
    of_kind = [np.array([row[kind] == value for row in rows]) for value in kinds]
    figure = Figure(figsize=(style.PAGE * 0.8, 4.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, (proxy, name) in zip(panels.T, PROXIES.items(), strict=True):
        x = np.array([row[f"{proxy}_{group}"] for row in rows], float)
        is_short = bool((x < 1).all())
        for axes, truth in zip(column, TRUTHS, strict=True):
            y = np.array([row[truth] for row in rows], float)
            for i, at in enumerate(of_kind):
                look = {"ls": "", "marker": MARKERS[i], "ms": 4, "mec": "white", "mew": 0.4, "alpha": 0.85}
                axes.plot(1 - x[at] if is_short else x[at], y[at], color=style.CYCLE[i], **look, gid="SAEs")
            alike = [rank_correlation(x[at], y[at]) for at in of_kind]
            alike = np.array(alike)[np.isfinite(alike)]
            within = f"; within one {kind} {number(alike.mean())}" if len(kinds) > 1 and len(alike) else ""
            title = f"ρ = {number(rank_correlation(x, y))}, {len(rows)} SAEs{within}"
            axes.set_title(title, size=style.SMALL)
        if is_short:
            column[0].set_xscale("log")
            column[0].invert_xaxis()
            _few_ticks(column[0].xaxis)
        better = ", better on the right" if is_short else ""
        column[1].set_xlabel(f"{'1 − ' * is_short}{name}\n{group} lists{better}")
    for axes, label in zip(panels[:, 0], TRUTHS.values(), strict=True):
        axes.set_ylabel(label)
    panels[1, 0].yaxis.set_major_formatter(share_of)
    figure.align_ylabels(panels[:, 0])
    look = functools.partial(Line2D, [], [], ls="", ms=4)
    handles = [look(marker=MARKERS[i], color=style.CYCLE[i]) for i in range(len(kinds))]
    labels = [f"k {value}" if kind == "k" else str(value) for value in kinds]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(kinds), handletextpad=0.2)
    return figure


def rank_correlation(x, y) -> float:
    """Spearman's rho of two measures of the same SAEs [R]; NaN of fewer than 3, or where one never varies."""
    from scipy.stats import spearmanr

    x, y = (np.asarray(values, float) for values in (x, y))
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < LEAST or any(np.ptp(values[known]) == 0 for values in (x, y)):
        return float("nan")
    return float(spearmanr(x[known], y[known]).statistic)


def _few_ticks(axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, at 1, 2 and 5."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _check(rows, group: str, names) -> None:
    if group not in GROUPS:
        raise UserError(f"there is no group {group!r} of lists; there are {', '.join(GROUPS)}")
    if not rows:
        raise UserError("a figure of many SAEs needs at least one")
    for row in rows:
        if missing := [name for name in names if name not in row]:
            raise UserError(f"a row of an SAE lacks {missing[0]}: give what row and options give of it")
