"""What makes two layers break through? The reduced grid, for 2 CPU cores.

    python -m experiments.sweep --config=configs/sweeps/batch_recipe_small.py --workdir=runs/recipe_small

54 runs of 20,000 steps, 25 to 40 minutes on 2 idle cores. `batch_recipe.py` is the whole grid.

Two explanations are tried. Noise: `reshuffle` passes through the training set, so that its noise
nearly cancels over an epoch, and the full batch has none; then `resample` must fail like `sampled`,
and gradient noise must switch `reshuffle` off. Symmetry: in `sampled` both orders of a pair come
equally often, and nothing in the data prefers an order per pair; a training share of 80 % holds a
third of its pairs in one order only. Then `resample` must work, the better the smaller the share, and
`mirrored`, the same lists in both orders, must not.

Expect: with `reshuffle` most seeds break through by step 20,000, with `sampled` none.
"""

from orderscale_jax.config import default_config
from orderscale_jax.sweep import sweep_config

FIELDS = "train.batches", "train.batch_size", "task.train_fraction", "train.gradient_noise"
RECIPES = (
    ("reshuffle", 2048, 0.8, 0.0),
    ("replay", 2048, 0.8, 0.0),
    ("resample", 2048, 0.8, 0.0),
    ("mirrored", 2048, 0.8, 0.0),
    ("sampled", 2048, 0.8, 0.0),
    ("resample", 2048, 0.5, 0.0),
    ("resample", 2048, 0.95, 0.0),
    ("reshuffle", 2048, 0.8, 3.0),  # noise-to-signal ratio
    ("reshuffle", 8000, 0.8, 0.0),  # the full batch
)


def get_config():
    base = default_config()
    base.train.max_steps = 20_000
    return sweep_config(base, {FIELDS: RECIPES}, seeds=6)
