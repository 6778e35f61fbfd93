"""Moves the last layer's W_Q and W_K between two-layer runs: what do they do to the rest of a model?

    python -m experiments.transplant --output=experiments/results/transplant.csv

30 digits, batches of 128 of the paired training set, 16 seeds: ten minutes on 2 CPU cores. A row per run:
what it was made of, whether its two matrices trained, and the step of its transition, counted from the
transplant.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm.auto import tqdm

from orderscale_jax import files
from orderscale_jax.cli import app, arguments, machine
from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.model import array_names, matching_arrays
from orderscale_jax.training import run as runs
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.hyper import hyper_of
from orderscale_jax.training.step import optimizer

OUTPUT = arguments.define("output", "str", None, "the CSV file for the runs.", shown="FILE")
SEEDS = arguments.define("seeds", "int", 16, "runs of each kind.", least=1)

DONOR = 1_000  # added to a run's seed, for the run that gives
STUCK_STEPS = 6_000  # after which a run on the paired set counts as stuck
KINDS = {  # (the model, its two matrices, a factor on each of them, whether they train)
    "fresh model, fresh matrices": ("fresh", "fresh", 1.0, False),
    "fresh model, orthogonal matrices of the same norm": ("fresh", "orthogonal", 1.0, False),
    "fresh model, matrices of a stuck run": ("fresh", "stuck", 1.0, False),
    "fresh model, matrices of a stuck run, trained": ("fresh", "stuck", 1.0, True),
    "fresh model, matrices of a run that got through": ("fresh", "through", 1.0, False),
    "stuck model, its own matrices": ("stuck", "own", 1.0, False),
    "stuck model, its own matrices, trained": ("stuck", "own", 1.0, True),
    "stuck model, its own matrices at a third": ("stuck", "own", 1 / 3, False),
    "stuck model, fresh matrices": ("stuck", "fresh", 1.0, False),
    "stuck model, fresh matrices, trained": ("stuck", "fresh", 1.0, True),
}
COLUMNS = "kind", "seed", "accuracy", "transition_step", "steps"


def main():
    output = Path(arguments.required(OUTPUT))
    machine.use_compilation_cache()
    stuck, through = _config("paired", ()), _config("published", ())
    after = {trains: _config("paired", () if trains else as_drawn(LAST_SCORES)) for trains in (True, False)}
    rows = []
    with tqdm(total=len(KINDS) * SEEDS.value, unit="run", disable=None) as bar:
        for seed in range(SEEDS.value):
            givers = {
                "stuck": _stuck(stuck, seed + DONOR),
                "through": _through(through, seed + DONOR),
            }
            own = _stuck(stuck, seed)
            for kind, (model, matrices, factor, trains) in KINDS.items():
                setup, split = after[trains]
                run = _start(setup, seed + 2 * DONOR)
                params = own if model == "stuck" else run.params
                fresh = {"fresh": run.params, "orthogonal": jax.tree.map(_orthogonal, run.params)}
                giver = {**fresh, "own": own, **givers}[matrices]
                if params is not None and giver is not None:
                    params = transplanted(setup, params, giver, factor)
                    state = _init(setup, params)
                    run = _finish(setup, split, dataclasses.replace(run, params=params, optimizer=state))
                    transition = int(run.transition_step)
                    rows.append(
                        {
                            "kind": kind,
                            "seed": seed,
                            "accuracy": float(run.best_accuracy),
                            "transition_step": transition if transition >= 0 else "",
                            "steps": int(run.step),
                        }
                    )
                bar.update()
    files.write_csv(output, COLUMNS, sorted(rows, key=lambda row: list(KINDS).index(row["kind"])))
    print(f"{len(rows)} runs: {output}")


def transplanted(setup, params, giver, factor: float):
    """The arrays `params` with the two matrices of `giver`, each times `factor`."""
    chosen = matching_arrays(setup.model, LAST_SCORES)
    arrays, structure = jax.tree.flatten(params)
    names = array_names(setup.model)
    given = jax.tree.leaves(giver)
    mixed = [
        factor * new if name in chosen else old for name, old, new in zip(names, arrays, given, strict=True)
    ]
    return jax.tree.unflatten(structure, mixed)


def _config(split: str, overrides):
    config = default_config()
    config.task.n_digits, config.task.split = 30, split
    config.train.batch_size, config.train.overrides = 128, overrides
    config.train.max_steps, config.train.eval_every, config.train.target_accuracy = 30_000, 200, 0.8
    return make_setup(config)


def _stuck(of, seed: int):
    """The arrays of a run after STUCK_STEPS, None if it was through by then."""
    setup, split = of
    run = _start(setup, seed)
    while run.step < STUCK_STEPS and not run.done:
        run = _advance(setup, run, jnp.asarray(split.train), jnp.asarray(split.validation))[0]
    return run.params if run.transition_step < 0 else None


def _through(of, seed: int):
    """The arrays of a run that broke through, None if it did not."""
    run = _finish(*of, _start(of[0], seed))
    return run.params if run.transition_step >= 0 else None


def _orthogonal(x):
    """A matrix [H, D, D] with orthonormal columns times the root mean square length of those of `x`."""
    return jnp.linalg.qr(x)[0] * jnp.sqrt((x**2).sum() / x.shape[-1]) if x.ndim == 3 else x


def _finish(setup, split, run):
    while not run.done:
        run = _advance(setup, run, jnp.asarray(split.train), jnp.asarray(split.validation))[0]
    return run


_start = jax.jit(runs.start, static_argnums=0)
_advance = jax.jit(runs.train_until_validation, static_argnums=0)
_init = jax.jit(lambda setup, params: optimizer(setup, hyper_of(setup.train)).init(params), static_argnums=0)


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.transplant", *sys.argv[1:]]))
