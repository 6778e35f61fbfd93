"""Can the outputs be told apart by position alone, and is that all that the unembedding uses?"""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import jax
import numpy as np

from orderscale_jax.analysis.observation import Observation, chunks

HARD_MARGIN = 1e6  # C of the support vector machine; so large that no point may lie inside the margin
MAX_LISTS = 5_000  # the machine's time grows with the square of its points
MAX_ITERATIONS = 100_000  # where no plane separates the points, a hard margin is never found


@dataclasses.dataclass(frozen=True)
class PairSeparation:
    """The plane between the projections of two outputs.

    Attributes:
      first, second: the outputs, counted from 0; `second` lies on the positive side.
      accuracy: fraction of points on the right side; 1 means separable.
      margin: 1 / |weights|, distance from the plane to the nearest points; only meaningful if separable.
      weights, intercept: of the plane, [T] and a number.
    """

    first: int
    second: int
    accuracy: float
    margin: float
    weights: np.ndarray
    intercept: float


@dataclasses.dataclass(frozen=True)
class Separability:
    """Final residuals of the outputs projected onto the rows of P.

    Attributes:
      projections: residual @ P.T, [B, n, T], of at most the first 5,000 lists.
      pairs: one plane for each pair of outputs.
    """

    projections: np.ndarray
    pairs: tuple[PairSeparation, ...]


def separate_outputs(observation: Observation) -> Separability:
    """Fits a hard-margin linear SVM between the projections of each pair of outputs (section 4).

    Raises:
      ImportError: scikit-learn is not installed.
    """
    residuals = observation.residuals[:MAX_LISTS]
    projections = residuals @ np.asarray(observation.model.pos_embed.W_pos[...]).T
    pairs = itertools.combinations(range(projections.shape[1]), 2)
    return Separability(projections, tuple(_separate(projections, *pair) for pair in pairs))


def _separate(projections: np.ndarray, first: int, second: int) -> PairSeparation:
    SVC, ConvergenceWarning = _scikit_learn()
    points = np.concatenate([projections[:, first], projections[:, second]])
    side = np.repeat([-1, 1], len(projections))
    machine = SVC(kernel="linear", C=HARD_MARGIN, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy says it
        machine.fit(points, side)
    return PairSeparation(
        first=first,
        second=second,
        accuracy=float(machine.score(points, side)),
        margin=float(1 / np.linalg.norm(machine.coef_[0])),
        weights=machine.coef_[0],
        intercept=float(machine.intercept_[0]),
    )


def _scikit_learn():
    """The support vector machine and its warning; imported late because only this needs the package."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import SVC
    except ImportError:
        raise ImportError(
            "separability needs scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    return SVC, ConvergenceWarning


@dataclasses.dataclass(frozen=True)
class Reconstruction:
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
    """Keeps of each final residual only what lies in the span of the position vectors, and unembeds it."""
    P = np.asarray(observation.model.pos_embed.W_pos[...], np.float64)
    onto_span = np.linalg.pinv(P) @ P  # [D, D]
    predictions = []
    for part in chunks(len(observation.lists)):
        projected = (observation.residuals[part] @ onto_span).astype(np.float32)
        with jax.default_matmul_precision("highest"):
            predictions.append(np.asarray(observation.model.logits(projected)).argmax(-1))
    predictions = np.concatenate(predictions)
    correct = predictions == observation.lists
    return Reconstruction(predictions, float(correct.mean()), correct.mean(0))
