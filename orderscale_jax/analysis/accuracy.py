"""How many outputs and lists a model gets right, and nothing else: for more lists than are looked into."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, percent
from orderscale_jax.model import ListTransformer, metrics
from orderscale_jax.printing import Printable

LISTS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, repr=False)
class Accuracy(Printable):
    """Fractions over some lists.

    Attributes:
      n_lists: how many.
      accuracy: of outputs right.
      sequence_accuracy: of lists entirely right.
    """

    n_lists: int
    accuracy: float
    sequence_accuracy: float

    def table(self) -> str:
        """Both fractions."""
        rows = [
            ("lists", f"{self.n_lists:,}"),
            ("outputs right", percent(self.accuracy)),
            ("lists entirely right", percent(self.sequence_accuracy)),
        ]
        return columns(rows)


def accuracy_on(model: ListTransformer, lists: np.ndarray) -> Accuracy:
    """Accuracy of a model on `lists` [B, n].

    Raises:
      UserError: no lists, or lists that do not fit the model.
    """
    check_kind("model", model, ListTransformer)
    lists = np.asarray(model.config.check_lists(lists))
    if not len(lists):
        raise UserError("the accuracy on no lists does not exist: give at least one")
    graphdef, params = nnx.split(model)
    outputs = whole = 0
    for first in range(0, len(lists), LISTS_AT_ONCE):
        part = lists[first : first + LISTS_AT_ONCE]
        padded = np.resize(part, (min(LISTS_AT_ONCE, len(lists)), part.shape[1]))
        right = np.asarray(_is_right(graphdef, params, jnp.asarray(padded)))[: len(part)]
        outputs, whole = outputs + right.sum(), whole + right.all(-1).sum()
    return Accuracy(len(lists), float(outputs / lists.size), float(whole / len(lists)))


@functools.partial(jax.jit, static_argnums=0)
def _is_right(graphdef, params, lists):
    return metrics.is_correct(nnx.merge(graphdef, params)(lists), lists)
