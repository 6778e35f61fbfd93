"""Does a warm-up of the learning rate keep two layers from getting stuck? 16 seeds a cell.

    orderscale sweep --config=sweeps/warm_up --workdir=runs/warm_up

The paired lists of `why_stuck.py` in batches of 128, with the cosine schedule after warm-ups of 0 to 8,000
steps, all arrays trained or the last layer's W_Q and W_K as they were drawn. Two minutes on 2 CPU cores.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config


def get_config():
    base = default_config()
    base.task.n_digits = 30
    base.task.split = "paired"
    base.train.batch_size = 128
    base.train.schedule = "cosine"
    base.train.max_steps = 30_000
    base.train.eval_every = 200
    base.train.target_accuracy = 0.8
    grid = {"train.overrides": ((), as_drawn(LAST_SCORES)), "train.warmup_steps": (0, 1_000, 8_000)}
    return sweep_config(base, grid, seeds=16, success=0.75)
