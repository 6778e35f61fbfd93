"""What makes two layers break through? Recipes, batch sizes, training sets and LayerNorm, 16 seeds.

    orderscale sweep --config=sweeps/batch_recipe --workdir=runs/batch_recipe

1,888 runs of up to 50,000 steps: for a GPU, where it is a matter of hours; on 2 CPU cores weeks. See
`batch_recipe_small.py` for a grid that they finish, and --dry_run for an estimate.

The recipes: the full batch (`reshuffle` with the whole training set as its batch: no gradient noise),
`replay`, `reshuffle` (without replacement), `resample` (with replacement from the training set),
`mirrored` (likewise, in both orders) and `sampled` (from all lists, which no share of training lists
changes). The full batch also runs with gradient noise.

Expect, from the reduced grid: `resample`, `replay`, `reshuffle` and the full batch break through with most
seeds, `sampled` and `mirrored` with hardly any unless there is LayerNorm.
"""

from orderscale_jax.config import default_config
from orderscale_jax.training.sweep import sweep_config

N_LISTS = 10_000
SHARES = 0.5, 0.8, 0.95  # of the lists that train
BATCH_SIZES = 128, 1024, 2048, 8000
NOISE = 1.0, 3.0, 10.0  # noise-to-signal ratios, see TrainConfig.gradient_noise
FIELDS = "train.batches", "train.batch_size", "task.train_fraction", "train.gradient_noise"


def recipes():
    """Values of FIELDS: every combination that exists and differs from the others."""
    for share in SHARES:
        full = round(share * N_LISTS)
        for noise in (0.0, *NOISE):
            yield "reshuffle", full, share, noise
        for size in BATCH_SIZES:
            if size < full:
                for recipe in ("replay", "reshuffle", "resample", "mirrored"):
                    yield recipe, size, share, 0.0
        yield "resample", full, share, 0.0
    for size in BATCH_SIZES:
        yield "sampled", size, 0.8, 0.0


def get_config():
    base = default_config()
    base.train.max_steps = 50_000
    grid = {FIELDS: list(recipes()), "model.layer_norm": (False, True)}
    return sweep_config(base, grid, seeds=16)
