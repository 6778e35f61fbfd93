"""What functions of circuits are given, checked where it enters."""

from __future__ import annotations

import numbers

import jax.numpy as jnp
import numpy as np

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.graph import Graph
from orderscale_jax.model import ListTransformer
from orderscale_jax.options import shown

LARGEST_SEED = 2**32 - 1  # as of training


def whole_number(name: str, value, least: int, most: int | None = None) -> int:
    """The argument `name` as an int; UserError unless it is a whole number from `least` to `most`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        wanted = f"from {least} on" if most is None else f"from {least} to {most}"
        raise UserError(f"{name} must be a whole number {wanted}; got {shown(value)}")
    return int(value)


def check_seed(seed, name: str = "seed") -> int:
    """The seed as an int; UserError unless it is an unsigned number of 32 bits."""
    return whole_number(name, seed, 0, LARGEST_SEED)


def real_numbers(name: str, values) -> np.ndarray:
    """The argument `name` as new float64; UserError unless it holds finite numbers or truth values."""
    try:
        found = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise UserError(f"{name} must hold numbers, got rows of different lengths") from None
    if not (found.dtype.kind in "biu" or jnp.issubdtype(found.dtype, np.floating)):
        raise UserError(f"{name} must hold numbers, got {found.dtype}")
    with np.errstate(over="ignore"):  # of more bits
        found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise UserError(f"{name} must hold finite numbers, and one is {found[~np.isfinite(found)][0]}")
    return found


def check_task(model: ListTransformer, lists) -> np.ndarray:
    """The lists as an array [B, n].

    Raises:
      UserError: there are none, they do not fit the model, or some of its weights are not finite.
    """
    check_kind("model", model, ListTransformer)
    lists = np.asarray(model.config.check_lists(lists))
    if not len(lists):
        raise UserError("circuits are tried on lists: give at least one")
    if not model.is_finite():
        raise UserError("this model has no circuits: some of its weights are not finite numbers")
    return lists


def check_edges(graph: Graph):
    """UserError if there is no edge to rank or to draw."""
    if not graph.live_edges:
        raise UserError(
            "this model has no live edge, as no edge can reach an output: there is nothing to rank"
        )
