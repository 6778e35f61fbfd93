"""Grids of configurations times seeds: what to run, in which groups, and a CSV that survives a kill.

A sweep is a ConfigDict made by `sweep_config`. Its cells are the points of the grid; a run is a cell
with a seed. Runs whose programs are the same, because they differ only in seed and in numbers such as the
learning rate (`hyper`), advance together as one `Ensemble`; a finished run is a row of `results.csv` at once.

Where several processes take part (`shares`), each trains its share and writes `results.share_I_of_P.csv`;
whoever finds all rows there writes them to `results.csv`. Any number of processes goes on where another
number was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from orderscale_jax import files
from orderscale_jax.checkpoint import named_arrays, weight_digest
from orderscale_jax.config import Setup, check_seeds, overrides_text
from orderscale_jax.errors import UserError
from orderscale_jax.model import bind
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup, result
from orderscale_jax.training.hyper import hyper_of, neutral
from orderscale_jax.training.run import Run
from orderscale_jax.training.shares import Share, check_processes
from orderscale_jax.training.sweep_results import OUTCOMES, SUCCESS, ResultsFile, read_results, write_results

ALL = Share()
RESULTS = "results.csv"


def sweep_config(
    base: ml_collections.ConfigDict,
    grid: Mapping[str | tuple[str, ...], Iterable[Any]],
    seeds: int,
    first_seed: int = 0,
    success: float = SUCCESS,
) -> ml_collections.ConfigDict:
    """The configuration of a sweep.

    Args:
      base: every option that the grid does not set, as `config.default_config` gives it.
      grid: the axes in order, the last one fastest: a field such as `model.n_layers` with its values,
        or several fields with tuples of values, which makes grids that are not rectangles. A later
        axis overrides an earlier one.
      seeds, first_seed: every cell runs with seeds first_seed … first_seed + seeds - 1.
      success: accuracy from which a run counts as a success in figures and sentences.
    """
    axes = []
    for fields, values in grid.items():
        fields = (fields,) if isinstance(fields, str) else tuple(fields)
        points = [tuple(value) if len(fields) > 1 else (value,) for value in values]
        axes.append((fields, tuple(points)))
    return ml_collections.ConfigDict(
        {"base": base, "grid": tuple(axes), "seeds": seeds, "first_seed": first_seed, "success": success}
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
        text = json.dumps(self.columns, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(config: ml_collections.ConfigDict) -> list[Job]:
    """Every run of a sweep, cell by cell.

    A run is tried once, whatever it reaches: `max_attempts` is 1.

    Raises:
      UserError: the grid is empty, names an unknown field or a value that does not fit, or repeats a
        cell; there are no seeds; or a cell's configuration is wrong.
    """
    if "grid" not in config:
        raise UserError("this is the configuration of one run, not of a sweep: give it to `orderscale train`")
    if config.seeds < 1:
        raise UserError(f"a sweep needs at least one seed per cell, got seeds={config.seeds}")
    check_seeds(config.first_seed, config.seeds)
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
        groups.setdefault(_program(job.cell.setup), []).append(job)
    return list(groups.values())


def _program(setup: Setup) -> Setup:
    """The setup without what is a value of each run."""
    return dataclasses.replace(setup, train=neutral(setup.train))


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    on_row: Callable[[Job, dict[str, Any]], None] = lambda job, row: None,
    share: Share = ALL,
) -> list[dict[str, Any]] | None:
    """Trains what `workdir/results.csv` does not hold yet; returns all rows, cell by cell.

    Args:
      config: of the sweep.
      workdir: exists; all shares must see the same one.
      on_row: called with each finished run of this share, at the start with those that were already there.
      share: which of the runs; the default is all.

    Returns:
      The rows, or None while other shares go on.

    Raises:
      UserError: the sweep is wrong, has fewer runs than shares, or `workdir` holds another one.
    """
    workdir, jobs = files.place(workdir), plan(config)
    if (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds a run and not a sweep: give another directory")
    share.of(len(jobs))  # for its check
    check_processes(share)
    mine = jobs[share.index :: share.count]  # every share gets some of each cell
    finished = _finished(workdir, jobs)
    for job in mine:
        if job.name in finished:
            on_row(job, finished[job.name])
    unfinished = [job for job in mine if job.name not in finished]
    if unfinished:
        file = ResultsFile(workdir / (RESULTS if share.count == 1 else f"results.share_{share}.csv"))

        def finish(job: Job, row: dict[str, Any]):
            file.append(row)
            on_row(job, row)

        try:
            for group in programs(unfinished):
                _train_together(group, finish, file.keep)
        finally:
            file.close()
        finished = _finished(workdir, jobs)
    if any(job.name not in finished for job in jobs):
        return None
    rows = [finished[job.name] for job in jobs]
    write_results(workdir / RESULTS, rows)
    for path in workdir.glob("results.share_*.csv"):
        path.unlink(missing_ok=True)
    return rows


def _finished(workdir: files.Place, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """The rows in `workdir` by the name of their run."""
    planned = {job.name for job in jobs}
    found = {}
    for path in (*sorted(workdir.glob("results.share_*.csv")), workdir / RESULTS):
        with contextlib.suppress(FileNotFoundError):  # there is none yet, or all are in one file now
            for row in read_results(path):
                if row["run"] not in planned:
                    raise UserError(
                        f"{path} holds runs of another sweep (one with accuracy {row['accuracy']}, seed "
                        f"{row['seed']}): give the same sweep, one that contains it, or another directory"
                    )
                found[row["run"]] = row
    return found


def _train_together(
    jobs: Sequence[Job],
    on_row: Callable[[Job, dict[str, Any]], None],
    after_rows: Callable[[], None] = lambda: None,
):
    """Trains runs of one of `programs`, as many at once as suits the devices.

    Many may end in the same moment: `after_rows` is called once for all of these.

    On a CPU runs of a device take turns, so there are as many at once as devices: rows come early
    and a kill loses little. On other devices all, of which `Ensemble` takes as many as fit; if the
    device runs out of memory after all, half as many.
    Places left over in the last group train one of its runs again, because sharing out a batch
    instead would round differently.
    """
    setup = _program(jobs[0].cell.setup)
    _, split = make_setup(jobs[0].cell.config)
    n_devices, size = jax.local_device_count(), runs_at_once(len(jobs))
    pending = list(range(len(jobs)))

    def ended(i: int, row: dict[str, Any]):
        pending.remove(i)
        on_row(jobs[i], row)

    while pending:
        group = pending[:size]
        filled = np.resize(group, -(-len(group) // n_devices) * n_devices)
        try:
            ensemble = Ensemble(setup, split, _start(setup, [jobs[i] for i in filled]))
            _finish(ensemble, [(i, jobs[i]) for i in group], ended, after_rows)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or len(filled) == n_devices:
                raise
            size = n_devices * max(1, len(filled) // (2 * n_devices))


def _start(setup: Setup, jobs: Sequence[Job]) -> Run:
    """The runs [R, …] of these jobs before their first step."""
    hypers = [hyper_of(job.cell.setup.train) for job in jobs]
    stacked = jax.tree.map(lambda *values: np.stack(values), *hypers)
    return start_runs(setup, np.array([job.seed for job in jobs], np.uint32), stacked)


def _finish(
    ensemble: Ensemble,
    jobs: Sequence[tuple[int, Job]],
    ended: Callable[[int, dict], None],
    after_rows: Callable[[], None],
):
    """Advances runs to their end; those of the ensemble beyond `jobs` fill places."""
    seconds = np.zeros(len(jobs))
    while not ensemble.done:
        began = time.perf_counter()
        lines = [line for line in ensemble.advance() if line["index"] < len(jobs)]
        elapsed = time.perf_counter() - began
        for line in lines:
            seconds[line["index"]] += elapsed / len(lines)
        if any(line["done"] for line in lines):
            state = ensemble.state()
            for place in (line["index"] for line in lines if line["done"]):
                number, job = jobs[place]
                ended(number, _row(job, state, place, float(seconds[place])))
            after_rows()


def _row(job: Job, state: Run, i: int, seconds: float) -> dict[str, Any]:
    """The row of run i."""
    ended = result(state, i)
    arrays = named_arrays(bind(job.cell.setup.model, ended.params))
    return {
        "run": job.name,
        **job.columns,
        **{name: getattr(ended, name) for name in OUTCOMES},
        "seconds": seconds,
        "parameters": sum(array.size for array in arrays.values()),
        "weights_sha256": weight_digest(arrays),
        "device": jax.local_devices()[0].device_kind,
    }


def runs_at_once(n_runs: int) -> int:
    """How many of so many runs are handed to the devices together."""
    return jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else n_runs
