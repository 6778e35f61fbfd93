"""What the commands that train sparse autoencoders share: flags, progress, and the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from tqdm.auto import tqdm

from orderscale_jax.cli import arguments, configuration, studied
from orderscale_jax.config import task_config
from orderscale_jax.errors import UserError
from orderscale_jax.options import meanings, shown
from orderscale_jax.sae import SAEConfig, store, sweep

HEADING = "Options of the sparse autoencoder, with their defaults"
TOP = "base", "grid", "seeds"
FORMAT = "{desc} {percentage:3.0f}%|{bar:4}|{n_fmt} {rate_fmt} {remaining}{postfix}"


class Options:
    """A flag for every option of an SAE; made before flags are read."""

    def __init__(self):
        meaning = meanings(SAEConfig)
        self._flags: dict[str, flags.FlagHolder] = {
            field.name: arguments.define(
                field.name, field.type, field.default, meaning[field.name], heading=HEADING
            )
            for field in dataclasses.fields(SAEConfig)
        }

    def load(self) -> SAEConfig:
        """The SAE that was asked for; UserError if an option does not fit."""
        return SAEConfig(**{name: holder.value for name, holder in self._flags.items()})


def source(checkpoint: str) -> tuple[str, sweep.Source]:
    """Name and SEP of the model of a checkpoint, or of a shipped one."""
    model, config, name = studied.load(checkpoint)
    return name, sweep.source(model, task_config(config))


def shipped() -> dict[str, Path]:
    """The grids that are shipped, by name: `sae/reduced`, …"""
    return {f"sae/{path.stem}": path for path in sorted((configuration.SHIPPED / "sae").glob("*.py"))}


def find(name: str) -> Path:
    """The file of a grid: `name` is its path, or that of one that is shipped, as `sae/reduced`.

    Raises:
      UserError: there is neither.
    """
    known = shipped()
    if name not in known and not Path(name).is_file():
        raise UserError(
            f"there is no grid of SAEs {name!r}; there are {', '.join(known)}, or a file of yours"
        )
    return known.get(name, Path(name))


def jobs(
    config: ml_collections.ConfigDict, n_seeds: int | None, steps: int | None, name: str
) -> list[sweep.Job]:
    """The SAEs of a grid; with other seeds or steps than the file says, if given.

    Raises:
      UserError: the file describes no grid, or an option does not exist or fit.
    """
    if unknown := sorted(set(config) - set(TOP)):
        raise UserError(f"unknown option {unknown[0]}; a grid of SAEs has {', '.join(TOP)}")
    if missing := [part for part in TOP if part not in config]:
        raise UserError(f"the grid of SAEs says nothing of {missing[0]}; it has {', '.join(TOP)}")
    for part in ("base", "grid"):
        if not isinstance(config[part], ml_collections.ConfigDict):
            raise UserError(f"{part} of a grid of SAEs maps options to values, got {shown(config[part])}")
    base = config.base.to_dict() | ({} if steps is None else {"steps": steps})
    known = [field.name for field in dataclasses.fields(SAEConfig)]
    if unknown := sorted(set(base) - set(known)):
        raise UserError(f"there is no option {unknown[0]!r} of an SAE; there are {', '.join(known)}")
    axes = config.grid.to_dict()
    first = {axis: values[0] for axis, values in axes.items() if isinstance(values, tuple | list) and values}
    n_seeds = config.seeds if n_seeds is None else n_seeds
    if not isinstance(n_seeds, int) or n_seeds < 1:
        raise UserError(f"seeds of a grid of SAEs must be a number from 1 on, got {shown(n_seeds)}")
    return sweep.grid(SAEConfig(**{**base, **first}), axes, range(n_seeds), name)


class Shown:
    """A bar over the steps of all SAEs, with rate and error; silent when nobody watches."""

    def __init__(self, all_jobs: Sequence[sweep.Job]):
        self.bar = tqdm(
            desc="compiling",
            total=sum(job.config.steps for job in all_jobs),
            unit="step",
            unit_scale=True,
            bar_format=FORMAT,
            disable=None,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *error: Any):
        self.bar.close()

    def __call__(self, steps: int, mse: float):
        self.bar.set_description_str("training", refresh=False)
        if math.isfinite(mse):
            self.bar.set_postfix_str(f"MSE {mse:.4f}", refresh=False)
        self.bar.update(steps)


def load(name: str):
    """(SAE, what is said about it, its name) of a directory or a shipped one; UserError if there is none."""
    path = Path(name)
    if name in store.pretrained_saes() and not path.exists():
        return *store.load_pretrained_sae(name), name
    if not path.exists():
        known = ", ".join(store.pretrained_saes()) or "none"
        raise UserError(f"there is no SAE at {path.absolute()}, and no shipped one of that name ({known})")
    return *store.load_sae(path), path.absolute().name
