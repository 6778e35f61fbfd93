"""A legend below a figure, for which the figure grows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from orderscale_jax.figures import cells, style
from orderscale_jax.figures.labels import text_width

LINE, LONGEST = 0.145, 52  # of a legend's lines: inches, characters
KEY, BETWEEN = 26.0, 9.0  # points: a curve's sample with the space around it, between columns


def legend_below(figure: Figure, handles: Sequence, labels: Sequence[str], title: str = "") -> None:
    """Adds a legend in one or two columns; long labels are torn at commas. None for one curve without a name.

    The figure must have a constrained layout.
    """
    if not any(labels):
        return
    labels = [cells.wrap(label, LONGEST) for label in labels]
    widest = max(text_width(line, style.SMALL) for label in labels for line in label.split("\n"))
    room = figure.get_figwidth() * style.POINTS
    columns = 2 if len(labels) > 1 and 2 * (widest + KEY) + BETWEEN <= room else 1
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + LINE * (math.ceil(lines) + bool(title)))
    look = {"loc": "outside lower center", "alignment": "left", "title_fontsize": style.SMALL}
    figure.legend(handles, labels, ncols=columns, columnspacing=1.2, title=title or None, **look)
