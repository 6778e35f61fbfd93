"""Trains a grid of SAEs on one model, and asks everything of each.

    orderscale sae-sweep --checkpoint=two_layer --workdir=runs/saes
    orderscale sae-sweep --config=sae/full --checkpoint=two_layer --dry_run

How long it takes is measured on some steps and told before it starts; --dry_run
stops there. Written to the work directory: the SAEs, results.csv with a row for
each, seeds.csv with the agreement between the seeds of each cell, and figures.
The same command again continues where it was stopped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm.auto import tqdm

from orderscale_jax import figures, files
from orderscale_jax.cli import arguments, configuration, machine, saes, signals, studied
from orderscale_jax.formatting import columns, count, duration, number, percent
from orderscale_jax.sae import encode_lists, load_sae, seed_agreement, study_sae, sweep
from orderscale_jax.sae.study import options, row
from orderscale_jax.training.interruption import Interrupted

RESULTS, AGREEMENT = "results.csv", "seeds.csv"

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
    seconds = sweep.estimate(jobs, sources)
    n_steps = sum(job.config.steps for job in jobs)
    print(
        f"{count(len(jobs), 'SAE')} ({count(cells, 'cell')}), {n_steps:,} steps: about {duration(seconds)} on "
        "this machine if nothing is there yet, good to a third",
        flush=True,
    )
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
        for picture, figure in (("grid", figures.sae_grid(rows)), ("proxies", figures.proxies(rows))):
            figures.save(figure, workdir / picture)
        print(table(rows))
        print(workdir / RESULTS)


def analyse(jobs, source: sweep.Source, workdir: files.Place, places) -> list[dict[str, Any]]:
    """A row for every SAE; those that an earlier call has written are read."""
    files.make_directory(workdir / "rows")
    interruption, rows = signals.interruption(), []
    for job in tqdm(jobs, unit="SAE", desc="studying", disable=None, dynamic_ncols=True):
        path = workdir / "rows" / f"{job.name}.json"
        if path.exists():
            found = files.read_note(path)
        else:
            study = study_sae(load_sae(places[job.name])[0], source.view)
            found = {
                "name": job.name,
                "model": job.source,
                "seed": job.seed,
                **options(job.config),
                **row(study),
            }
            files.write_note(path, found)
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
