"""When does the transition come, by digits, width, batch and learning rate? The sure recipe, 2 seeds a cell.

    orderscale sweep --config=sweeps/transition_step --workdir=runs/transition_step

Lists drawn afresh; a run ends at 0.80. Some minutes on 2 CPU cores. `experiments/why_stuck_figures.py` fits
what predicts the step, and tries it on cells that the fit has not seen.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config


def get_config():
    base = default_config()
    base.train.batches = "sampled"
    base.train.overrides = as_drawn(LAST_SCORES)
    base.train.target_accuracy = 0.8
    base.train.max_steps = 40_000
    grid = {
        "task.n_digits": (30, 50, 100),
        "model.d_model": (32, 64, 128),
        "train.batch_size": (128, 512),
        "train.learning_rate": (5e-4, 1e-3, 2e-3),
    }
    return sweep_config(base, grid, seeds=2)
