"""How far does leaving scores as they were drawn carry? Longer lists and more layers, 2 seeds a cell.

    orderscale sweep --config=sweeps/length_recipe --workdir=runs/length_recipe

Lists drawn afresh in batches of 512, at most 20,000 steps: an hour on 2 CPU cores. Of each shape of the
authors' grid the scores of all layers train, or those of all but the last, or those of none.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, table_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = "task.list_len", "model.n_layers", "train.overrides"
SHAPES = (3, 3), (3, 2), (2, 4), (2, 6), (2, 8), (2, 10), (3, 4)  # digits, layers
NONE_TRAINED = as_drawn("blocks.*")
LAST_TWO = as_drawn("blocks.-[12].attn.W_[QK]")


def cells():
    for list_len, n_layers in SHAPES:
        for overrides in ((), as_drawn(LAST_SCORES), NONE_TRAINED):
            yield list_len, n_layers, overrides
    yield 3, 3, LAST_TWO
    yield 2, 6, LAST_TWO


def get_config():
    base = table_config()
    base.train.batch_size = 512
    base.train.max_steps = 20_000
    base.train.target_accuracy = 0.99
    return sweep_config(base, {FIELDS: list(cells())}, seeds=2)
