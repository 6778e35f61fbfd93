"""The runs of a sweep that are in flight, on disk: from there a sweep that was killed goes on.

Each process saves its runs in `states/I_of_P`. What is saved is found by the names of the runs, so that any
number of processes goes on, in any groups.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from orderscale_jax import checkpoint, files
from orderscale_jax.checkpoint import DamagedError
from orderscale_jax.config import Setup
from orderscale_jax.errors import UserError
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.hyper import Hyper, hyper_of
from orderscale_jax.training.run import Run
from orderscale_jax.training.shares import Share
from orderscale_jax.training.sweep import Job, program, programs

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Flight:
    """How far a run is.

    Attributes:
      run: its state, NumPy arrays without an axis of runs.
      seconds: that it has taken.
    """

    run: Run
    seconds: float

    @property
    def steps(self) -> int:
        return int(self.run.total_steps)


class States:
    """The saved runs of a share: those of its runs without a row that have been saved."""

    def __init__(self, workdir: files.Place, share: Share, jobs: Sequence[Job], unfinished: Sequence[Job]):
        """Reads what any process has saved of the runs `unfinished` of this share.

        Args:
          workdir: of the sweep.
          share: whose states are to be saved.
          jobs: all runs of the sweep.
          unfinished: those of this share without a row.

        Raises:
          DamagedError: the states of a process are all damaged.
          UserError: there are states of another sweep.
          OSError: a state cannot be read.
        """
        self.root = workdir / "states"
        self._place = self.root / str(share)
        self._jobs = {job.name: job for job in jobs}
        self._saved: dict[str, Flight] = {}
        self._saved_at = time.monotonic()
        wanted = {job.name for job in unfinished}
        for place in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            for name, flight in self._read(place).items():
                if name in wanted and flight.steps > self.steps(name):
                    self._saved[name] = flight
        if self._saved:
            steps = sorted(map(self.steps, self._saved))
            logger.info(
                "%d of %d runs without a row go on from steps %d to %d",
                *(len(steps), len(unfinished), steps[0], steps[-1]),
            )

    @property
    def names(self) -> frozenset[str]:
        """Of the runs that are saved."""
        return frozenset(self._saved)

    @property
    def age(self) -> float:
        """Seconds since runs were saved, or read."""
        return time.monotonic() - self._saved_at

    def steps(self, name: str) -> int:
        """After which a run was saved, 0 for one that was not."""
        return self._saved[name].steps if name in self._saved else 0

    def begin(self, jobs: Sequence[Job]) -> tuple[Run, np.ndarray]:
        """Runs [R, …] of one program as they were saved or at their start, and their seconds [R]."""
        runs, seconds = jax.tree.map(np.array, start(jobs)), np.zeros(len(jobs))
        for i, job in enumerate(jobs):
            if job.name in self._saved:
                flight = self._saved[job.name]
                seconds[i] = flight.seconds
                for whole, one in zip(jax.tree.leaves(runs), jax.tree.leaves(flight.run), strict=True):
                    whole[i] = one
        return runs, seconds

    def save(self, flights: Mapping[str, Flight], steps: int):
        """Saves runs by their names, with those that were saved before and wait for their turn.

        Args:
          flights: the runs in flight.
          steps: of all runs that have their rows; with those of the others they number the state.

        Raises:
          OSError: they cannot be written.
        """
        if not flights:  # the others are on disk
            return
        self._saved |= flights
        groups = programs([self._jobs[name] for name in self._saved])
        saved = [[self._saved[job.name] for job in group] for group in groups]
        state = [jax.tree.map(lambda *x: np.stack(x), *(flight.run for flight in group)) for group in saved]
        metadata = {
            "runs": [[job.name for job in group] for group in groups],
            "seconds": [[flight.seconds for flight in group] for group in saved],
        }
        number = steps + sum(flight.steps for flight in self._saved.values())
        checkpoint.save_state(self._place, number, state, metadata)
        self._saved_at = time.monotonic()

    def forget(self, name: str):
        """Leaves out a run that has its row."""
        self._saved.pop(name, None)

    def remove(self):
        """Removes what this share has saved."""
        files.remove_directory(self._place)

    def _read(self, place: files.Place) -> dict[str, Flight]:
        """The latest runs in the directory of a process, which may be saving others meanwhile."""
        while True:
            before = _names(place)
            try:
                latest = checkpoint.restore_latest(place, self._shapes)
            except (DamagedError, OSError):
                if _names(place) == before:
                    raise
            else:
                return {} if latest is None else _flights(*latest[1:])

    def _shapes(self, metadata: Mapping[str, Any]) -> list[Run]:
        """What the runs of a state are like."""
        names = [name for group in metadata["runs"] for name in group]
        if not self._jobs.keys() >= set(names):
            raise UserError(
                f"{self.root} holds runs of another sweep: give the same sweep, one that contains it, or "
                "another directory"
            )
        groups = [[self._jobs[name] for name in group] for group in metadata["runs"]]
        return [_shape(*_start_arguments(group)) for group in groups]


def start(jobs: Sequence[Job]) -> Run:
    """The runs [R, …] of these jobs, which share a program, before their first step."""
    return start_runs(*_start_arguments(jobs))


def _start_arguments(jobs: Sequence[Job]) -> tuple[Setup, np.ndarray, Hyper]:
    hypers = [hyper_of(job.cell.setup.train) for job in jobs]
    stacked = jax.tree.map(lambda *values: np.stack(values), *hypers)
    return program(jobs[0].cell.setup), np.array([job.seed for job in jobs], np.uint32), stacked


def _shape(setup: Setup, *arguments) -> Run:
    return jax.eval_shape(functools.partial(start_runs, setup), *arguments)


def _flights(state: Sequence[Run], metadata: Mapping[str, Any]) -> dict[str, Flight]:
    """The runs of a state by their names."""
    found = {}
    for runs, names, seconds in zip(state, metadata["runs"], metadata["seconds"], strict=True):
        for i, name in enumerate(names):
            found[name] = Flight(jax.tree.map(lambda x, i=i: x[i], runs), seconds[i])
    return found


def _names(place: files.Place) -> set[str]:
    return {entry.name for entry in place.iterdir()} if place.is_dir() else set()
