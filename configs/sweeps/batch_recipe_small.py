"""What makes two layers break through? The reduced grid, for 2 CPU cores.

    python -m experiments.sweep --config=configs/sweeps/batch_recipe_small.py --workdir=runs/recipe_small

20 runs of at most 30,000 steps, about 20 minutes on 2 idle cores. `batch_recipe.py` is the whole grid.

Two explanations are tried. Noise: `reshuffle` passes through the training set, so that its noise
nearly cancels over an epoch, while `resample` and `sampled` draw afresh; then `resample` must fail like
`sampled`. Symmetry: in `sampled` both orders of a pair come equally often, and nothing in the data
prefers an order per pair; a training share of 80 % holds a third of its pairs in one order only. Then
`resample` must work, the better the smaller the share, and `mirrored`, the same lists in both orders,
must not.
"""

from orderscale_jax.config import default_config
from orderscale_jax.sweep import sweep_config

FIELDS = "train.batches", "task.train_fraction"
RECIPES = (
    ("sampled", 0.8),
    ("resample", 0.8),
    ("mirrored", 0.8),
    ("reshuffle", 0.8),
    ("resample", 0.5),
)


def get_config():
    base = default_config()
    base.train.max_steps = 30_000
    base.train.target_accuracy = 0.9
    return sweep_config(base, {FIELDS: RECIPES}, seeds=4)
