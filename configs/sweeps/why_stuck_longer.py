"""Does a stuck run come out if it is given longer? 100,000 steps instead of 30,000, 16 seeds a cell.

    orderscale sweep --config=sweeps/why_stuck_longer --workdir=runs/why_stuck_longer

The lists and options of `why_stuck.py`: everything trained on fresh lists and on paired ones, in batches of
128 and in the full batch; and a saturation that is imposed for 10,000 steps or for good, on paired lists with
the last layer's W_Q and W_K as they were drawn. A quarter of an hour on 2 CPU cores.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = (
    "task.split",
    "train.batches",
    "train.batch_size",
    "train.overrides",
    "train.scores",
    "train.scores_value",
    "train.scores_until",
)
PAIRED = "paired", "reshuffle", 128
FREE = "free", 0.0, None


def cells():
    for lists in (PAIRED, ("published", "sampled", 128), ("paired", "reshuffle", 720)):
        yield *lists, (), *FREE
    for until in (10_000, None):
        yield *PAIRED, as_drawn(LAST_SCORES), "shifted", 16.0, until


def get_config():
    base = default_config()
    base.task.n_digits = 30
    base.train.max_steps = 100_000
    base.train.eval_every = 200
    base.train.target_accuracy = 0.8
    return sweep_config(base, {FIELDS: list(cells())}, seeds=16, success=0.75)
