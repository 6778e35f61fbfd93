"""Rows of Table 4 that stay near 0.50 as published, with the last layer's W_Q and W_K as they were drawn.

    orderscale sweep --config=sweeps/table4_recipe --workdir=runs/table4_recipe

Lists drawn afresh in batches of 1,024, as published, 3 seeds. The plain model at four widths trains for the
published 50,000 steps; variants that need the residual form, ten times slower, only until 0.90 or for
20,000 steps. Half an hour on 2 CPU cores.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, table_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = (
    "model.d_model",
    "model.bias",
    "model.learn_wv",
    "model.learn_wo",
    "train.max_steps",
    "train.target_accuracy",
    "train.overrides",
)
WIDTHS = 8, 32, 64, 128
# A query's bias can saturate the scores by itself, so it stays as it was drawn, too.
WITH_BIASES = as_drawn("blocks.-1.attn.[Wb]_[QK]")


def cells():
    for width in WIDTHS:
        yield width, False, False, False, 50_000, 0.999, as_drawn(LAST_SCORES)
    yield 64, True, False, False, 20_000, 0.9, WITH_BIASES
    yield 64, False, True, False, 20_000, 0.9, as_drawn(LAST_SCORES)
    yield 64, False, False, True, 20_000, 0.9, as_drawn(LAST_SCORES)


def get_config():
    return sweep_config(table_config(), {FIELDS: list(cells())}, seeds=3)
