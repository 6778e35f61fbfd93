"""What scaling latents of one sparse autoencoder does: how many lists are reversed, and at which scales.

Dimensions: B lists, C regions of a list, S scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style
from orderscale_jax.figures.latents import DASHED, DOTTED, share_of, special_words
from orderscale_jax.formatting import number, percent
from orderscale_jax.sae import Regions, SAEStudy
from orderscale_jax.sae.steering import WORDS

MOST_LISTS = 4  # beside each other
N_SCALES = 1001  # at which shares and logits are drawn
LEAST_SHOWN, BEYOND = 2.0, 1.5  # scales drawn at least, and times the last end of a region
CONTROL = {"facecolor": style.PALE, "edgecolor": style.GREY, "hatch": "////", "lw": 0}
REVERSED = "#CFE6F5"  # behind scales at which a list is reversed


@style.styled
def steering_overview(study: SAEStudy) -> Figure:
    """Lists reversed by each kind of steering, its controls hatched; and at which scales each list is.

    On the right, a line for every list that is reversed at some scale of the special latent, from where that
    begins to where it ends, sorted by the former, grey where it is so without steering, at scale 1; below,
    the share of lists reversed at each scale.
    """
    check_kind("study", study, SAEStudy)
    figure = Figure(figsize=(style.PAGE, 3.1), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    _kinds(left.subplots(), study)
    above, below = right.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    regions = study.steering.steering.regions
    _regions(above, study, regions)
    scales = np.linspace(regions.low, regions.high, N_SCALES)
    below.plot(scales, reversed_at(study, scales), color=style.BLUE, lw=1.1, gid="reversed")
    below.axhline(study.steering.before, color=style.INK, lw=0.8, ls=DASHED, gid="baseline")
    below.set(ylim=(0, None), xlim=(regions.low, regions.high), ylabel="reversed")
    below.set_xlabel(f"scale of latent {study.special[0]} (dotted: as it is)")
    below.yaxis.set_major_formatter(share_of)
    below.locator_params(axis="y", nbins=4)
    for axes in (above, below):
        axes.axvline(1, color=style.INK, lw=0.7, ls=DOTTED)
    right.align_ylabels()
    return figure


def _kinds(axes, study: SAEStudy) -> None:
    """A bar with its number for each kind of steering."""
    steering = study.steering
    shares = {name: share for name in WORDS if (share := getattr(steering, name)) is not None}
    for y, (name, share) in enumerate(shares.items()):
        look = CONTROL if WORDS[name].startswith("control") else {"color": style.BLUE}
        look = {"color": style.INK} if name == "before" else look
        axes.barh(y, share, height=0.62, **look, gid=name)
        axes.text(share + 0.015, y, percent(share), va="center", gid=f"share {name}")
    axes.axvline(steering.before, color=style.INK, lw=0.8, ls=DASHED, gid="baseline", zorder=3)
    axes.set_yticks(range(len(shares)), [steering_words(study, name) for name in shares])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1.2), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.xaxis.set_major_formatter(share_of)
    axes.set_xlabel(f"share of {steering.steering.differs:,} lists of two different digits")
    axes.set_title("lists reversed at some scale")


def steering_words(study: SAEStudy, name: str) -> str:
    """A kind of steering in two lines at most: what is scaled, and from where to where."""
    words = WORDS[name].replace("P_1 - P_2", "P₁ − P₂").replace("-2 to", "−2 to")
    if not study.is_special:
        words = words.replace("the special latent", "the latent nearest to special")
    front, comma, scales = words.rpartition(", ")
    if name == "another":
        return words.replace(", and", ",\nand")
    return f"{front},\n{scales}" if comma else words.replace(": ", ":\n")


def _regions(axes, study: SAEStudy, regions: Regions) -> None:
    """A rectangle of height 1 for each region, one row for each list."""
    rows = np.flatnonzero(regions.exists)
    unsteered = ((regions.starts <= 1) & (regions.ends >= 1)).any(1)
    title = f"{len(rows):,} reversed, {int(unsteered.sum()):,} (grey) unsteered"
    axes.set_title(f"{special_words(study)}, alone:\n{title}")
    axes.set_ylabel("lists")
    if not len(rows):
        axes.set(yticks=[])
        middle = (regions.low + regions.high) / 2
        axes.text(middle, 0.5, "at no scale is a list reversed", ha="center", va="center")
        return
    first = np.nanmin(regions.starts[rows], axis=1)
    rows = rows[np.lexsort((np.nanmax(regions.ends[rows], axis=1), first))]
    starts, ends = regions.starts[rows], regions.ends[rows]
    at, of = np.nonzero(np.isfinite(starts))
    x = np.stack([starts[at, of], ends[at, of], ends[at, of], starts[at, of]], -1)
    y = np.stack([at, at, at + 1, at + 1], -1)
    colors = np.where(unsteered[rows[at]], style.GREY, style.BLUE)
    look = {"facecolors": colors, "lw": 0, "antialiased": False, "rasterized": True}
    axes.add_collection(PolyCollection(np.stack([x, y], -1), **look, gid="regions"))
    axes.set_ylim(0, len(rows))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def reversed_at(study: SAEStudy, scales) -> np.ndarray:
    """Share [S] of the lists of two different digits that are reversed at each of some scales [S]."""
    found = study.steering.steering
    starts, ends = (np.sort(x[np.isfinite(x)]) for x in (found.regions.starts, found.regions.ends))
    within = np.searchsorted(starts, scales, "right") - np.searchsorted(ends, scales, "left")
    return within / found.differs


@style.styled
def steering_lines(study: SAEStudy, lists: Sequence[Sequence[int]]) -> Figure:
    """The logits of d1, d2 and the best other token in both outputs, over the scale of the special latent.

    A column for each list, o1 above, o2 below. Where o1 says d2 and o2 says d1 the ground is blue; a dotted
    line is scale 1, the latent as it is. Scales are drawn to 1.5 times the last end of a region,
    at least to 2, where there is one.

    Args:
      study: of an SAE.
      lists: digits, 1 to 4 pairs of different ones.

    Raises:
      UserError: there are none or too many, or one is no list of the study, or of one digit twice.
    """
    check_kind("study", study, SAEStudy)
    rows = [_row(study, pair) for pair in lists]
    if not 0 < len(rows) <= MOST_LISTS:
        raise UserError(f"this figure takes 1 to {MOST_LISTS} lists, got {len(rows)}")
    encoded, regions, latent = study.encoded, study.steering.steering.regions, study.special[0]
    width = max(style.COLUMN, style.PAGE * len(rows) / MOST_LISTS)
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    panels = figure.subplots(2, len(rows), sharex="col", squeeze=False)
    for column, row in zip(panels.T, rows, strict=True):
        vector = encoded.latents[row, latent] * encoded.decoder[latent]
        base = encoded.reconstruction[row] - vector
        scales = np.linspace(regions.low, _last_scale(regions, row), N_SCALES)
        logits = encoded.view.readout.logits(base + scales[:, None] * vector)
        d1, d2 = encoded.view.lists[row].tolist()
        spans = [(a, b) for a, b in zip(regions.starts[row], regions.ends[row], strict=True) if a < b]
        for output, axes in enumerate(column):
            for span in spans:
                axes.axvspan(*span, color=REVERSED, lw=0, zorder=0, gid="region")
            axes.axvline(1, color=style.INK, lw=0.7, ls=DOTTED)
            others = np.delete(logits[:, output], [d1, d2], axis=1).max(1)
            axes.plot(scales, others, color=style.GREY, lw=0.7, gid="other")
            axes.plot(scales, logits[:, output, d1], color=style.BLUE, lw=1.3, gid="d1")
            axes.plot(scales, logits[:, output, d2], color=style.VERMILLION, lw=1.3, ls=DASHED, gid="d2")
            axes.set_xlim(scales[0], scales[-1])
            axes.locator_params(axis="y", nbins=5)
        column[1].set_xlabel(f"scale of latent {latent}")
        column[1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        column[0].set_title(f"{d1}, {d2}\n{_where(encoded.latents[row, latent], spans)}", size=style.SMALL)
    panels[0, 0].set_ylabel("logits of o1")
    panels[1, 0].set_ylabel("logits of o2")
    figure.align_ylabels(panels[:, 0])
    handles = [
        Line2D([], [], color=style.BLUE, lw=1.3, label="d1"),
        Line2D([], [], color=style.VERMILLION, lw=1.3, ls=DASHED, label="d2"),
        Line2D([], [], color=style.GREY, lw=0.7, label="best other token"),
        Patch(facecolor=REVERSED, label="both reversed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4 if len(rows) > 1 else 2)
    return figure


def _row(study: SAEStudy, pair: Sequence[int]) -> int:
    """Where a list stands among those of the study."""
    found = np.asarray(pair)
    if found.shape != (2,) or found[0] == found[1]:
        raise UserError(f"a list to steer is two different digits, got {pair}")
    rows = np.flatnonzero((study.encoded.view.lists == found).all(1))
    if not len(rows):
        raise UserError(f"the study has no list {pair[0]}, {pair[1]}")
    return int(rows[0])


def _last_scale(regions: Regions, row: int) -> float:
    """As far as a list is drawn, so that its regions can be seen."""
    ends = regions.ends[row][np.isfinite(regions.ends[row])]
    return float(min(regions.high, max(BEYOND * ends.max(), LEAST_SHOWN))) if len(ends) else regions.high


def _where(activation: float, spans: Sequence[tuple[float, float]]) -> str:
    """Where a list is reversed, in words."""
    if not activation > 0:
        return "latent off"
    if not spans:
        return "never reversed"
    return "reversed " + " and ".join(f"{number(start)}–{number(end)}" for start, end in spans)
