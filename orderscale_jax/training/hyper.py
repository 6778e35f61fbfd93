"""Hyper-parameters as values of a run: what is the same for all arrays, and what is overridden for some.

Which arrays an override reaches, and whether an array is trained at all, decides the program; the
numbers themselves are data, so that runs which differ in them advance as one program.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from orderscale_jax.config import STATIC_OVERRIDES, Setup, TrainConfig, overridden
from orderscale_jax.model import array_names

SHARED = ("learning_rate", "weight_decay", "epsilon")  # of every array that no override names


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """The numbers of one run.

    Attributes:
      learning_rate, weight_decay, epsilon: [] as in `TrainConfig`.
      scores_value: [] likewise.
      overrides: the values [] of `TrainConfig.overrides`, in their order.
    """

    learning_rate: jax.Array
    weight_decay: jax.Array
    epsilon: jax.Array
    scores_value: jax.Array
    overrides: tuple[jax.Array, ...]


def hyper_of(train: TrainConfig) -> Hyper:
    """The configured numbers."""
    number = functools.partial(jnp.asarray, dtype=jnp.float32)
    shared = {name: number(getattr(train, name)) for name in (*SHARED, "scores_value")}
    return Hyper(**shared, overrides=tuple(number(value) for _, _, value in train.overrides))


def neutral(train: TrainConfig) -> TrainConfig:
    """What is left of a configuration when the numbers of a run are taken out: equal for one program."""
    defaults = {name: getattr(TrainConfig, name) for name in SHARED}
    kept = tuple(
        (pattern, field, value if field in STATIC_OVERRIDES or not value else 1.0)
        for pattern, field, value in train.overrides
    )
    return dataclasses.replace(train, **defaults, scores_value=float(train.scores != "free"), overrides=kept)


def of_array(setup: Setup, hyper: Hyper, name: str, field: str, default: Any = None) -> Any:
    """The value of `field` for the array `name`: that of the override that holds, else the shared one."""
    place = overridden(setup.model, setup.train.overrides)[name].get(field)
    if place is None:
        return getattr(hyper, field) if field in SHARED else default
    if field in STATIC_OVERRIDES:
        return setup.train.overrides[place][2]
    return hyper.overrides[place]


def untrained(setup: Setup, name: str) -> bool:
    """Whether the array `name` has learning rate 0, so that it needs no gradient (it may still decay)."""
    place = overridden(setup.model, setup.train.overrides)[name].get("learning_rate")
    return place is not None and setup.train.overrides[place][2] == 0


def scaled(setup: Setup, hyper: Hyper, params):
    """Parameters as they are drawn, times the `initial_scale` of their arrays."""
    arrays, structure = jax.tree.flatten(params)
    factors = [of_array(setup, hyper, name, "initial_scale") for name in array_names(setup.model)]
    scaled = [x if factor is None else x * factor for x, factor in zip(arrays, factors, strict=True)]
    return jax.tree.unflatten(structure, scaled)
