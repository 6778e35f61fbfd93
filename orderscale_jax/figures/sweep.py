"""Sweeps: how many runs of each cell succeeded, and where every single run ended.

Every function takes the `Summary` objects of one sweep, which name their cells by the same fields.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from orderscale_jax.config import TRANSITION_ACCURACY
from orderscale_jax.errors import UserError
from orderscale_jax.figures import cells, style
from orderscale_jax.training.sweep_results import Summary

COLORS = LinearSegmentedColormap.from_list("success", ["white", style.SKY, style.BLUE])
DARK = 0.6  # share of the colour scale from which text is white
ROW, LINE, CHARACTER = 0.2, 0.12, 0.055  # inches: a row, a line of a label, a character of it on average
LONGEST = 70  # characters of a label's line
JITTER = 0.28  # share of a row's half height
FEW = 8  # cells that are named in full; of more, what they share is said once
USUAL = 0.75  # share of the cells with a value from which it is said once, for all that do not say otherwise
LEAST_ROWS = 3  # on average below a heading
MOST_HEADED = 3  # fields in a heading


@style.styled
def success_heatmap(summaries: Sequence[Summary], columns: str, color: str = "success") -> Figure:
    """A square per cell: its successes as `12/16`, coloured by success rate or by median accuracy.

    Args:
      summaries: of one sweep.
      columns: the field that goes along the top; all others together make the rows.
      color: `success` or `median`.

    Raises:
      UserError: no such field, another colour, or two cells fall on the same square.
    """
    _check(summaries)
    if color not in ("success", "median"):
        raise UserError(f"a heatmap is coloured by 'success' or 'median', got {color!r}")
    if columns not in summaries[0].values:
        raise UserError(f"the cells have no field {columns!r}, only {', '.join(summaries[0].values)}")
    across = _ordered(summary.values[columns] for summary in summaries)
    places = {}
    for summary in summaries:
        rest = {name: value for name, value in summary.values.items() if name != columns}
        place = tuple(rest.values()), summary.values[columns]
        if place in places:
            raise UserError(f"two cells are {cells.words(rest)}, {cells.words({columns: place[1]})}")
        places[place] = summary
    down = list(dict.fromkeys(row for row, _ in places))
    labels = [cells.words(dict(zip(rest, row, strict=True))) for row in down]
    if len(rest) == 1:
        down = [(value,) for value in _ordered(row[0] for row in down)]
        labels = [cells.value_words(*rest, *row) for row in down]
    labels, width, height = _fitted(labels)
    below = [cells.value_words(columns, value) for value in across]
    turned = max(map(len, below)) > 6
    under = 0.7 * CHARACTER * max(map(len, below)) if turned else 0
    size = 1.05 + width + 0.42 * len(across), 0.95 + under + height * len(down)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    shades = np.full((len(down), len(across)), np.nan)
    for (row, column), summary in places.items():
        i, j = down.index(row), across.index(column)
        shades[i, j] = summary.rate if color == "success" else summary.median_accuracy
        look = {"size": style.SMALL - 1, "color": "white" if shades[i, j] > DARK else style.INK}
        axes.text(j, i, f"{summary.successes}/{summary.n_runs}", ha="center", va="center", **look)
    image = axes.imshow(shades, cmap=COLORS, vmin=0, vmax=1, aspect="auto")
    look = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(len(across)), below, **look)
    axes.set_yticks(range(len(down)), labels)
    axes.set_xlabel(cells.NAMES.get(columns, columns))
    if len(rest) == 1:
        (only,) = rest
        axes.set_ylabel(cells.NAMES.get(only, only))
    axes.tick_params(length=0)
    axes.set_facecolor("#F2F2F2")  # squares outside the grid
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=25, shrink=0.9)
    bar.set_label("success rate" if color == "success" else "median accuracy")
    bar.outline.set_visible(False)
    figure.suptitle(f"Runs at accuracy {summaries[0].threshold:g} or above", x=0.01, ha="left")
    return figure


@style.styled
def success_rates(summaries: Sequence[Summary]) -> Figure:
    """A line per cell: success rate (dot) with Wilson's 95 % interval, and the counts.

    What many cells share is said once, above them or below the axis.

    Raises:
      UserError: there is no cell.
    """
    _check(summaries)
    name = f"share of runs at {summaries[0].threshold:g} or above, 95 % interval"
    figure, axes, places = _rows(summaries, name)
    for i, summary in zip(places, summaries, strict=True):
        low, high = summary.interval
        axes.plot([low, high], [i, i], color=style.BLUE, lw=1.4, solid_capstyle="butt", gid="interval")
        axes.plot(summary.rate, i, marker="o", ms=4, color=style.BLUE, ls="", gid="rate")
        _beside(axes, i, f"{summary.successes}/{summary.n_runs}")
    axes.set_xlim(-0.02, 1.02)
    return figure


@style.styled
def outcome_strips(summaries: Sequence[Summary], outcome: str = "accuracy") -> Figure:
    """A dot per run: its accuracy, or the step of its transition, one line per cell.

    Runs without a transition stand at the last step they trained, as open circles. Runs that diverged before
    an accuracy was measured are counted beside their line. What many cells share is said once, above them or
    below the axis.

    Raises:
      UserError: there is no cell, or another outcome than `accuracy` or `transition`.
    """
    _check(summaries)
    if outcome not in ("accuracy", "transition"):
        raise UserError(f"a strip shows 'accuracy' or 'transition', got {outcome!r}")
    names = {
        "accuracy": f"accuracy of every run (dotted: {summaries[0].threshold:g})",
        "transition": f"first step above {TRANSITION_ACCURACY:g} (open: none until then)",
    }
    figure, axes, places = _rows(summaries, names[outcome])
    for i, summary in zip(places, summaries, strict=True):
        offsets = i + JITTER * _spread(summary.n_runs)
        look = {"ls": "", "marker": "o", "ms": 3, "alpha": 0.75, "mew": 0.7}
        if outcome == "accuracy":
            axes.plot(summary.accuracies, offsets, color=style.BLUE, mec="none", gid="runs", **look)
            if unknown := int(np.isnan(summary.accuracies).sum()):
                _beside(axes, i, f"{unknown} diverged")
            continue
        at, broke = summary.transition_steps, np.isfinite(summary.transition_steps)
        axes.plot(at[broke], offsets[broke], color=style.BLUE, mec="none", gid="runs", **look)
        never = {"mfc": "white", "mec": style.VERMILLION, "gid": "never"}
        axes.plot(summary.steps[~broke], offsets[~broke], **never, **look)
        _beside(axes, i, f"{summary.transitions}/{summary.n_runs}")
    if outcome == "accuracy":
        axes.set_xlim(-0.02, 1.02)
        axes.axvline(summaries[0].threshold, color=style.GREY, lw=0.6, ls=(0, (1, 2)), zorder=0)
    else:
        axes.set_xlim(left=0, right=1.04 * max(summary.steps.max() for summary in summaries))
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    return figure


def _rows(summaries: Sequence[Summary], name: str):
    """An empty figure with a labelled line per cell, the first on top, and the heights of the lines.

    `name` is that of the horizontal axis; below it stands what all cells share.
    """
    headings, labels, shared = _said_once([summary.values for summary in summaries])
    labels, width, height = _fitted([label or "all runs" for label in labels])
    places = [i + sum(at <= i for at in headings) for i in range(len(labels))]
    lines = places[-1] + 1
    size = max(style.COLUMN, 2.6 + width), 0.6 + height * lines + LINE * bool(shared)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(places, labels)
    axes.set_ylim(lines - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for i in places:
        axes.axhline(i, color=style.PALE, lw=0.4, zorder=0)
    for i, heading in headings.items():
        at = {"transform": axes.get_yaxis_transform(), "va": "center", "gid": "heading"}
        axes.text(0, places[i] - 0.9, heading, weight="bold", **at)
    axes.set_xlabel(f"{name}\n{shared}" if shared else name)
    return figure, axes, places


def _said_once(cells_of: Sequence[dict[str, Any]]) -> tuple[dict[int, str], list[str], str]:
    """Headings by the first cell below them, a label for each cell, and what holds unless one says otherwise.

    Fields go into headings, which cells next to each other share, so that as little as possible is written.
    """
    names = [cells.words(values) for values in cells_of]
    if len(names) <= FEW:
        return {}, names, ""
    counts = {field: collections.Counter(of[field] for of in cells_of) for field in cells_of[0]}
    most = {field: count.most_common(1)[0] for field, count in counts.items()}
    usual = {
        field: value
        for field, (value, n) in most.items()
        if n >= USUAL * len(names) and not _would_be_silent(field, value, counts[field])
    }
    rest = [field for field in counts if field not in usual]

    def written(headed: Sequence[str]) -> tuple[dict[int, str], list[str]]:
        above = [cells.words({field: of[field] for field in headed}) for of in cells_of]
        labels = [
            cells.words(
                {field: of[field] for field in rest if field not in headed}
                | {field: of[field] for field, value in usual.items() if of[field] != value}
            )
            for of in cells_of
        ]
        first = {i: x for i, x in enumerate(above) if headed and (i == 0 or x != above[i - 1])}
        return first, labels

    def length(headed: Sequence[str]) -> int:
        headings, labels = written(headed)
        return sum(map(len, (*headings.values(), *labels)))

    fitting = [
        headed
        for n in range(min(MOST_HEADED, len(rest) - 1) + 1)
        for headed in itertools.combinations(rest, n)
        if LEAST_ROWS * len(written(headed)[0]) <= len(names)
    ]
    headings, labels = written(min(fitting, key=length, default=()))
    always = {field: value for field, value in usual.items() if most[field][1] == len(names)}
    mostly = {field: value for field, value in usual.items() if field not in always}
    shared = {"all": always, "unless said otherwise": mostly}
    return headings, labels, "; ".join(f"{of}: {cells.words(x)}" for of, x in shared.items() if x)


def _would_be_silent(field: str, usual: Any, values: Collection[Any]) -> bool:
    """Whether a cell with another value than the usual one would say nothing of it."""
    quiet = cells.QUIET.get(field, usual)
    return quiet != usual and quiet in values


def _fitted(labels: Iterable[str]) -> tuple[list[str], float, float]:
    """Labels in lines of `LONGEST` characters at most, their width and the height of a row, in inches."""
    labels = [cells.wrap(label, LONGEST) for label in labels]
    lines = [label.split("\n") for label in labels]
    width = CHARACTER * max(len(line) for label in lines for line in label)
    return labels, width, max(ROW, ROW - LINE + LINE * max(map(len, lines)))


def _beside(axes, row: int, text: str):
    """Text to the right of a row."""
    where = axes.get_yaxis_transform()
    axes.text(1.02, row, text, va="center", size=style.SMALL - 0.5, transform=where)


def _check(summaries: Sequence[Summary]):
    if not summaries:
        raise UserError("a figure of a sweep needs at least one cell")


def _spread(n: int) -> np.ndarray:
    """Offsets in -1 … 1 that keep neighbours apart: the golden ratio's sequence."""
    return 2 * ((np.arange(n) * 0.6180339887498949 + 0.5) % 1.0) - 1 if n > 1 else np.zeros(n)


def _ordered(values) -> list[Any]:
    """Distinct values by size and None last, words in order of appearance."""
    values = list(dict.fromkeys(values))
    if any(isinstance(value, str) for value in values):
        return values
    return sorted(values, key=lambda value: (value is None, value or 0))
