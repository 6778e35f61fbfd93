"""What is a model made of?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from flax import nnx

from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import columns
from orderscale_jax.model import ListTransformer, frozen_projections
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One array: its name, its shape, and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    trainable: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, repr=False)
class ParameterOverview(Printable):
    """Every array of a model, the trained ones first."""

    parameters: tuple[Parameter, ...]

    @property
    def trainable(self) -> int:
        """How many numbers are trained."""
        return sum(p.size for p in self.parameters if p.trainable)

    @property
    def total(self) -> int:
        """How many numbers there are, the frozen projections included."""
        return sum(p.size for p in self.parameters)

    def table(self) -> str:
        """A line per array: its shape, how many numbers, and whether they are trained."""
        rows = [("array", "shape", "numbers", "")]
        for p in self.parameters:
            shape = " x ".join(map(str, p.shape))
            rows.append((p.name, shape, f"{p.size:,}", "trained" if p.trainable else "frozen"))
        total = ("all", "", f"{self.total:,}", f"{self.trainable:,} trained")
        return columns([*rows, total])


def parameter_overview(model: ListTransformer, untrained: Collection[str] = ()) -> ParameterOverview:
    """Names (as published), shapes and counts; frozen W_V and W_O are listed though they are not stored.

    `untrained` names arrays that the training left as they were drawn (`config.untrained_arrays`).
    """
    check_kind("model", model, ListTransformer)
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    named = [(".".join(map(str, path)), x.shape) for path, x in state]
    learned = [Parameter(name, shape, name not in untrained) for name, shape in named]
    learned.sort(key=lambda parameter: not parameter.trainable)
    W_V, W_O = frozen_projections(model.config)
    frozen = [
        Parameter(f"blocks.{layer}.attn.{name}", array.shape, False)
        for layer in range(model.config.n_layers)
        for name, array, is_on in (("W_V", W_V, model.config.learn_wv), ("W_O", W_O, model.config.learn_wo))
        if not is_on
    ]
    return ParameterOverview((*learned, *frozen))
