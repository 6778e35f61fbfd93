"""How far cheap rankings of edges stay behind the exact circuits, in models of the census.

    orderscale census --output=census --kinds=three_layer,two_layer
    python -m experiments.approximations --census=census --output=experiments/results/approximations.csv

A row for each model, meaning of a cut and method (and for the ranking drawn at random, `random`, and the best
sets of each size, `best`), judged by accuracy over all validation lists. Twelve minutes on two CPU cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm.auto import tqdm

from orderscale_jax import files, load_checkpoint, make_split
from orderscale_jax.circuits import circuit_table, compare
from orderscale_jax.cli import app, arguments, machine
from orderscale_jax.config import task_config
from orderscale_jax.model import CUTS

CENSUS = arguments.define("census", "str", None, "the directory of a census.", shown="DIR")
OUTPUT = arguments.define("output", "str", None, "the CSV file for the rows.", shown="FILE")
SEEDS = arguments.define("seeds", "int", 8, "models of each kind.", least=1)
KINDS = ("three_layer", "two_layer")
MARKS = ("cpr", "cmd", "auroc", "spearman", "mean_regret", "max_regret")
COLUMNS = ("kind", "seed", "cut", "method", *MARKS)


def main():
    census, output = Path(arguments.required(CENSUS)), Path(arguments.required(OUTPUT))
    machine.use_compilation_cache()
    jobs = [(kind, seed, mode) for kind in KINDS for seed in range(SEEDS.value) for mode in CUTS]
    rows = [row for job in tqdm(jobs, unit="table", disable=None) for row in judge(census, *job)]
    files.write_csv(output, COLUMNS, rows)
    print(f"{len(rows)} rows: {output}")


def judge(census: Path, kind: str, seed: int, mode: str):
    """The rows of one model and meaning of a cut."""
    model, config = load_checkpoint(census / kind / "members" / f"seed_{seed}")
    lists = make_split(task_config(config)).validation
    found = compare(model, lists, circuit_table(model, lists, mode), measure="accuracy")
    named = zip((*found.methods, "random", "best"), (*found.marks, found.random, found.best), strict=True)
    for method, marks in named:
        values = {name: getattr(marks, name) for name in MARKS}
        yield {"kind": kind, "seed": seed, "cut": mode, "method": method, **values}


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.approximations", *sys.argv[1:]]))
