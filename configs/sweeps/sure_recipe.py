"""Does every run break through? The configurations `two_layer` and `two_layer_fresh`, seeds 100 to 163.

    orderscale sweep --config=sweeps/sure_recipe --workdir=runs/sure_recipe

With and without the recipe, in the same batches: 256 runs that end at 0.90, or after 20,000 steps; a quarter
of an hour on 2 CPU cores. The rows are `experiments/results/sure_recipe.csv`.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config


def get_config():
    base = default_config()
    base.train.batch_size = 512
    base.train.max_steps = 20_000
    base.train.target_accuracy = 0.9
    grid = {"train.overrides": (as_drawn(LAST_SCORES), ()), "train.batches": ("reshuffle", "sampled")}
    return sweep_config(base, grid, seeds=64, first_seed=100)
