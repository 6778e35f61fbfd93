"""How many runs of each cell of a sweep succeeded, how sure that is, and when they broke through.

Runs of this task either stay near 0.50 or break through to above 0.9, so a cell is summarised by
how many of its runs succeeded, with an interval, and every run stays visible.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from orderscale_jax.errors import UserError
from orderscale_jax.training.sweep_rows import CONFIG_COLUMNS

SUCCESS = 0.9  # accuracy from which a run counts as one, as published
NORMAL_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Summary:
    """The runs of one cell.

    Attributes:
      values: the fields that name the cell, with their values.
      accuracies: [R] of its runs, in order of seeds; NaN for runs that diverged before one was measured.
      transition_steps: [R] first evaluation above TRANSITION_ACCURACY, NaN for runs without one.
      steps: [R] trained.
      threshold: accuracy from which a run is a success.
      diverged: how many runs ended because they were no longer finite.
    """

    values: dict[str, Any]
    accuracies: np.ndarray
    transition_steps: np.ndarray
    steps: np.ndarray
    threshold: float = SUCCESS
    diverged: int = 0

    @property
    def n_runs(self) -> int:
        return len(self.accuracies)

    @property
    def successes(self) -> int:
        return int((self.accuracies >= self.threshold).sum())

    @property
    def rate(self) -> float:
        return self.successes / self.n_runs

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the success rate."""
        return wilson_interval(self.successes, self.n_runs)

    @property
    def median_accuracy(self) -> float:
        """Of all runs; those without an accuracy count as lower than all others, NaN if it is theirs."""
        median = float(np.median(np.where(np.isnan(self.accuracies), -np.inf, self.accuracies)))
        return median if np.isfinite(median) else float("nan")

    @property
    def transitions(self) -> int:
        """How many runs had their transition."""
        return int(np.isfinite(self.transition_steps).sum())

    @property
    def waits(self):
        """Steps until each run's transition, or that they are more than it trained: a SciPy CensoredData.

        Raises:
          UserError: there are no runs.
        """
        from scipy.stats import CensoredData

        if not self.n_runs:
            raise UserError("waiting for a transition needs at least one run")
        never = ~np.isfinite(self.transition_steps)
        return CensoredData.right_censored(np.where(never, self.steps, self.transition_steps), never)

    def transition_quantile(self, q: float) -> float:
        """The step by which a share q of all runs had their transition, NaN if fewer ever had.

        Runs without a transition count as later than all others, so nothing is flattered by leaving
        them out.
        """
        steps = np.sort(np.where(np.isfinite(self.transition_steps), self.transition_steps, np.inf))
        step = steps[max(0, int(np.ceil(q * self.n_runs)) - 1)]
        return float(step) if np.isfinite(step) else float("nan")


def compare_survival(a: Summary, b: Summary) -> float:
    """The p-value of the log-rank test of whether the runs of two cells have transitions at the same rate.

    It is 1 where nothing could be told: no run has a transition, or all that could have do at once.

    Raises:
      UserError: a cell has no runs.
    """
    from scipy.stats import logrank

    with np.errstate(invalid="ignore"):  # 0 / 0
        p = float(logrank(a.waits, b.waits).pvalue)
    return 1.0 if np.isnan(p) else p


def summarize(
    rows: Sequence[dict[str, Any]], by: Sequence[str] | None = None, threshold: float = SUCCESS
) -> list[Summary]:
    """A `Summary` per combination of the columns `by` (default: all that vary), in order of appearance.

    Raises:
      UserError: there are no rows, or no such column.
    """
    if not rows:
        raise UserError("there are no results to summarise: the sweep has no finished run")
    by = varying_fields(rows) if by is None else tuple(by)
    unknown = [name for name in by if name not in rows[0]]
    if unknown:
        raise UserError(f"the results have no column {unknown[0]!r}; they have {', '.join(rows[0])}")
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in by), []).append(row)
    summaries = []
    for values, members in cells.items():
        members = sorted(members, key=lambda row: row["seed"])
        transitions = [row["transition_step"] for row in members]
        summaries.append(
            Summary(
                values=dict(zip(by, values, strict=True)),
                accuracies=np.array([row["accuracy"] for row in members], float),
                transition_steps=np.array([np.nan if t is None else t for t in transitions], float),
                steps=np.array([row["steps"] for row in members], int),
                threshold=threshold,
                diverged=sum(row["diverged_step"] is not None for row in members),
            )
        )
    return summaries


def varying_fields(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The configuration columns with more than one value."""
    return tuple(name for name in CONFIG_COLUMNS if name in rows[0] and len({row[name] for row in rows}) > 1)


def wilson_interval(successes: int, runs: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a rate (E. B. Wilson, JASA 22, 1927).

    Raises:
      UserError: there are no runs, or more successes than runs.
    """
    if runs < 1 or not 0 <= successes <= runs:
        raise UserError(f"a rate needs 0 <= successes <= runs and a run, got {successes} of {runs}")
    rate, z2 = successes / runs, NORMAL_95**2
    centre = (rate + z2 / (2 * runs)) / (1 + z2 / runs)
    half = NORMAL_95 / (1 + z2 / runs) * np.sqrt(rate * (1 - rate) / runs + z2 / (4 * runs**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
