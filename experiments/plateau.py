"""Looks into two-layer runs while they are stuck, or get through: o2's choice, SEP, and their gradients.

    python -m experiments.plateau --output=experiments/results/plateau.csv

30 digits, 16 seeds of each kind of run, 64 of the published one, from which the step of the transition is
predicted. A row per run and step of LOOKS; the run goes on to its transition, or to 30,000 steps. A quarter
of an hour on 2 CPU cores.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm.auto import tqdm

from orderscale_jax import files
from orderscale_jax.cli import app, arguments, machine
from orderscale_jax.config import LAST_SCORES, Setup, as_drawn, default_config
from orderscale_jax.model import array_names, bind, matching_arrays, metrics
from orderscale_jax.training import run as runs
from orderscale_jax.training.batches import training_batch
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.hyper import hyper_of
from orderscale_jax.training.step import loss

OUTPUT = arguments.define("output", "str", None, "the CSV file for what is seen.", shown="FILE")
SEEDS = arguments.define("seeds", "int", 16, "runs of each kind; of `published` four times as many.", least=1)

KINDS = {  # what is trained on, and how: (split, batches, batch size, overrides)
    "published": ("published", "reshuffle", 128, ()),
    "trained": ("paired", "reshuffle", 128, ()),
    "as drawn": ("paired", "reshuffle", 128, as_drawn(LAST_SCORES)),
    "epsilon 1e-4": ("paired", "reshuffle", 128, ((LAST_SCORES, "epsilon", 1e-4),)),
    "full batch": ("paired", "reshuffle", 720, ()),
    "fresh, trained": ("published", "sampled", 128, ()),
    "fresh, as drawn": ("published", "sampled", 128, as_drawn(LAST_SCORES)),
}
ARRAYS = {  # whose gradients are looked at, by a short name
    "last_QK": LAST_SCORES,
    "first_QK": "blocks.0.attn.W_[QK]",
    "E": "embed.W_E",
    "P": "pos_embed.W_pos",
    "U": "unembed.W_U",
}
STEPS = 30_000
LOOKS = 0, 200, 400, 600, 1_000, 1_400, 2_000, 2_600, 3_200, 4_000, 5_000, 6_000
N_BATCHES = 32  # from which the noise of a gradient is estimated
COLUMNS = {
    "kind": "of KINDS",
    "seed": "of the run",
    "step": "training steps so far",
    "transition_step": "first step of the run at which validation was above 0.75; empty if there was none",
    "accuracy": "of outputs, on all lists",
    "beta_o1": "attention of o2 to o1 in the last layer, mean over all lists",
    "openness": "4 beta (1 - beta) of it, mean over all lists: 1 for an even choice, 0 where it is saturated",
    "score_gap": "score of SEP minus score of o1 in that choice, mean over all lists",
    "score_gap_std": "its standard deviation over all lists",
    "norm_QK": "Frobenius norm of W_Q W_K' of the last layer",
    "position_distance": "length of P_1 - P_2",
    "alpha_std": "standard deviation over all lists of the share alpha_1 of d1 in SEP",
    "loss": "mean cross-entropy on all lists",
    "gradient_norm": "of the gradient of all arrays on the whole training set",
    "cosine": "of the final residuals of o1 and o2, mean over all lists",
    "repetition": "share of lists for which o2 says what o1 says",
    **{
        f"snr_{name}": f"gradient on the whole training set over the noise of a batch's, as root mean "
        f"squares, of {pattern}"
        for name, pattern in ARRAYS.items()
    },
    **{
        f"rms_{name}": f"root mean square of a batch's gradient of {pattern}"
        for name, pattern in ARRAYS.items()
    },
}


def main():
    output = Path(arguments.required(OUTPUT))
    machine.use_compilation_cache()
    rows = []
    counts = {kind: SEEDS.value * (4 if kind == "published" else 1) for kind in KINDS}
    with tqdm(total=sum(counts.values()), unit="run", disable=None) as bar:
        for kind, (split, batches, size, overrides) in KINDS.items():
            bar.set_description(kind)
            for seed in range(counts[kind]):
                seen = watch(split, batches, size, overrides, seed)
                rows += [{"kind": kind, "seed": seed, **row} for row in seen]
                bar.update()
    files.write_csv(output, COLUMNS, rows)
    print(f"{len(rows)} rows: {output}")


def watch(split: str, batches: str, size: int, overrides, seed: int) -> list[dict[str, float]]:
    """What is seen of one run at the steps LOOKS."""
    config = default_config()
    config.task.n_digits, config.task.split = 30, split
    config.train.batches, config.train.batch_size, config.train.overrides = batches, size, overrides
    config.train.max_steps, config.train.eval_every, config.train.target_accuracy = STEPS, 200, 1.0
    setup, lists = make_setup(config)
    train, validation = jnp.asarray(lists.train), jnp.asarray(lists.validation)
    run, rows = _start(setup, seed), []
    while not run.done and (run.step <= LOOKS[-1] or run.transition_step < 0):
        if run.step in LOOKS:
            seen = jax.device_get(look(setup, run, train, validation))
            rows.append({"step": int(run.step), **{name: f"{float(x):.6g}" for name, x in seen.items()}})
        run, _ = _advance(setup, run, train, validation)
    transition = int(run.transition_step)
    return [{**row, "transition_step": transition if transition >= 0 else ""} for row in rows]


_start = jax.jit(runs.start, static_argnums=0)
_advance = jax.jit(runs.train_until_validation, static_argnums=0)


def _cosine(x, y):
    return (x * y).sum(-1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1))


@functools.partial(jax.jit, static_argnums=0)
def look(setup: Setup, run, train, validation):
    """The columns of one row, but for kind, seed and step."""
    everything = jnp.concatenate([train, validation])
    model = bind(setup.model, run.params)
    logits, trace = model(everything, trace=True)
    beta, alpha = trace.patterns[1, :, 0, 4, 3], trace.patterns[0, :, 0, 2, 0]
    gap = trace.scores[1, :, 0, 4, 2] - trace.scores[1, :, 0, 4, 3]
    attn, positions = model.blocks[1].attn, model.pos_embed.W_pos[...]
    seen = {
        "accuracy": (logits.argmax(-1) == everything).mean(),
        "beta_o1": beta.mean(),
        "openness": (4 * beta * (1 - beta)).mean(),
        "score_gap": gap.mean(),
        "score_gap_std": gap.std(),
        "norm_QK": jnp.linalg.norm(attn.W_Q[0] @ attn.W_K[0].T),
        "position_distance": jnp.linalg.norm(positions[0] - positions[1]),
        "alpha_std": alpha.std(),
        "loss": metrics.cross_entropy(logits, everything),
        "cosine": _cosine(trace.residuals[-1, :, 3], trace.residuals[-1, :, 4]).mean(),
        "repetition": (logits[:, 0].argmax(-1) == logits[:, 1].argmax(-1)).mean(),
    }
    hyper = hyper_of(setup.train)
    gradient = jax.grad(lambda params, lists: loss(setup, hyper, params, lists, run.step))
    whole = gradient(run.params, everything if setup.train.batches == "sampled" else train)
    seen["gradient_norm"] = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(whole)))
    key = jax.random.fold_in(jax.random.key(run.seed), run.step)

    def of_batch(number):
        drawn = training_batch(
            "resample" if setup.train.batches == "reshuffle" else "sampled",
            setup.task,
            setup.train.batch_size,
            key,
            number,
            train,
            0,
            1,
        )
        return gradient(run.params, drawn)

    parts = jax.lax.map(of_batch, jnp.arange(N_BATCHES))
    names = array_names(setup.model)
    mean, batch = (dict(zip(names, jax.tree.leaves(tree), strict=True)) for tree in (whole, parts))
    for name, pattern in ARRAYS.items():
        chosen = matching_arrays(setup.model, pattern)
        signal = jnp.concatenate([mean[x].ravel() for x in chosen])
        drawn = jnp.concatenate([batch[x].reshape(N_BATCHES, -1) for x in chosen], axis=1)
        noise = jnp.sqrt(((drawn - signal) ** 2).mean())
        seen[f"snr_{name}"] = jnp.sqrt((signal**2).mean()) / noise
        seen[f"rms_{name}"] = jnp.sqrt((drawn**2).mean())
    return seen


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.plateau", *sys.argv[1:]]))
