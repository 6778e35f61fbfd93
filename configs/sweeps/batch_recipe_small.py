"""What makes two layers break through? The reduced grid, for 2 CPU cores.

    python -m experiments.sweep --config=configs/sweeps/batch_recipe_small.py --workdir=runs/recipe_small

42 runs of 20,000 steps, about 35 minutes on 2 idle cores. `batch_recipe.py` is the whole grid.

At batch 2,048 the recipes differ in what noise they put into the gradient: `reshuffle` and `replay`
pass through the training set, so that the noise of an epoch nearly cancels; `resample` and `sampled`
draw afresh, so that it does not. If that is the cause, noise that does not cancel switches the effect
off (`reshuffle` with gradient noise), and a batch of 8,000 switches it on (`sampled`).

Expect: with `reshuffle` most seeds break through by step 20,000, with `sampled` none at batch 2,048.
"""

from orderscale_jax.config import default_config
from orderscale_jax.sweep import sweep_config

FIELDS = "train.batches", "train.batch_size", "train.gradient_noise"
NOISE = 3.0  # noise-to-signal ratio
RECIPES = (
    ("reshuffle", 2048, 0.0),
    ("replay", 2048, 0.0),
    ("resample", 2048, 0.0),
    ("sampled", 2048, 0.0),
    ("reshuffle", 2048, NOISE),
    ("reshuffle", 8000, 0.0),  # the full batch
    ("sampled", 8000, 0.0),
)


def get_config():
    base = default_config()
    base.train.max_steps = 20_000
    return sweep_config(base, {FIELDS: RECIPES}, seeds=6)
