"""A penalty on the last layer's scores instead of leaving them as drawn: 100 digits, 8 seeds a cell.

    orderscale sweep --config=sweeps/penalty --workdir=runs/penalty

Every array trains; the loss gets a multiple of the mean square of the scores with which o2 chooses. A run
ends at 0.90, or after 20,000 steps: four minutes on 2 CPU cores.
"""

from orderscale_jax.config import default_config
from orderscale_jax.training.sweep import sweep_config


def get_config():
    base = default_config()
    base.train.batch_size = 512
    base.train.max_steps = 20_000
    base.train.target_accuracy = 0.9
    base.train.scores = "penalized"
    base.train.scores_value = 1e-3
    grid = {"train.batches": ("reshuffle", "sampled"), "train.scores_value": (1e-4, 1e-3, 1e-2)}
    return sweep_config(base, grid, seeds=8)
