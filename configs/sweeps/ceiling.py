"""How much do two layers hold, and how much of it carries over to lists they have not seen?

    orderscale sweep --config=sweeps/ceiling --workdir=runs/ceiling

60,000 steps, 2 seeds a cell, the last layer's W_Q and W_K as they were drawn unless a cell says otherwise:
ten minutes on 2 CPU cores. `sampled` draws from all lists, the validation lists among them: capacity.
`reshuffle` sees the training lists of the published split alone: generalisation. Other widths are in
`table4_recipe.py`.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = (
    "train.batches",
    "train.schedule",
    "train.learning_rate",
    "train.weight_decay",
    "train.batch_size",
    "model.d_model",
    "train.overrides",
)


def cells():
    recipe = as_drawn(LAST_SCORES)
    for batches in ("sampled", "reshuffle"):
        yield batches, "constant", 1e-3, 0.01, 512, 64, recipe
        yield batches, "cosine", 1e-3, 0.01, 512, 64, recipe
        yield batches, "cosine", 1e-3, 0.1, 512, 64, recipe
    yield "sampled", "cosine", 3e-3, 0.01, 512, 64, recipe
    yield "sampled", "cosine", 1e-3, 0.01, 2048, 64, recipe
    yield "reshuffle", "constant", 1e-3, 0.01, 2048, 64, recipe
    yield "reshuffle", "cosine", 1e-3, 0.01, 512, 32, recipe
    yield "reshuffle", "cosine", 1e-3, 0.01, 512, 8, recipe
    yield "reshuffle", "cosine", 1e-3, 0.01, 512, 128, recipe
    for batches in ("sampled", "reshuffle"):
        yield batches, "cosine", 1e-3, 0.01, 512, 64, as_drawn("blocks.*")
    yield "reshuffle", "cosine", 1e-3, 0.01, 512, 64, ()


def get_config():
    base = default_config()
    base.train.max_steps = 60_000
    base.train.eval_every = 500
    return sweep_config(base, {FIELDS: list(cells())}, seeds=2)
