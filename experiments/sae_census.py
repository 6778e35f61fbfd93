"""One SAE for each model of the census: are the latents of one model those of another?

    orderscale census --output=census --kinds=two_layer,two_layer_fresh
    python -m experiments.sae_census --census=census --workdir=runs/sae_census \
        --output=experiments/results/sae_census.csv

A row for each model, BatchTopK of width 128 with k 3, 3,000 steps. Twenty minutes on two CPU cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm.auto import tqdm

from orderscale_jax import files, load_checkpoint
from orderscale_jax.cli import app, arguments, machine, saes, signals
from orderscale_jax.config import task_config
from orderscale_jax.sae import SAEConfig, load_sae, source, study_sae, sweep
from orderscale_jax.sae.study import options, row

CENSUS = arguments.define("census", "str", None, "the directory of a census.", shown="DIR")
WORKDIR = arguments.define("workdir", "str", None, "the directory for the SAEs.", shown="DIR")
OUTPUT = arguments.define("output", "str", None, "the CSV file for the rows.", shown="FILE")
MODELS = arguments.define("models", "int", 64, "models of each kind.", least=1)
KINDS = ("two_layer", "two_layer_fresh")
SAE = SAEConfig(width=128, k=3, steps=3_000)


def main():
    census, output = Path(arguments.required(CENSUS)), Path(arguments.required(OUTPUT))
    workdir = Path(arguments.required(WORKDIR))
    machine.use_compilation_cache()
    machine.use_all_cores()
    models = {f"{kind}.{seed}": (kind, seed) for kind in KINDS for seed in range(MODELS.value)}
    sources = {name: _source(census, *of) for name, of in models.items()}
    jobs = [job for name in models for job in sweep.grid(SAE, {}, [0], name)]
    with saes.Shown(jobs) as progress:
        places = sweep.train(jobs, sources, workdir, on_steps=progress, interruption=signals.interruption())
    rows = []
    for job in tqdm(jobs, unit="SAE", disable=None):
        kind, seed = models[job.source]
        study = study_sae(load_sae(places[job.name])[0], sources[job.source].view)
        rows.append({"kind": kind, "model_seed": seed, **options(job.config), **row(study)})
    files.write_csv(output, list(rows[0]), rows)
    print(f"{len(rows)} rows: {output}")


def _source(census: Path, kind: str, seed: int) -> sweep.Source:
    model, config = load_checkpoint(census / kind / "members" / f"seed_{seed}")
    return source(model, task_config(config))


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.sae_census", *sys.argv[1:]]))
