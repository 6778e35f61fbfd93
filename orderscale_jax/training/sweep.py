"""Grids of configurations times seeds: what a sweep runs, and in which groups.

A sweep is a ConfigDict made by `sweep_config`. Its cells are the points of the grid; a run is a cell
with a seed. Runs whose programs are the same, because they differ only in seed and in numbers such as the
learning rate (`hyper`), can advance together. `sweep_training` trains them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from orderscale_jax.config import RunConfig, Setup, check_sweep
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.overrides import overrides_text
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.hyper import neutral
from orderscale_jax.training.sweep_results import SUCCESS
from orderscale_jax.training.sweep_rows import run_digest


def sweep_config(
    base: ml_collections.ConfigDict,
    grid: Mapping[str | tuple[str, ...], Iterable[Any]],
    seeds: int,
    first_seed: int = 0,
    success: float = SUCCESS,
    save_seconds: float = RunConfig.save_seconds,
) -> ml_collections.ConfigDict:
    """The configuration of a sweep.

    Args:
      base: every option that the grid does not set, as `config.default_config` gives it.
      grid: the axes in order, the last one fastest: a field such as `model.n_layers` with its values,
        or several fields with tuples of values, which makes grids that are not rectangles. A later
        axis overrides an earlier one.
      seeds, first_seed: every cell runs with seeds first_seed … first_seed + seeds - 1.
      success: accuracy from which a run counts as a success in figures and sentences.
      save_seconds: time between two savings of the runs in flight, from which a killed sweep goes on, each
        after a validation; 0 saves at every one.

    Raises:
      UserError: `base` or the grid is of another kind.
    """
    check_kind("base", base, ml_collections.ConfigDict)
    check_kind("grid", grid, Mapping)
    axes = []
    for fields, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"the grid needs several values of {fields}, as (1, 2); got {values!r}")
        fields = (fields,) if isinstance(fields, str) else tuple(fields)
        points = [tuple(value) if len(fields) > 1 else (value,) for value in values]
        axes.append((fields, tuple(points)))
    return ml_collections.ConfigDict(
        {
            "base": base,
            "grid": tuple(axes),
            "seeds": seeds,
            "first_seed": first_seed,
            "success": success,
            "save_seconds": save_seconds,
        }
    ).lock()


@dataclasses.dataclass(frozen=True)
class Cell:
    """A point of the grid: its place, the fields that name it, and its configuration."""

    index: int
    values: dict[str, Any]
    config: ml_collections.ConfigDict
    setup: Setup

    def __str__(self) -> str:
        values = {**self.values}
        if "train.overrides" in values:
            values["train.overrides"] = overrides_text(values["train.overrides"]) or "none"
        return ", ".join(f"{field.split('.')[-1]} {value}" for field, value in values.items())


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a cell and a seed."""

    cell: Cell
    seed: int

    @property
    def columns(self) -> dict[str, Any]:
        """The complete configuration, a column a field."""
        setup = self.cell.setup
        parts = (dataclasses.asdict(part) for part in (setup.task, setup.model, setup.train))
        columns = {"seed": self.seed, **{name: value for part in parts for name, value in part.items()}}
        return {**columns, "overrides": overrides_text(setup.train.overrides)}

    @property
    def name(self) -> str:
        """Names the run by everything that decides its outcome."""
        return run_digest(self.columns)


def plan(config: ml_collections.ConfigDict) -> list[Job]:
    """Every run of a sweep, cell by cell.

    A run is tried once, whatever it reaches: `max_attempts` is 1.

    Raises:
      UserError: the grid is empty, names an unknown field or a value that does not fit, or repeats a
        cell; a cell's configuration is wrong; or the sweep's own options are.
    """
    check_sweep(config)
    if not config.grid or any(not values for _, values in config.grid):
        raise UserError("the grid is empty: give at least one field, and at least one value for each")
    jobs, seen = [], {}
    axes = [[(fields, value) for value in values] for fields, values in config.grid]
    for index, point in enumerate(itertools.product(*axes)):
        values = {f: v for fields, value in point for f, v in zip(fields, value, strict=True)}
        cell = _cell(index, values, config.base)
        if cell.setup in seen:
            raise UserError(f"the grid names the same cell twice: {seen[cell.setup]}; {cell}")
        seen[cell.setup] = cell
        jobs += [Job(cell, config.first_seed + i) for i in range(config.seeds)]
    return jobs


def _cell(index: int, values: dict[str, Any], base: ml_collections.ConfigDict) -> Cell:
    config = ml_collections.ConfigDict(base.to_dict())
    config.train.max_attempts = 1
    for field, value in values.items():
        group, _, name = field.partition(".")
        if group not in ("task", "model", "train") or name not in config[group]:
            known = [f"{g}.{n}" for g in ("task", "model", "train") for n in config[g]]
            raise UserError(f"the grid's field {field!r} is unknown; there are {', '.join(known)}")
        try:
            config[group][name] = value
        except TypeError as error:
            raise UserError(f"the grid's value {value!r} does not fit {field}: {error}") from error
    try:
        return Cell(index, values, config, make_setup(config)[0])
    except UserError as error:
        named = ", ".join(f"{field}={value}" for field, value in values.items())
        raise UserError(f"the cell {named} cannot be trained: {error}") from error


def programs(jobs: Sequence[Job]) -> list[list[Job]]:
    """The runs in groups that share one program, in order of first appearance."""
    groups: dict[Setup, list[Job]] = {}
    for job in jobs:
        groups.setdefault(program(job.cell.setup), []).append(job)
    return list(groups.values())


def program(setup: Setup) -> Setup:
    """The setup without what is a value of each run."""
    return dataclasses.replace(setup, train=neutral(setup.train))
