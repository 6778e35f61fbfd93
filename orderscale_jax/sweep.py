"""Grids of configurations times seeds: what to run, in which groups, and a CSV that survives a kill.

A sweep is a ConfigDict made by `sweep_config`. Its cells are the points of the grid; a run is a cell
with a seed. Runs whose programs are the same, because they differ only in seed, learning rate and
weight decay, advance together as one `Ensemble`; a finished run is a row of `results.csv` at once.

Where several processes take part, each trains its share and writes `results_pN.csv`; at the end the
first one has all rows in `results.csv`. In a directory that all of them see, any number of processes
goes on where another number was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from orderscale_jax import hosts, training
from orderscale_jax.checkpoint import named_arrays, weight_digest
from orderscale_jax.config import TrainConfig, check_seeds
from orderscale_jax.ensemble import Ensemble, make_setup
from orderscale_jax.sweep_results import SUCCESS, ResultsFile, read_results, write_results
from orderscale_jax.training import Run, Setup

RESULTS = "results.csv"
PER_RUN = ("learning_rate", "weight_decay")  # values of a run, not of its program


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
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """A point of the grid: its place, the fields that name it, and its configuration."""

    index: int
    values: dict[str, Any]
    config: ml_collections.ConfigDict
    setup: Setup

    def __str__(self) -> str:
        return ", ".join(f"{field.split('.')[-1]} {value}" for field, value in self.values.items())


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
        return {"seed": self.seed, **{name: value for part in parts for name, value in part.items()}}

    @property
    def name(self) -> str:
        """Names the run by everything that decides its outcome."""
        text = json.dumps(self.columns, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(config: ml_collections.ConfigDict) -> list[Job]:
    """Every run of a sweep, cell by cell.

    A run is tried once, whatever it reaches: `max_retries` is 1.

    Raises:
      ValueError: the grid is empty, names an unknown field or a value that does not fit, or repeats a
        cell; there are no seeds; or a cell's configuration is wrong.
    """
    if "grid" not in config:
        raise ValueError("this is the configuration of one run, not of a sweep: give it to experiments.train")
    if config.seeds < 1:
        raise ValueError(f"a sweep needs at least one seed per cell, got seeds={config.seeds}")
    check_seeds(config.first_seed, config.seeds)
    if not config.grid or any(not values for _, values in config.grid):
        raise ValueError("the grid is empty: give at least one field, and at least one value for each")
    jobs, seen = [], {}
    axes = [[(fields, value) for value in values] for fields, values in config.grid]
    for index, point in enumerate(itertools.product(*axes)):
        values = {f: v for fields, value in point for f, v in zip(fields, value, strict=True)}
        cell = _cell(index, values, config.base)
        if cell.setup in seen:
            raise ValueError(f"the grid names the same cell twice: {seen[cell.setup]}; {cell}")
        seen[cell.setup] = cell
        jobs += [Job(cell, config.first_seed + i) for i in range(config.seeds)]
    return jobs


def _cell(index: int, values: dict[str, Any], base: ml_collections.ConfigDict) -> Cell:
    config = ml_collections.ConfigDict(base.to_dict())
    config.train.max_retries = 1
    for field, value in values.items():
        group, _, name = field.partition(".")
        if group not in ("task", "model", "train") or name not in config[group]:
            known = [f"{g}.{n}" for g in ("task", "model", "train") for n in config[g]]
            raise ValueError(f"the grid's field {field!r} is unknown; there are {', '.join(known)}")
        try:
            config[group][name] = value
        except TypeError as error:
            raise ValueError(f"the grid's value {value!r} does not fit {field}: {error}") from error
    try:
        return Cell(index, values, config, make_setup(config)[0])
    except ValueError as error:
        named = ", ".join(f"{field}={value}" for field, value in values.items())
        raise ValueError(f"the cell {named} cannot be trained: {error}") from error


def programs(jobs: Sequence[Job]) -> list[list[Job]]:
    """The runs in groups that share one program, in order of first appearance."""
    groups: dict[Setup, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_program(job.cell.setup), []).append(job)
    return list(groups.values())


def shared_setup(jobs: Sequence[Job]) -> Setup:
    """The setup under which these runs are one program.

    Raises:
      ValueError: they differ in more than seed, learning rate and weight decay.
    """
    setups = list(dict.fromkeys(_program(job.cell.setup) for job in jobs))
    if len(setups) > 1:
        a, b = (next(j.cell for j in jobs if _program(j.cell.setup) == setup) for setup in setups[:2])
        raise ValueError(
            f"these cells cannot run together: [{a}] and [{b}] have other shapes or another program; "
            f"only seeds, {' and '.join(PER_RUN)} may differ"
        )
    return setups[0]


def _program(setup: Setup) -> Setup:
    """The setup without what is a value of each run."""
    neutral = {name: getattr(TrainConfig, name) for name in PER_RUN}
    return dataclasses.replace(setup, train=dataclasses.replace(setup.train, **neutral))


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    on_row: Callable[[Job, dict[str, Any]], None] = lambda job, row: None,
) -> list[dict[str, Any]]:
    """Trains what `workdir/results.csv` does not hold yet; returns all rows, cell by cell.

    Args:
      config: of the sweep.
      workdir: exists; with several processes best one that all of them see.
      on_row: called with each finished run, and at the start with those that were already there.

    Raises:
      ValueError: the sweep is wrong, has fewer runs than processes, or `workdir` holds another one.
    """
    workdir, jobs = Path(workdir), plan(config)
    process, n_processes = hosts.index(), hosts.count()
    if n_processes > len(jobs):
        raise ValueError(
            f"{n_processes} processes cannot share {len(jobs)} runs: start at most as many as there are runs"
        )
    finished = _finished(workdir, jobs)
    mine = jobs[process::n_processes]  # by place and not by what is left, which others change meanwhile
    for job in mine:
        if job.name in finished:
            on_row(job, finished[job.name])
    part = workdir / (RESULTS if n_processes == 1 else f"results_p{process}.csv")
    file = ResultsFile(part)

    def finish(job: Job, row: dict[str, Any]):
        file.append(row)
        finished[job.name] = row
        on_row(job, row)

    try:
        for group in programs([job for job in mine if job.name not in finished]):
            train_together(group, finish)
    finally:
        file.close()
    for rows in hosts.gather(json.dumps([finished[job.name] for job in mine]).encode()):
        finished |= {row["run"]: row for row in json.loads(rows)}
    rows = [finished[job.name] for job in jobs]
    if process == 0:
        write_results(workdir / RESULTS, rows)
    hosts.gather(b"")  # the parts are needed until then
    for path in workdir.glob("results_p*.csv") if process == 0 else [part]:
        path.unlink(missing_ok=True)
    return rows


def _finished(workdir: Path, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """The rows in `workdir` by the name of their run."""
    planned = {job.name for job in jobs}
    found = {}
    for path in (*sorted(workdir.glob("results_p*.csv")), workdir / RESULTS):
        for row in read_results(path) if path.exists() else []:
            if row["run"] not in planned:
                raise ValueError(
                    f"{path} holds runs of another sweep (one with accuracy {row['accuracy']}, seed "
                    f"{row['seed']}): give the same sweep again, one that contains it, or another directory"
                )
            found[row["run"]] = row
    return found


def train_together(jobs: Sequence[Job], on_row: Callable[[Job, dict[str, Any]], None]):
    """Trains runs that share one program, as many at once as suits the devices.

    On a CPU runs of a device take turns, so there are as many at once as devices: rows come early
    and a kill loses little. On other devices all, of which `Ensemble` takes as many as fit; if the
    device runs out of memory after all, half as many.
    Places left over in the last group train one of its runs again, because sharing out a batch
    instead would round differently.

    Raises:
      ValueError: the runs do not share one program.
    """
    setup = shared_setup(jobs)
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
            _finish(ensemble, [(i, jobs[i]) for i in group], ended)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or len(filled) == n_devices:
                raise
            size = n_devices * max(1, len(filled) // (2 * n_devices))


def _start(setup: Setup, jobs: Sequence[Job]) -> Run:
    """The runs [R, …] of these jobs before their first step."""
    trains = [job.cell.setup.train for job in jobs]
    rates, decays = (np.array([getattr(train, name) for train in trains], np.float32) for name in PER_RUN)
    return _started(setup, np.array([job.seed for job in jobs], np.uint32), rates, decays)


@functools.partial(jax.jit, static_argnums=0)
def _started(setup: Setup, seeds, rates, decays) -> Run:
    return jax.vmap(lambda *values: training.start(setup, values[0], 0, *values[1:]))(seeds, rates, decays)


def _finish(ensemble: Ensemble, jobs: Sequence[tuple[int, Job]], ended: Callable[[int, dict], None]):
    """Advances runs to their end; those of the ensemble beyond `jobs` fill places."""
    seconds, best = np.zeros(len(jobs)), {}
    while not ensemble.done:
        began = time.perf_counter()
        lines = [line for line in ensemble.advance() if line["index"] < len(jobs)]
        elapsed = time.perf_counter() - began
        for line in lines:
            place = line["index"]
            seconds[place] += elapsed / len(lines)
            if place not in best or line["best_accuracy"] > best[place]["best_accuracy"]:
                best[place] = line
        if any(line["done"] for line in lines):
            runs = ensemble.state()
            for place in (line["index"] for line in lines if line["done"]):
                number, job = jobs[place]
                ended(number, _row(job, runs, place, best[place], float(seconds[place])))


def _row(job: Job, runs: Run, i: int, best: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The row of run i, whose best weights were validated in the report `best`."""
    params = jax.tree.map(lambda x: np.asarray(x[i]), runs.best_params)
    arrays = named_arrays(training.bind(job.cell.setup.model, params))
    transition = int(runs.transition_step[i])
    return {
        "run": job.name,
        **job.columns,
        "accuracy": best["val_accuracy"],
        "sequence_accuracy": best["val_sequence_accuracy"],
        "position_accuracy": best["val_position_accuracy"],
        "transition_step": transition if transition >= 0 else None,
        "best_step": int(runs.best_step[i]),
        "steps": int(runs.total_steps[i]),
        "seconds": seconds,
        "parameters": sum(array.size for array in arrays.values()),
        "weights_sha256": weight_digest(arrays),
        "device": jax.local_devices()[0].device_kind,
    }


def runs_at_once(n_runs: int) -> int:
    """How many of so many runs are handed to the devices together."""
    return jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else n_runs
