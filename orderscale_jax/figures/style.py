"""The one style of all pictures, and how a picture is written to files.

Figures are made with `matplotlib.figure.Figure` alone: no pyplot, no window, no global setting that
outlives the call. Sizes are those of a printed column (3.4 in) or a page (7 in).
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from orderscale_jax import files
from orderscale_jax.errors import UserError, check_kind

COLUMN, PAGE = 3.4, 7.0  # inches
POINTS = 72  # per inch
SIDES = "published checkpoint", "this model"  # of pictures that compare the two
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # by format: nothing that changes
SMALL, NORMAL = 7.0, 8.0  # font sizes in points at the final size

# Okabe and Ito's palette, told apart with every common colour vision.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"
INK, GREY, PALE = "#222222", "#7A7A7A", "#D9D9D9"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": SMALL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": NORMAL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 220,
    "savefig.bbox": None,
    "pdf.fonttype": 42,
}


def styled(draw):
    """Makes a drawing function run in the shared style and leaves global settings as they were."""

    @functools.wraps(draw)
    def drawing(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawing


def save(
    figure: Figure, path: str | os.PathLike, formats: Sequence[str] = ("png", "pdf")
) -> tuple[files.Place, ...]:
    """Writes `path`.png and `path`.pdf, or other `formats`, each all or nothing, and returns their paths.

    The folder is made if need be; a suffix in `path` is kept as part of the name. Files hold no date,
    so the same figure gives the same bytes.

    Raises:
      OSError: the folder or a file cannot be written.
      UserError: a format is neither png nor pdf.
    """
    check_kind("figure", figure, Figure)
    unknown = [name for name in formats if name not in METADATA]
    if isinstance(formats, str) or unknown:
        raise UserError(f"formats are some of {tuple(METADATA)}; got {formats!r}")
    path = files.place(path)
    files.make_directory(path.parent)
    written = []
    for name in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=name, metadata=METADATA[name])
        written.append(files.write_bytes(path.with_name(f"{path.name}.{name}"), buffer.getvalue()))
    return tuple(written)
