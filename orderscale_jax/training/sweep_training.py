"""Trains a sweep: a finished run is a row of `results.csv` at once, and what is in flight survives a kill.

Where several processes take part (`shares`), each trains its share and writes `results.share_I_of_P.csv`;
the process that finds all rows there writes them to `results.csv`. A sweep can be continued by another
number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from orderscale_jax import files
from orderscale_jax.checkpoint import named_arrays
from orderscale_jax.errors import UserError
from orderscale_jax.model import bind
from orderscale_jax.storage import weight_digest
from orderscale_jax.training import claim
from orderscale_jax.training.ensemble import Ensemble, make_setup, result
from orderscale_jax.training.interruption import NEVER, Interrupted, Interruption
from orderscale_jax.training.owner import owned
from orderscale_jax.training.run import Run
from orderscale_jax.training.shares import ALL, Share, check_processes
from orderscale_jax.training.sweep import Job, plan, program, programs
from orderscale_jax.training.sweep_rows import OUTCOMES, ResultsFile, read_results, write_results
from orderscale_jax.training.sweep_states import Flight, States

RESULTS = "results.csv"
Row = dict[str, Any]


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    on_row: Callable[[Job, Row], None] = lambda job, row: None,
    share: Share = ALL,
    interruption: Interruption = NEVER,
) -> list[Row] | None:
    """Trains what `workdir/results.csv` does not hold yet; returns all rows, cell by cell.

    Runs in flight are saved every `save_seconds` of the sweep, and go on from there.

    Args:
      config: of the sweep.
      workdir: exists; all shares must see the same one.
      on_row: called with each finished run of this share, at the start with those that were already there.
      share: which of the runs; the default is all.
      interruption: asked after every stretch.

    Returns:
      The rows, or None while other shares go on.

    Raises:
      UserError: the sweep is wrong, has fewer runs than shares, or `workdir` holds another one, or rows or
        states that are damaged, or is in use by another process.
      Interrupted: `interruption` wanted it; the runs in flight are saved.
      OSError: a file cannot be read or written.
    """
    workdir, jobs = files.place(workdir), plan(config)
    if (workdir / claim.CONFIG).exists():
        raise UserError(f"{workdir} holds a run and not a sweep: give another directory")
    share.of(len(jobs))  # for its check
    check_processes(share)
    with owned(workdir, share) as check:
        return _train(config, workdir, jobs, on_row, share, interruption, check)


def _train(
    config: ml_collections.ConfigDict,
    workdir: files.Place,
    jobs: Sequence[Job],
    on_row: Callable[[Job, Row], None],
    share: Share,
    interruption: Interruption,
    check: Callable[[], None],
) -> list[Row] | None:
    """`train` by the owner of the work directory."""
    mine = jobs[share.index :: share.count]  # every share gets some of each cell
    finished = _finished(workdir, jobs)
    for job in mine:
        if job.name in finished:
            on_row(job, finished[job.name])
    unfinished = [job for job in mine if job.name not in finished]
    if unfinished:
        states = States(workdir, share, jobs, unfinished)
        file = ResultsFile(workdir / (RESULTS if share.count == 1 else f"results.share_{share}.csv"))
        rows = {job.name: finished[job.name]["steps"] for job in mine if job.name in finished}
        course = _Course(len(mine), rows, file, states, on_row, config.save_seconds, interruption, check)
        try:
            for group in programs(sorted(unfinished, key=lambda job: job.name not in states.names)):
                course.train(group)
        finally:
            file.close()
        states.remove()
        finished = _finished(workdir, jobs)
    check()
    if any(job.name not in finished for job in jobs):
        return None
    found = [finished[job.name] for job in jobs]
    write_results(workdir / RESULTS, found)
    for path in workdir.glob("results.share_*.csv"):
        path.unlink(missing_ok=True)
    files.remove_directory(workdir / "states")
    return found


def runs_at_once(n_runs: int) -> int:
    """How many of so many runs are handed to the devices together."""
    return jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else n_runs


def _finished(workdir: files.Place, jobs: Sequence[Job]) -> dict[str, Row]:
    """The rows in `workdir` by the name of their run."""
    planned = {job.name for job in jobs}
    found = {}
    for path in (*sorted(workdir.glob("results.share_*.csv")), workdir / RESULTS):
        with contextlib.suppress(FileNotFoundError):  # there is none yet, or all are in one file now
            for row in read_results(path):
                if row["run"] not in planned:
                    raise UserError(
                        f"{path} holds runs of another sweep (one of {row['steps']} steps, seed "
                        f"{row['seed']}): give the same sweep, one that contains it, or another directory"
                    )
                found[row["run"]] = row
    return found


@dataclasses.dataclass(frozen=True)
class _Course:
    """What a share goes through.

    Attributes:
      n_runs: how many runs it has.
      rows: the steps of those with a row, by their names.
      file, states: where rows and runs in flight are kept.
      on_row: called with each new row.
      save_seconds: time between two savings.
      interruption: asked after every stretch.
      check: raises if the work directory is no longer where it was.
    """

    n_runs: int
    rows: dict[str, int]
    file: ResultsFile
    states: States
    on_row: Callable[[Job, Row], None]
    save_seconds: float
    interruption: Interruption
    check: Callable[[], None]

    def train(self, jobs: Sequence[Job]):
        """Trains runs of one program, as many at once as suits the devices.

        On a CPU runs of a device take turns, so there are as many at once as devices: rows come early.
        On other devices all, of which `Ensemble` takes as many as fit; if the device runs out of memory
        after all, half as many. Places left over in the last group train one of its runs again, because
        sharing out a batch instead would round differently.
        """
        _, split = make_setup(jobs[0].cell.config)
        n_devices, size = jax.local_device_count(), runs_at_once(len(jobs))
        while pending := [job for job in jobs if job.name not in self.rows]:
            group = pending[:size]
            n_places = -(-len(group) // n_devices) * n_devices
            try:
                runs, seconds = self.states.begin([group[i % len(group)] for i in range(n_places)])
                self._finish(Ensemble(program(jobs[0].cell.setup), split, runs), group, seconds)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or n_places == n_devices:
                    raise
                size = n_devices * max(1, n_places // (2 * n_devices))

    def _finish(self, ensemble: Ensemble, jobs: Sequence[Job], seconds: np.ndarray):
        """Advances runs to their end; they have taken `seconds`, and those beyond `jobs` [J] fill places."""
        seconds = seconds[: len(jobs)]
        ended = _advance(ensemble, seconds)  # until its end there is nothing to lose
        with self.interruption.deferred():
            self._keep(ensemble, jobs, seconds, ended)
            while not ensemble.done:
                ended = _advance(ensemble, seconds)
                self._keep(ensemble, jobs, seconds, ended)

    def _keep(self, ensemble: Ensemble, jobs: Sequence[Job], seconds: np.ndarray, ended: Sequence[int]):
        """After a stretch: writes the rows of runs that `ended`, and saves the others when it is time.

        Rows are on disk before a state without their runs is.
        """
        is_wanted = self.interruption.is_wanted
        is_time = is_wanted or self.states.age >= self.save_seconds
        if not ended and not is_time:
            return
        self.check()
        state = ensemble.state()
        for i in ended:
            row = _row(jobs[i], state, i, float(seconds[i]))
            self.file.append(row)
            self.rows[jobs[i].name] = row["steps"]
            self.states.forget(jobs[i].name)
            self.on_row(jobs[i], row)
        self.file.keep()
        if is_time:
            flights = {
                job.name: Flight(jax.tree.map(lambda x, i=i: x[i], state), float(seconds[i]))
                for i, job in enumerate(jobs)
                if job.name not in self.rows and state.total_steps[i] > 0
            }
            self.states.save(flights, sum(self.rows.values()))
        if is_wanted and len(self.rows) < self.n_runs:
            raise Interrupted(self._what_is_kept())

    def _what_is_kept(self) -> str:
        text = f"{len(self.rows)} of {self.n_runs} runs are in {self.file.name}"
        if names := self.states.names:
            farthest = max(map(self.states.steps, names))
            text += f", {len(names)} more are saved at their step (up to {farthest:,})"
        return text


def _advance(ensemble: Ensemble, seconds: np.ndarray) -> list[int]:
    """Takes runs one stretch on, its time to the `seconds` [J] of the first J; which of these ended."""
    began = time.perf_counter()
    lines = [line for line in ensemble.advance() if line["index"] < len(seconds)]
    elapsed = time.perf_counter() - began
    for line in lines:
        seconds[line["index"]] += elapsed / len(lines)
    return [line["index"] for line in lines if line["done"]]


def _row(job: Job, state: Run, i: int, seconds: float) -> Row:
    """The row of run i."""
    ended = result(state, i)
    arrays = named_arrays(bind(job.cell.setup.model, ended.params))
    row = {
        "run": job.name,
        **job.columns,
        **{name: getattr(ended, name) for name in OUTCOMES},
        "seconds": seconds,
        "parameters": sum(array.size for array in arrays.values()),
        "weights_sha256": weight_digest(arrays),
        "device": jax.local_devices()[0].device_kind,
    }
    return row if ended.accuracy is not None else {**row, "position_accuracy": None}
