"""Trains a grid of SAEs on one model, and asks everything of each.

    orderscale sae-sweep --checkpoint=two_layer --workdir=runs/saes
    orderscale sae-sweep --config=sae/full --checkpoint=two_layer --dry_run

How long it takes is measured on some steps and told before it starts, good to a
factor of two, as dead latents cost more later; --dry_run stops there. Written
to the work directory: the SAEs, results.csv with a row for each, seeds.csv with
the agreement between the seeds of each cell, and figures. The same command
again continues where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from orderscale_jax import figures, files
from orderscale_jax.cli import arguments, configuration, machine, saes, signals, studied
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import columns, count, duration, number, percent
from orderscale_jax.sae import encode_lists, load_sae, seed_agreement, study_sae, sweep
from orderscale_jax.sae.study import options, row
from orderscale_jax.training.interruption import Interrupted

RESULTS, AGREEMENT = "results.csv", "seeds.csv"
FORMAT = 1  # of a row
SAME = ("family", "penalty", "learning_rate", "steps")  # in all SAEs of one picture of width and k

CONFIG = arguments.define(
    "config", "str", "sae/reduced", f"a grid: {', '.join(saes.shipped())}, or a Python file."
)
CHECKPOINT = studied.define_checkpoint()
WORKDIR = arguments.define("workdir", "str", None, "the directory for SAEs and results.", shown="DIR")
SEEDS = arguments.define("seeds", "int", None, "so many of each cell, not what the file says.", least=1)
STEPS = arguments.define("steps", "int", None, "so many steps, not what the file says.", least=1)
DRY_RUN = arguments.define("dry_run", "bool", False, "only tell what is trained, and how long it takes.")


def main():
    checkpoint = arguments.required(CHECKPOINT)
    if not DRY_RUN.value:
        arguments.required(WORKDIR)
    config = configuration.call_file(saes.find(CONFIG.value))
    machine.use_compilation_cache()
    machine.use_all_cores()
    name, source = saes.source(checkpoint)
    jobs = saes.jobs(config, SEEDS.value, STEPS.value, name)
    sources = {name: source}
    cells = len({job.config for job in jobs})
    left = jobs if WORKDIR.value is None else sweep.missing(jobs, WORKDIR.value)
    n_steps = sum(job.config.steps for job in left)
    seconds = sweep.estimate(left, sources) if left else 0.0
    told = (
        f"{count(len(jobs), 'SAE')} ({count(cells, 'cell')}), {len(left)} of them to train: {n_steps:,} steps"
    )
    print(f"{told}, about {duration(seconds)} on this machine, good to a factor of two", flush=True)
    if DRY_RUN.value:
        return
    with machine.output_directory(WORKDIR.value) as workdir:
        with saes.Shown(jobs) as progress:
            places = sweep.train(
                jobs, sources, workdir, on_steps=progress, interruption=signals.interruption()
            )
        rows = analyse(jobs, source, workdir, places)
        files.write_csv(workdir / RESULTS, list(rows[0]), rows)
        agreement = agreements(jobs, source, places)
        if agreement:
            files.write_csv(workdir / AGREEMENT, list(agreement[0]), agreement)
        print(table(rows))
        print(workdir / RESULTS, flush=True)
        for name, figure in pictures(rows):
            figures.save(figure, workdir / name)


def analyse(jobs, source: sweep.Source, workdir: files.Place, places) -> list[dict[str, Any]]:
    """A row for every SAE; those that an earlier call has written are read."""
    files.make_directory(workdir / "rows")
    interruption, rows = signals.interruption(), []
    for job in tqdm(jobs, unit="SAE", desc="studying", disable=None, dynamic_ncols=True):
        path = workdir / "rows" / f"{job.name}.json"
        if path.exists():
            found = files.read_note(path)
            if found.pop("format", None) != FORMAT:
                raise UserError(f"{path} was written by another version: delete {path.parent} to ask anew")
        else:
            study = study_sae(load_sae(places[job.name])[0], source.view)
            found = {
                "name": job.name,
                "model": job.source,
                "seed": job.seed,
                **options(job.config),
                **row(study),
            }
            files.write_note(path, {"format": FORMAT, **found})
        rows.append(found)
        if interruption.is_wanted:
            raise Interrupted(f"{len(rows)} of {count(len(jobs), 'SAE')} are studied")
    return rows


def agreements(jobs, source: sweep.Source, places) -> list[dict[str, Any]]:
    """By cell, how alike the live latents of its seeds are."""
    found = []
    for config in dict.fromkeys(job.config for job in jobs):
        own = [places[job.name] for job in jobs if job.config == config]
        if len(own) > 1:
            decoders = [encode_lists(load_sae(path)[0], source.view).live_decoder for path in own]
            found.append({**options(config), "seeds": len(own), "pw_mcc": seed_agreement(decoders)})
    return found


def pictures(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """Names of files, and figures: of width and k, one for each family and rate; and of all SAEs."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for found in rows:
        if found["k"] is not None:
            groups.setdefault(tuple(found[name] for name in SAME), []).append(found)
    for key, own in groups.items():
        named = "_".join(
            f"{part:g}" if isinstance(part, float) else str(part) for part in key if part is not None
        )
        yield "grid" if len(groups) == 1 else f"grid_{named}", figures.sae_grid(own)
    yield "proxies", figures.proxies(rows)


def table(rows: list[dict[str, Any]]) -> str:
    """A line per cell: means over its seeds."""
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for found in rows:
        key = tuple(found[name] for name in ("family", "width", "k", "penalty", "learning_rate"))
        cells.setdefault(key, []).append(found)
    lines = [("SAE", "MSE", "L0", "outputs right", "loss recovered", "MCC", "reversed by scaling")]
    for (family, width, k, penalty, rate), own in cells.items():

        def mean(name, own=own):
            return float(np.mean([found[name] for found in own]))

        sparse = f"k {k}" if k is not None else f"penalty {penalty:g}"
        lines.append(
            (
                f"{family}, width {width}, {sparse}, rate {rate:g}",
                number(mean("mse_all"), 5),
                number(mean("l0_all")),
                percent(mean("patched_outputs_all")),
                number(mean("loss_recovered_all"), 4),
                number(mean("mcc"), 3),
                percent(mean("steer_alone")),
            )
        )
    return columns(lines)
