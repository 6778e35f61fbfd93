"""Films the training of the shipped model `two_layer` for the explorer, by training it once more.

    python -m experiments.film --output=orderscale_jax/explorer/film.npz

Refused unless the training ends in the shipped weights, bit for bit. Most frames are of the transition,
in which the order is learnt. A minute on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import io
import sys

import jax
import numpy as np
from tqdm.auto import tqdm

from configs.two_layer import get_config
from orderscale_jax import files
from orderscale_jax.checkpoint import load_pretrained, named_arrays
from orderscale_jax.cli import app, arguments, machine
from orderscale_jax.config import Setup
from orderscale_jax.errors import UserError
from orderscale_jax.explorer.film import MODEL, rounded
from orderscale_jax.explorer.tables import model_of, tables_of
from orderscale_jax.model import ListTransformer, bind
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup, result

OUTPUT = arguments.define("output", "str", None, "the file for the film, .npz.", shown="FILE")
STEPS = (
    *(0, 100, 200, 300, 500, 1_000, 2_000, 3_000, 4_000, 4_400, 4_600, 4_800),
    *range(4_900, 6_300, 100),
    *(6_400, 6_700, 7_000, 7_500, 8_000, 9_000, 10_000, 12_000, 15_000, 20_000, 30_000, 50_000),
)


def main():
    output = files.place(arguments.required(OUTPUT))
    machine.use_compilation_cache()
    config = get_config()
    setup, split = make_setup(config)
    run = Ensemble(setup, split, start_runs(setup, [config.seed]))
    seen = {0: _model(setup, run)}
    with tqdm(total=config.train.max_steps, unit="step", disable=None) as progress:
        while not run.done:
            (line,) = run.advance()
            progress.update(line["step"] - progress.n)
            if line["step"] in STEPS:
                seen[line["step"]] = _model(setup, run)
    shipped = named_arrays(load_pretrained(MODEL)[0])
    for name, array in named_arrays(bind(setup.model, result(run.state(), 0).params)).items():
        if not np.array_equal(array, shipped[name]):
            raise UserError(
                f"this training does not end in the shipped model {MODEL}, {name} differs: film it with the "
                "versions and on a machine like those it was trained with, or ship the model that it ends in"
            )
    files.write_bytes(output, _film(seen, split.validation))


def _model(setup: Setup, run: Ensemble) -> ListTransformer:
    return bind(setup.model, jax.tree.map(lambda x: np.array(x[0]), run.state().params))


def _film(seen: dict[int, ListTransformer], validation: np.ndarray) -> bytes:
    """The arrays of `explorer.film.Film`, as an .npz file."""
    n_digits = seen[0].config.n_digits
    lists = np.indices((n_digits, n_digits)).reshape(2, -1).T
    frames = []
    for step, model in seen.items():
        tables = tables_of(model)
        logits, unit = rounded(tables.logits)
        as_shown = dataclasses.replace(tables, logits=logits * unit[:, None])
        said, shown = (np.asarray(x(lists)).argmax(-1) for x in (model, model_of(as_shown)))
        right = (said == lists)[validation @ (n_digits, 1)]
        frames.append(
            {
                "steps": step,
                "accuracy": right.mean(),
                "changed": (said != shown).any(1).sum(),
                "logits": logits,
                "unit": unit,
                **{f"scores_{i}": scores.astype(np.float32) for i, scores in enumerate(tables.scores)},
            }
        )
    arrays = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    arrays |= {f"rows_{i}": rows for i, rows in enumerate(tables.rows)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.film", *sys.argv[1:]]))
