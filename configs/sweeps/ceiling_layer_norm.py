"""How much do two layers with LayerNorm hold, trained and with the last layer's scores as they were drawn?

    orderscale sweep --config=sweeps/ceiling_layer_norm --workdir=runs/ceiling_layer_norm

The options of `ceiling.py` (cosine, 60,000 steps, batches of 512), 2 seeds a cell: a quarter of an hour on
2 CPU cores.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config


def get_config():
    base = default_config()
    base.model.layer_norm = True
    base.train.schedule = "cosine"
    base.train.batch_size = 512
    base.train.max_steps = 60_000
    base.train.eval_every = 500
    grid = {"train.batches": ("sampled", "reshuffle"), "train.overrides": ((), as_drawn(LAST_SCORES))}
    return sweep_config(base, grid, seeds=2)
