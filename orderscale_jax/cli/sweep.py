"""Trains a grid of configurations with many seeds each, into one CSV and its figures.

    python -m experiments.sweep --config=configs/sweeps/batch_recipe_small.py --workdir=runs/recipe
    python -m experiments.sweep --config=configs/sweeps/table4.py --workdir=runs/table4 --dry_run

The same command given again goes on where it was killed. `--config.seeds=4` and
`--config.base.train.max_steps=1000` change the sweep. Several hosts share it as in experiments.train.
"""

import jax
from absl import flags
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from orderscale_jax import figures, hosts, sweep
from orderscale_jax.errors import UserError
from orderscale_jax.training.devices import memory
from orderscale_jax.training.ensemble import make_setup, planned_bytes
from orderscale_jax.training.sweep_estimate import measure, rough_bytes
from orderscale_jax.training.sweep_results import Summary, summarize, varying_fields

CONFIG = launch.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Directory for results.csv and the figures.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the cells, and estimates of time and memory.")
launch.define_hosts()


def main(argv):
    del argv
    launch.use_compilation_cache()
    launch.use_all_cores()
    launch.join_hosts()
    if DRY_RUN.value:
        tell(CONFIG.value)
        return
    if WORKDIR.value is None:
        raise UserError("--workdir is required: the directory for results.csv and the figures")
    with launch.output_directory(WORKDIR.value) as workdir:
        jobs = sweep.plan(CONFIG.value)
        n_jobs = len(range(hosts.index(), len(jobs), hosts.count()))
        with tqdm(total=n_jobs, unit="run", disable=None, dynamic_ncols=True) as bar:
            shown = Shown(bar, n_cells=jobs[-1].cell.index + 1)
            rows = sweep.run(CONFIG.value, workdir, shown)
        if hosts.index() == 0:
            for name, figure in pictures(rows, CONFIG.value.success).items():
                figures.save(figure, workdir / name)
            print(f"{len(rows)} runs: {workdir / sweep.RESULTS}")
            for summary in summarize(rows, threshold=CONFIG.value.success):
                print(sentence(summary))


class Shown:
    """Shows each finished run on a bar: its cell, and what the cell's runs have reached."""

    def __init__(self, bar: tqdm, n_cells: int):
        self.bar, self.n_cells, self.accuracies = bar, n_cells, {}

    def __call__(self, job: sweep.Job, row):
        reached = self.accuracies.setdefault(job.cell.index, [])
        reached.append(row["accuracy"])
        self.bar.set_description(f"cell {job.cell.index + 1}/{self.n_cells} ({job.cell})", refresh=False)
        self.bar.set_postfix_str(" ".join(f"{accuracy:.2f}" for accuracy in reached[-8:]), refresh=False)
        self.bar.update()


def tell(config):
    """Prints the cells and what they would take."""
    jobs = sweep.plan(config)
    cells = {job.cell.index: job.cell for job in jobs}
    n_seeds = len(jobs) // len(cells)
    speed = measure([cell.setup for cell in cells.values()])
    groups, total = sweep.programs(jobs), 0.0
    for group in groups:
        seconds = speed.seconds(group[0].cell.setup, len(group))
        total += seconds
        for cell in dict.fromkeys(job.cell.index for job in group):
            print(f"cell {cell + 1:3d}: {cells[cell]}")
        print(f"          {len(group)} runs, at most {duration(seconds)}")
    largest = max(groups, key=lambda group: rough_bytes(group[0].cell.setup) * sweep.runs_at_once(len(group)))
    setup, split = make_setup(largest[0].cell.config)
    bytes_needed = planned_bytes(setup, split, sweep.runs_at_once(len(largest)))
    print(
        f"{len(cells)} cells x {n_seeds} seeds = {len(jobs)} runs, at most {duration(total)} with "
        f"{jax.local_device_count()} {jax.local_devices()[0].platform.upper()} device(s), "
        f"{bytes_needed / 1e6:,.0f} MB at most at once"
        + ("" if bytes_needed <= memory() else f": cut into parts that fit into {memory() / 1e6:,.0f} MB")
    )
    print(
        "time: between those measured now on the cells with least and most work (good to a factor of two or "
        "three; runs may stop early); memory: the compiler's plan for the largest cell "
        f"({largest[0].cell})"
    )


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def sentence(summary: Summary) -> str:
    """A cell's outcome in one line."""
    low, high = summary.interval
    name = ", ".join(f"{field} {value}" for field, value in summary.values.items()) or "all runs"
    text = (
        f"{name}: {summary.successes}/{summary.n_runs} at {summary.threshold:g} or above "
        f"(95 % interval {low:.2f} to {high:.2f}), {summary.transitions} with a transition"
    )
    median = summary.transition_quantile(0.5)
    return text + (f", half of all by step {median:,.0f}" if median == median else "")


def pictures(rows, success: float) -> dict[str, Figure]:
    """The figures of a sweep by the name of their file."""
    summaries = summarize(rows, threshold=success)
    drawn = {
        "success_rates": figures.success_rates(summaries),
        "accuracy_strips": figures.outcome_strips(summaries, "accuracy"),
        "transition_strips": figures.outcome_strips(summaries, "transition"),
    }
    fields = varying_fields(rows)
    if len(fields) > 1:
        columns = max(reversed(fields), key=lambda name: len({row[name] for row in rows}))
        for color in ("success", "median"):
            drawn[f"heatmap_{color}"] = figures.success_heatmap(summaries, columns, color)
    return drawn


if __name__ == "__main__":
    launch.run(main)
