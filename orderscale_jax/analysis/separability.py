"""Can the outputs be told apart by position alone, and is that all that the unembedding uses?"""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np

from orderscale_jax.analysis.observation import Observation, chunks
from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.printing import Printable

HARD_MARGIN = 1e6  # C of the support vector machine; so large that no point may lie inside the margin
MAX_LISTS = 5_000  # the machine's time grows with the square of its points
MAX_ITERATIONS = 200_000  # of the machine; the published model's takes 8,000


@dataclasses.dataclass(frozen=True, repr=False)
class PairSeparation(Printable):
    """A plane between the projections of two outputs.

    Attributes:
      first, second: the outputs, counted from 0; `second` lies on the positive side.
      separable: whether a plane with every point on its right side exists.
      accuracy: fraction of points on the right side of the plane found.
      margin: 1 / |weights|, distance from the plane to the nearest points; NaN if not separable, or
        so narrowly that the widest margin was not found.
      weights, intercept: of the plane, [T] and a number.
    """

    first: int
    second: int
    separable: bool
    accuracy: float
    margin: float
    weights: np.ndarray
    intercept: float


@dataclasses.dataclass(frozen=True, repr=False)
class Separability(Printable):
    """Final residuals of the outputs projected onto the rows of P.

    Attributes:
      projections: residual @ P.T, [B, n, T], of at most the first 5,000 lists.
      pairs: a plane for every two neighbouring outputs, n-1 of them.
    """

    projections: np.ndarray
    pairs: tuple[PairSeparation, ...]

    def table(self) -> str:
        """A line per plane: the points on its right side, and its margin."""
        rows = [("plane between", "right side", "margin")]
        for p in self.pairs:
            rows.append((f"o{p.first + 1} and o{p.second + 1}", percent(p.accuracy), number(p.margin, 4)))
        return columns(rows)


def separate_outputs(observation: Observation) -> Separability:
    """Fits a hard-margin linear SVM between the projections of neighbouring outputs (section 4).

    Whether one exists is decided first, exactly, by linear programming: where no plane separates
    the points a hard margin is not defined, and the accuracy is that of a soft one.
    """
    check_kind("observation", observation, Observation)
    residuals = observation.residuals[:MAX_LISTS]
    projections = residuals @ np.asarray(observation.model.pos_embed.W_pos[...]).T
    pairs = itertools.pairwise(range(projections.shape[1]))
    return Separability(projections, tuple(_separate(projections, *pair) for pair in pairs))


def _separate(projections: np.ndarray, first: int, second: int) -> PairSeparation:
    points = np.concatenate([projections[:, first], projections[:, second]]).astype(np.float64)
    side = np.repeat([-1, 1], len(projections))
    separable = is_separable(points, side)
    weights, intercept, converged = (_hard_margin if separable else _soft_margin)(points, side)
    return PairSeparation(
        first=first,
        second=second,
        separable=separable,
        accuracy=float((np.sign(points @ weights + intercept) == side).mean()),
        margin=float(1 / np.linalg.norm(weights)) if separable and converged else float("nan"),
        weights=weights,
        intercept=float(intercept),
    )


def is_separable(points: np.ndarray, side: np.ndarray) -> bool:
    """Whether some plane has all points [N, T] of side -1 below it and of side 1 above it.

    It does if `side * (points @ weights + intercept) >= 1` has a solution, a linear program.
    """
    from scipy.optimize import linprog

    with_one = np.concatenate([points, np.ones((len(points), 1))], 1)
    nothing = np.zeros(with_one.shape[1])
    program = linprog(
        nothing, A_ub=-side[:, None] * with_one, b_ub=-np.ones(len(points)), bounds=(None, None)
    )
    return program.status == 0


def _hard_margin(points, side):
    from sklearn import svm

    machine = _fit(svm.SVC(kernel="linear", C=HARD_MARGIN, max_iter=MAX_ITERATIONS), points, side)
    return machine.coef_[0], machine.intercept_[0], machine.fit_status_ == 0


def _soft_margin(points, side):
    from sklearn import svm

    mean, scale = points.mean(0), points.std(0)
    scale[scale == 0] = 1
    machine = _fit(svm.LinearSVC(dual=False), (points - mean) / scale, side)
    weights = machine.coef_[0] / scale
    return weights, machine.intercept_[0] - weights @ mean, True


def _fit(machine, points, side):
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hard margin's is passed on as `converged`
        return machine.fit(points, side)


@dataclasses.dataclass(frozen=True, repr=False)
class Reconstruction(Printable):
    """Answers from the least-squares projection of the final residuals onto span(P).

    Attributes:
      predictions: int [B, n].
      accuracy: fraction of output tokens right.
      per_position_accuracy: [n].
    """

    predictions: np.ndarray
    accuracy: float
    per_position_accuracy: np.ndarray


def reconstruct_from_positions(observation: Observation) -> Reconstruction:
    """Projects each final residual onto the span of the position vectors, and unembeds the projection."""
    check_kind("observation", observation, Observation)
    P = np.asarray(observation.model.pos_embed.W_pos[...], np.float64)
    onto_span = np.linalg.pinv(P) @ P  # [D, D]
    predictions = []
    for part in chunks(len(observation.lists)):
        projected = (observation.residuals[part] @ onto_span).astype(np.float32)
        predictions.append(np.asarray(observation.model.logits(projected)).argmax(-1))
    predictions = np.concatenate(predictions)
    correct = predictions == observation.lists
    return Reconstruction(predictions, float(correct.mean()), correct.mean(0))
