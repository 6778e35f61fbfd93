"""Accuracy over training steps, for one run or several."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from orderscale_jax.config import TRANSITION_ACCURACY
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures import style
from orderscale_jax.figures.legends import legend_below

MOST_NAMED = len(style.CYCLE)  # runs with a colour and a name of their own


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run's evaluations.

    Attributes:
      label: of the run.
      steps: [E] training steps at which it was evaluated.
      accuracy: [E] validation accuracy, of outputs.
      loss: [E] loss in nats, or None.
    """

    label: str
    steps: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray | None = None

    def __post_init__(self):
        if any(len(x) != len(self.steps) for x in (self.accuracy, self.loss) if x is not None):
            raise UserError(f"run {self.label!r}: steps, accuracy and loss must have the same length")

    @property
    def transition(self) -> int | None:
        """Index of the first evaluation above `TRANSITION_ACCURACY`, None if there was none."""
        above = np.flatnonzero(np.asarray(self.accuracy) > TRANSITION_ACCURACY)
        return int(above[0]) if len(above) else None


@style.styled
def training_curves(*curves: Curve) -> Figure:
    """Accuracy over steps; a dot marks each run's transition. Loss below, where every run has one.

    More runs than there are colours are drawn alike and unnamed.

    Raises:
      UserError: no curve is given.
    """
    for curve in curves:
        check_kind("a curve", curve, Curve)
    if not curves:
        raise UserError("training_curves needs at least one Curve")
    with_loss = all(curve.loss is not None for curve in curves)
    named = len(curves) <= MOST_NAMED
    figure = Figure(figsize=(style.COLUMN, 1.75 + 0.9 * with_loss), layout="constrained")
    ratios = [2, 1] if with_loss else [1]
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for i, curve in enumerate(curves):
        look = (
            {"color": style.CYCLE[i], "lw": 1.2}
            if named
            else {"color": style.BLUE, "lw": 0.7, "alpha": max(0.15, 3 / len(curves))}
        )
        at = curve.transition
        when = "no transition" if at is None else f"transition {int(curve.steps[at]):,}"
        name = f"{curve.label}: {when}" if curve.label else when
        panels[0].plot(curve.steps, curve.accuracy, **look, label=name)
        if at is not None:
            dot = {"marker": "o", "ms": 4.5, "mfc": "white", "mec": look["color"], "mew": 1.1, "zorder": 3}
            panels[0].plot(curve.steps[at], curve.accuracy[at], ls="", gid="transition", **dot)
        if with_loss:
            panels[1].plot(curve.steps, curve.loss, **look)
    panels[0].axhline(TRANSITION_ACCURACY, color=style.GREY, lw=0.6, ls=(0, (1, 2)), zorder=0)
    panels[0].set(ylim=(-0.02, 1.02), ylabel="accuracy")
    panels[-1].set_xlabel("training step")
    panels[-1].xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    panels[-1].locator_params(axis="x", nbins=5)
    if with_loss:
        panels[1].set_ylim(bottom=0)
        panels[1].set_ylabel("loss")
        figure.align_ylabels(panels)
    if named:
        legend_below(figure, *panels[0].get_legend_handles_labels())
    else:
        broke = sum(curve.transition is not None for curve in curves)
        panels[0].set_title(f"{len(curves)} runs, {broke} with a transition (circles)")
    return figure
