"""The training of the shipped model `two_layer` as a film: its tables at some forty steps.

`film.npz` is made by `python -m experiments.film`, which trains the model once more. Logits are rounded to
12 bits a row, so that all frames fit a page; what that changes is measured there and kept in the file.

Dimensions: F frames, A atoms, V vocabulary, N digits.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from importlib import resources

import numpy as np

from orderscale_jax.errors import UserError
from orderscale_jax.explorer.tables import Tables, model_of
from orderscale_jax.model import ListTransformer

MODEL = "two_layer"  # the shipped model in which the film ends
LARGEST = 2047  # of a rounded logit, with its sign in 12 bits


@dataclasses.dataclass(frozen=True)
class Film:
    """Frames of one training run.

    Attributes:
      steps: [F], of training.
      accuracy: [F], fraction of validation outputs right, before rounding.
      changed: [F], lists of all N^2 of which an output differs by rounding.
      logits: int16 [F, A, V], logits (less the mean of their row) in units of `unit`.
      unit: float32 [F, A].
      scores: by layer, float32 [F, R, A] as in `Tables`.
      rows: by layer, as in `Tables`.
    """

    steps: np.ndarray
    accuracy: np.ndarray
    changed: np.ndarray
    logits: np.ndarray
    unit: np.ndarray
    scores: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]

    def tables(self, frame: int) -> Tables:
        """What the page computes with at a frame."""
        n_digits = self.logits.shape[2] - 2
        logits = self.logits[frame] * self.unit[frame][:, None].astype(np.float64)
        return Tables(n_digits, logits, tuple(layer[frame] for layer in self.scores), self.rows)


def rounded(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [A, V] as int16 in units [A] of their own row; a row's mean is taken off, it changes nothing."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    unit = (np.abs(centred).max(axis=1) / LARGEST).astype(np.float32)
    return np.rint(centred / np.where(unit > 0, unit, 1)[:, None]).astype(np.int16), unit


@functools.cache
def load_film() -> Film:
    """The film that comes with the package."""
    with resources.as_file(resources.files(__package__).joinpath("film.npz")) as path, np.load(path) as file:
        layers = range(sum(name.startswith("scores_") for name in file.files))
        parts = {name: tuple(file[f"{name}_{i}"] for i in layers) for name in ("scores", "rows")}
        return Film(**{x: file[x] for x in ("steps", "accuracy", "changed", "logits", "unit")}, **parts)


def film_model(step: int) -> ListTransformer:
    """The model at one of the film's steps, as the page computes it.

    It has the patterns and (rounded) logits of the model that was trained, in a space of its own.

    Raises:
      UserError: the film has no such step.
    """
    film = load_film()
    is_number = isinstance(step, numbers.Integral) and not isinstance(step, bool)
    frames = np.flatnonzero(film.steps == step) if is_number else ()
    if not len(frames):
        known = ", ".join(map(str, film.steps.tolist()))
        raise UserError(f"the film has no step {step!r}; it has {known}")
    return model_of(film.tables(int(frames[0])))
