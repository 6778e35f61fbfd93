"""Trains a grid of configurations with many seeds each.

    orderscale sweep --config=sweeps/batch_recipe_small --workdir=runs/recipe
    orderscale sweep --config=sweeps/table4 --dry_run

Written to the work directory: results.csv, a row per run, and its figures. The
same command again continues where it was stopped, unfinished runs at the step
at which they were last saved; Ctrl-C and SIGTERM save first. To start over,
delete the directory. --config.seeds=4 and --config.base.train.max_steps=1000
change the sweep. Several processes can divide it as in orderscale train; it can
be continued with another number of processes.
"""

from __future__ import annotations

import jax
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from orderscale_jax import figures
from orderscale_jax.cli import arguments, machine, signals
from orderscale_jax.cli.configuration import Configuration
from orderscale_jax.errors import UserError
from orderscale_jax.figures import transitions
from orderscale_jax.formatting import count, duration
from orderscale_jax.training import sweep
from orderscale_jax.training.devices import memory
from orderscale_jax.training.size import run_bytes
from orderscale_jax.training.sweep_estimate import measure
from orderscale_jax.training.sweep_results import Summary, summarize, varying_fields
from orderscale_jax.training.sweep_training import RESULTS, runs_at_once, train

WORKDIR = arguments.define(
    "workdir", "str", None, "the directory for results.csv and the figures.", shown="DIR"
)
DRY_RUN = arguments.define(
    "dry_run", "bool", False, "only print the cells, and estimates of time and memory."
)
SHARE = machine.ShareFlags()
CONFIG = Configuration(sweep=True)


def main():
    if not DRY_RUN.value:
        arguments.required(WORKDIR)
    config, share = CONFIG.load(), SHARE.share()
    jobs = sweep.plan(config)
    machine.use_compilation_cache()
    machine.use_all_cores()
    if DRY_RUN.value:
        tell(jobs)
        return
    with machine.output_directory(WORKDIR.value) as workdir:
        n_jobs = len(share.of(len(jobs)))
        with tqdm(total=n_jobs, unit="run", disable=None, dynamic_ncols=True) as bar:
            shown = Shown(bar, n_cells=jobs[-1].cell.index + 1)
            rows = train(config, workdir, shown, share, signals.interruption())
        if rows is None:
            print(machine.incomplete(share))
            return
        for name, figure in pictures(rows, config.success).items():
            figures.save(figure, workdir / name)
        print(f"{len(rows)} runs: {workdir / RESULTS}")
        for summary in summarize(rows, threshold=config.success):
            print(sentence(summary))
        if all(row["diverged_step"] is not None for row in rows):
            raise UserError(
                "every run of the sweep diverged (weights or loss were no longer finite): lower the learning "
                f"rate; {workdir / RESULTS} says at which step"
            )


class Shown:
    """Shows each finished run on a bar: its cell, and what the cell's runs have reached."""

    def __init__(self, bar: tqdm, n_cells: int):
        self.bar, self.n_cells, self.accuracies = bar, n_cells, {}

    def __call__(self, job: sweep.Job, row):
        reached = self.accuracies.setdefault(job.cell.index, [])
        reached.append(row["accuracy"])
        self.bar.set_description(f"cell {job.cell.index + 1}/{self.n_cells} ({job.cell})", refresh=False)
        self.bar.set_postfix_str(" ".join(map(_shortly, reached[-8:])), refresh=False)
        self.bar.update()


def _shortly(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2f}"


def tell(jobs: list[sweep.Job]):
    """Prints the cells and what they would take."""
    cells = {job.cell.index: job.cell for job in jobs}
    groups, total = sweep.programs(jobs), 0.0
    devices = count(jax.local_device_count(), f"{jax.local_devices()[0].platform.upper()} device")
    runs = (
        f"{count(len(cells), 'cell')} x {count(len(jobs) // len(cells), 'seed')} = {count(len(jobs), 'run')}"
    )
    print(f"{runs}; timing some steps on {devices}", flush=True)
    speed = measure([cell.setup for cell in cells.values()])
    for group in groups:
        seconds = speed.seconds(group[0].cell.setup, len(group))
        total += seconds
        for cell in dict.fromkeys(job.cell.index for job in group):
            print(f"cell {cell + 1:3d}: {cells[cell]}")
        print(f"          {count(len(group), 'run')}, at most {duration(seconds)}", flush=True)
    needed, largest = max(
        (run_bytes(group[0].cell.setup) * runs_at_once(len(group)), str(group[0].cell)) for group in groups
    )
    print(
        f"{runs}, at most {duration(total)} with {devices}, about {needed / 1e6:,.0f} MB at most at once"
        + ("" if needed <= memory() else f": cut into parts that fit into {memory() / 1e6:,.0f} MB")
    )
    print(
        "time: steps timed now on the cells with least and most work, good to a factor of two or three; runs "
        f"may stop early; memory: the arrays of the largest cell ({largest}), at least"
    )


def sentence(summary: Summary) -> str:
    """A cell's outcome in one line."""
    low, high = summary.interval
    said = (f"{field} {'none' if value in ('', None) else value}" for field, value in summary.values.items())
    name = ", ".join(said) or "all runs"
    text = (
        f"{name}: {summary.successes}/{summary.n_runs} at {summary.threshold:g} or above "
        f"(95 % interval {low:.2f} to {high:.2f}), {summary.transitions} with a transition"
    )
    median = summary.transition_quantile(0.5)
    text += f", half of all by step {median:,.0f}" if median == median else ""
    return text + (f", {summary.diverged} diverged" if summary.diverged else "")


def pictures(rows, success: float) -> dict[str, Figure]:
    """The figures of a sweep by the name of their file."""
    summaries = summarize(rows, threshold=success)
    drawn = {
        "success_rates": figures.success_rates(summaries),
        "accuracy_strips": figures.outcome_strips(summaries, "accuracy"),
        "transition_strips": figures.outcome_strips(summaries, "transition"),
    }
    if len(summaries) <= transitions.MOST:
        drawn["survival"] = figures.survival_curves(summaries)
    fields = varying_fields(rows)
    if len(fields) > 1:
        columns = max(reversed(fields), key=lambda name: len({row[name] for row in rows}))
        for color in ("success", "median"):
            drawn[f"heatmap_{color}"] = figures.success_heatmap(summaries, columns, color)
    return drawn
