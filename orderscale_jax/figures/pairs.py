"""Pictures in which two digits of a list span a plane; a small panel for each pair of digits."""

from __future__ import annotations

import itertools
import math

import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.analysis import ListErrors, SepAttention
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style

RIGHT = {"color": style.SKY, "marker": "o", "s": 4, "linewidths": 0, "alpha": 0.6}
WRONG = {"color": style.VERMILLION, "marker": "x", "s": 9, "linewidths": 0.8}
FIRST_WRONG = {**WRONG, "color": style.BLUE, "marker": "+", "s": 16}
BOTH_WRONG = {"edgecolors": style.INK, "facecolors": "none", "marker": "s", "s": 9, "linewidths": 0.8}


@style.styled
def sep_attention_scores(sep: SepAttention, published: SepAttention | None = None) -> Figure:
    """SEP's scores of two digits before the softmax, right lists against wrong ones.

    On the dashed diagonal both digits get the same attention. A panel per pair of digits and head; the grey
    text gives the mean gap |score_i - score_j| of right and of wrong lists, where there is room for it. With
    the published checkpoint's, those are on the left and ours on the right, on the same scales.

    Raises:
      UserError: the lists have one digit only, or two models are given and one has longer lists or several
        heads.

    Source: paper, section 4 and its figure of SEP attention.
    """
    check_kind("sep", sep, SepAttention)
    _need_pairs(len(sep.pairs))
    n_heads = sep.scores.shape[1]
    panels = [(sep, pair, head) for head in range(n_heads) for pair in range(len(sep.pairs))]
    if published is not None:
        check_kind("published", published, SepAttention)
        if any(of.scores.shape[1:] != (1, 2) for of in (published, sep)):
            raise UserError("SEP's attention is compared between models of one head and lists of two digits")
        panels = [(published, 0, 0), (sep, 0, 0)]
    figure, grid, roomy = _panels(len(panels))
    for axes, (of, pair, head) in zip(grid, panels, strict=True):
        i, j = of.pairs[pair]
        x, y = of.scores[:, head, i], of.scores[:, head, j]
        axes.scatter(x[of.correct], y[of.correct], **RIGHT, rasterized=True)
        axes.scatter(x[~of.correct], y[~of.correct], **WRONG, rasterized=True)
        axes.axline((float(x.mean()), float(x.mean())), slope=1, color=style.GREY, lw=0.8, ls=(0, (3, 2)))
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        air = 0.04 * (high - low) or 1.0
        axes.set(xlim=(low - air, high + air), ylim=(low - air, high + air))
        in_head = f", head {head}" if n_heads > 1 else ""
        if roomy:
            axes.set_xlabel(f"score of d{i + 1}{in_head}")
            axes.set_ylabel(f"score of d{j + 1}")
            gaps = (of.gap_correct[pair, head], of.gap_incorrect[pair, head])
            right_gap, wrong_gap = ("none" if np.isnan(gap) else f"{gap:.2f}" for gap in gaps)
            note = f"gap {right_gap} right, {wrong_gap} wrong"
            if published is not None:
                n_right, n_wrong = of.correct.sum(), (~of.correct).sum()
                note = f"{n_right:,} right, gap {right_gap}; {n_wrong:,} wrong, gap {wrong_gap}"
            axes.text(0, 1.02, note, transform=axes.transAxes, color=style.GREY, va="bottom")
        else:
            axes.set_title(f"d{i + 1}, d{j + 1}{in_head}", size=style.SMALL, pad=2)
            axes.set(xticks=[], yticks=[])
    if published is not None:
        _same_limits(grid)
        for axes, name in zip(grid, style.SIDES, strict=True):
            axes.set_title(name, weight="bold", pad=15)
    if not roomy:
        figure.suptitle("across: score of the first digit; up: score of the second", size=style.SMALL)
    entries = {"list right": (sep.correct, RIGHT), "list wrong": (~sep.correct, WRONG)}
    counted = {name: f" ({mask.sum():,})" * (published is None) for name, (mask, _) in entries.items()}
    _legend(figure, *((name + counted[name], look) for name, (_, look) in entries.items()))
    return figure


def _same_limits(panels) -> None:
    """The widest limits of all panels for all of them."""
    for of in ("xlim", "ylim"):
        ends = np.array([getattr(axes, f"get_{of}")() for axes in panels])
        for axes in panels:
            axes.set(**{of: (ends[:, 0].min(), ends[:, 1].max())})


@style.styled
def wrong_lists(errors: ListErrors, n_digits: int) -> Figure:
    """Where the wrong lists lie in the plane of two digits (every pair of digits for longer lists).

    Raises:
      UserError: the lists have one digit only.

    Source: paper, its scatter of wrong lists.
    """
    check_kind("errors", errors, ListErrors)
    n = errors.lists.shape[1]
    pairs = list(itertools.combinations(range(n), 2))
    _need_pairs(len(pairs))
    kinds = _kinds(errors)
    figure, grid, roomy = _panels(len(pairs))
    for axes, (i, j) in zip(grid, pairs, strict=True):
        axes.axline((0, 0), slope=1, color=style.GREY, lw=0.8, ls=(0, (3, 2)))
        for _, chosen, look in kinds:
            axes.scatter(*errors.lists[chosen][:, [i, j]].T, **look, rasterized=True)
        ends = (-0.03 * n_digits - 0.5, 1.03 * n_digits - 0.5)
        axes.set(xlim=ends, ylim=ends)
        if roomy:
            axes.set(xlabel=f"$d_{{{i + 1}}}$", ylabel=f"$d_{{{j + 1}}}$")
            ticks = np.unique(np.linspace(0, n_digits - 1, 5).astype(int))
            axes.set(xticks=ticks, yticks=ticks)
        else:
            axes.set_title(f"$d_{{{i + 1}}}$, $d_{{{j + 1}}}$", size=style.SMALL, pad=2)
            axes.set(xticks=[], yticks=[])
    figure.suptitle(f"{len(errors.lists):,} of {errors.n_lists:,} lists wrong", ha="center")
    _legend(figure, *((f"{name} ({int(chosen.sum()):,})", look) for name, chosen, look in kinds))
    return figure


def _kinds(errors: ListErrors) -> list[tuple[str, np.ndarray, dict]]:
    """Kinds of wrong lists with a mask [W] and a look each; of two digits, by the output that is wrong."""
    missed = errors.predictions != errors.lists
    if missed.shape[1] > 2:
        return [("an output wrong", missed.any(1), WRONG)]
    first, second = missed.T
    return [
        ("o2 wrong", second & ~first, WRONG),
        ("o1 wrong", first & ~second, FIRST_WRONG),
        ("both wrong", first & second, BOTH_WRONG),
    ]


def _panels(count: int) -> tuple[Figure, list, bool]:
    """A figure of `count` square panels, and whether they have room for labels of their own."""
    columns = count if count <= 3 else min(math.ceil(math.sqrt(count)), 7)
    rows = -(-count // columns)
    width = style.COLUMN if count == 1 else style.PAGE
    side = width / columns
    figure = Figure(figsize=(width, side * rows + 0.45), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.set_aspect("equal")
        axes.set_box_aspect(1)
    return figure, list(grid[:count]), columns <= 3


def _legend(figure: Figure, *entries: tuple[str, dict]) -> None:
    """A legend below all panels, with markers large enough to be told apart."""
    axes = figure.axes[0]
    handles = [axes.scatter([], [], **{**look, "s": 18, "alpha": 1}, label=name) for name, look in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(entries), handletextpad=0.2)


def _need_pairs(count: int) -> None:
    if not count:
        raise UserError("this picture needs lists of at least two digits; these have one")
