"""What the latents of one sparse autoencoder (SAE) stand for, and what their values are worth.

Dimensions: B lists, N digits.
"""

from __future__ import annotations

import matplotlib.ticker
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from orderscale_jax.errors import check_kind
from orderscale_jax.figures import style
from orderscale_jax.formatting import number, percent
from orderscale_jax.sae import SAEStudy

ACTIVATION = LinearSegmentedColormap.from_list("activation", ["white", style.SKY, style.BLUE, "#00263F"])
CROWD = 1000  # lists from which on points are small and pale
NO_LIST = "#EDEDED"  # squares of lists that the study does not have
DASHED, DOTTED = (0, (3, 2)), (0, (1, 1.5))
TREATED = {  # latents that get few values, and how their curve is drawn
    "special": ("the special latent", style.BLUE, "o", "-"),
    "every": ("all latents", style.VERMILLION, "s", "-"),
    "digits": ("control: latents of digits, on as often", style.GREEN, "^", DASHED),
    "direction": ("control: as large a change in a random direction", style.PURPLE, "v", DASHED),
}
SYMBOLS = {"0": (0, 0), "1": (1, 1), "2": (2, 2), "3, 4": (3, 4), "5–9": (5, 9), "10+": (10, np.inf)}


@style.styled
def latent_activations(study: SAEStudy) -> Figure:
    """The special latent over all lists beside a digit's detector, and against alpha_1 - alpha_2.

    White is off. Of the digits' detectors the one with the median F1 is shown; of several special latents the
    first. Where no latent is special, the nearest to one stands in its place and is called so.
    """
    check_kind("study", study, SAEStudy)
    encoded, latent = study.encoded, study.special[0]
    figure = Figure(figsize=(style.PAGE, 2.85), layout="constrained")
    own, other, scatter = figure.subplots(1, 3)
    name = special_words(study)
    _plane(own, study, latent, f"{name}\non in {percent(encoded.firing[latent])} of the lists")
    found = median_detector(study)
    if found is None:
        other.set_axis_off()
        other.text(0.5, 0.5, "no latent but the special one\nis a digit's detector", ha="center", va="center")
    else:
        digit, detector = found
        _plane(other, study, detector, f"latent {detector} detects digit {digit}\n{_f1(study, digit)}")
    alphas = encoded.view.alphas
    crowd = len(alphas) > CROWD
    look = {"s": 3 if crowd else 9, "alpha": 0.3 if crowd else 0.8, "linewidths": 0, "color": style.BLUE}
    scatter.scatter(alphas[:, 0] - alphas[:, 1], encoded.latents[:, latent], **look, rasterized=True)
    scatter.set(xlabel="α₁ − α₂", ylabel=f"activation of latent {latent}")
    scatter.set_title(f"every list\nr = {number(encoded.correlations[latent], 3)} with α₁ − α₂")
    return figure


def special_words(study: SAEStudy) -> str:
    """What the first of a study's latents is called, with its number."""
    latent = study.special[0]
    return f"special latent {latent}" if study.is_special else f"latent {latent}, nearest to special"


def median_detector(study: SAEStudy) -> tuple[int, int] | None:
    """(digit, its detector) with the median F1 of all digits that have one; None if none has.

    A special latent counts as no detector.
    """
    match = study.match
    has = (match.detectors >= 0) & (match.f1 > 0) & ~np.isin(match.detectors, study.special)
    digits = np.flatnonzero(has)
    if not len(digits):
        return None
    digit = digits[np.argsort(match.f1[digits], kind="stable")[len(digits) // 2]]
    return int(digit), int(match.detectors[digit])


def _f1(study: SAEStudy, digit: int) -> str:
    return f"F1 {number(study.match.f1[digit], 3)}, the median one"


def _plane(axes, study: SAEStudy, latent: int, title: str) -> None:
    """A latent's activation over the plane of two digits."""
    view = study.encoded.view
    n_digits = len(view.embeddings)
    values = np.full((n_digits, n_digits), np.nan)
    values[view.lists[:, 1], view.lists[:, 0]] = study.encoded.latents[:, latent]
    axes.set_facecolor(NO_LIST)
    most = np.nanmax(values) or 1.0
    look = {"cmap": ACTIVATION, "vmin": 0, "vmax": most, "origin": "lower", "aspect": "auto"}
    image = axes.imshow(values, **look, gid=f"latent {latent}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axes.set(xlabel="d1", ylabel="d2", title=title)
    bar = axes.figure.colorbar(image, ax=axes, orientation="horizontal", aspect=30, pad=0.02)
    bar.set_label("activation (white: off)")
    bar.outline.set_linewidth(0.4)
    bar.ax.locator_params(nbins=5)


@style.styled
def grading_curves(study: SAEStudy) -> Figure:
    """Lists right and lists reversed while latents have 1 value where they are on, 2, 3, 5, or all.

    Bars of the controls reach to the draw farthest from their mean. The dashed line is the baseline, the
    reconstruction with activations as they are, the dotted one the model with its own SEP.
    """
    check_kind("study", study, SAEStudy)
    grading, intact = study.grading, study.fidelity.intact["all"]
    figure = Figure(figsize=(style.PAGE, 2.75), layout="constrained")
    right, reversed_ = figure.subplots(1, 2)
    panels = {"lists_right": right, "reversed": reversed_}
    for field, axes in panels.items():
        baseline, own = getattr(grading.graded, field), getattr(intact, field)
        axes.axhline(
            baseline, color=style.INK, lw=0.8, ls=DASHED, gid="baseline", label="SAE, graded: baseline"
        )
        axes.axhline(own, color=style.INK, lw=0.8, ls=DOTTED, gid="intact", label="model, its own SEP")
        for name, (label, color, marker, line) in TREATED.items():
            found = getattr(grading, name)
            y = [*(getattr(answers, field) for answers in found.values()), baseline]
            look = {
                "color": color,
                "marker": marker,
                "ms": 4,
                "mec": "white",
                "mew": 0.5,
                "lw": 1.1,
                "ls": line,
            }
            axes.plot(range(len(y)), y, **look, label=_treated(study, name, label), gid=name)
            if field == "lists_right" and name in grading.extremes:
                low, high = np.transpose(list(grading.extremes[name].values()))
                axes.vlines(range(len(found)), low, high, color=color, lw=0.9)
        ticks = ["on/off" if n == 1 else str(n) for n in grading.special]
        axes.set_xticks(range(len(ticks) + 1), [*ticks, "graded"])
        axes.set_xlabel("values of a latent that is on")
        axes.yaxis.set_major_formatter(share_of)
    n_lists = len(study.encoded.view.lists)
    right.set(ylim=(-0.02, 1.02), title="both outputs right", ylabel=f"share of all {n_lists:,} lists")
    differ = study.steering.steering.differs
    reversed_.set(title="list reversed", ylabel=f"share of {differ:,} lists\nof two different digits")
    reversed_.set_ylim(0, max(0.01, 1.05 * reversed_.get_ylim()[1]))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def share_of(value: float, _=None) -> str:
    """A share at a tick of an axis, with as few digits as it needs."""
    return percent(round(value, 6), None)


def _treated(study: SAEStudy, name: str, label: str) -> str:
    """The name of a curve, which says when a control has no latents."""
    grading = study.grading
    if name == "special":
        which = ", ".join(map(str, grading.latents))
        label = "the special latents" if len(grading.latents) > 1 else label
        return f"{label} ({which})" if study.is_special else f"the latent nearest to special ({which})"
    return f"{label} (there are none)" if name == "digits" and not grading.digit_latents else label


@style.styled
def dictionary_match(study: SAEStudy) -> Figure:
    """How near latents are to the digits' vectors, how well they detect digits, and how many digits each.

    Cosines are those of E_d, less the digits' mean, and of the latent that a one-to-one matching gives to
    it; a digit that is left over counts as 0.
    """
    check_kind("study", study, SAEStudy)
    match = study.match
    figure = Figure(figsize=(style.PAGE, 2.3), layout="constrained")
    cosines, f1, bars = figure.subplots(1, 3)
    _sorted(cosines, match.cosines, "cosine with E[d]", f"mean {number(match.mcc_digits, 3)} (MCC)")
    order = {"color": style.ORANGE, "lw": 1.1, "ls": DASHED, "gid": "order", "zorder": 1}
    label = f"P₁ − P₂ and latent {match.order_latent}: {number(abs(match.order_cosine), 3)}"
    cosines.axhline(abs(match.order_cosine), **order, label=label)
    cosines.legend(loc="lower left", handlelength=1.6)
    _sorted(f1, match.f1, "F1 of the detector", f"mean {number(match.mean_f1, 3)}")
    cosines.set_title("cosine of a digit's vector\nand the latent matched to it")
    f1.set_title("does a latent tell\nwhether a digit is there?")
    _counts(bars, study)
    return figure


def _sorted(axes, values, ylabel: str, mean: str) -> None:
    """A dot per digit, the best on the left, and a line at their mean."""
    look = {"color": style.BLUE, "ls": "", "marker": "o", "ms": 2.5 if len(values) > 20 else 4, "mec": "none"}
    axes.plot(np.arange(1, len(values) + 1), np.sort(values)[::-1], **look, gid="digits")
    axes.axhline(np.mean(values), color=style.INK, lw=0.8, ls=DOTTED, label=mean, gid="mean", zorder=1)
    axes.set(xlabel=f"{len(values)} digits, the best first", ylabel=ylabel)
    axes.set_ylim(min(-0.02, 1.1 * np.min(values)), 1.04)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axes.legend(loc="lower left", handlelength=1.6)


def _counts(axes, study: SAEStudy) -> None:
    """A bar for each number of digits, and one for latents that are on in no list."""
    symbols, is_live = study.match.symbols, study.encoded.firing > 0
    counts = {"off": int((~is_live).sum())}
    for label, (low, high) in SYMBOLS.items():
        counts[label] = int((is_live & (symbols >= low) & (symbols <= high)).sum())
    colors = [style.PALE, style.GREY, *[style.BLUE] * (len(SYMBOLS) - 1)]
    axes.bar(range(len(counts)), list(counts.values()), color=colors, width=0.75)
    for at, amount in enumerate(counts.values()):
        axes.text(at, amount, f"{amount:,}", ha="center", va="bottom", gid="count")
    axes.set_xticks(range(len(counts)), list(counts))
    axes.set(xlabel="digits of which it is the detector", ylabel=f"latents of {len(symbols):,}")
    axes.set_title("of how many digits\nis a latent the detector?")
    axes.margins(y=0.1)
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
