"""Order by Scale in JAX: train, ablate and explain small transformers that pack a list into one token."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, save_checkpoint
    from orderscale_jax.model import Interventions, ListTransformer, ModelConfig, cut, patch
    from orderscale_jax.task import TaskConfig, make_split

__all__ = [
    "Interventions",
    "ListTransformer",
    "ModelConfig",
    "TaskConfig",
    "cut",
    "load_checkpoint",
    "load_pretrained",
    "make_split",
    "patch",
    "save_checkpoint",
]

_ROOMS = {  # and what is offered of them here
    "checkpoint": ("load_checkpoint", "load_pretrained", "save_checkpoint"),
    "config": (),
    "model": ("Interventions", "ListTransformer", "ModelConfig", "cut", "patch"),
    "task": ("TaskConfig", "make_split"),
}


def __getattr__(name: str) -> Any:
    """A name is imported when it is first asked for: JAX takes seconds, and a command that is interrupted
    meanwhile must already know what to say."""
    if name == "__version__":
        from importlib import metadata

        value = metadata.version("orderscale-jax")
    elif name in _ROOMS:
        value = importlib.import_module(f"orderscale_jax.{name}")
    elif found := [room for room, names in _ROOMS.items() if name in names]:
        value = getattr(importlib.import_module(f"orderscale_jax.{found[0]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*__all__, *_ROOMS, "__version__"))
