"""The authors' ablation of the architecture: LayerNorm, biases, W_V and W_O, and the width (Table 4).

    orderscale sweep --config=sweeps/table4 --workdir=runs/table4

Published settings: lists drawn on the fly, batch 1,024, 50,000 steps at most. The authors ran 30 to
101 seeds a cell; here it is 30. LayerNorm costs about ten times the plain model, so on 2 CPU cores
this takes days: look with --dry_run first, take a GPU, or give --config.seeds=3.

Expect (published): without LayerNorm nearly every run near 0.50 (0.20 at width 8), at most 5 of 30
above 0.90; with LayerNorm nearly all near 0.985.
"""

import itertools

from orderscale_jax.config import table_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = "model.d_model", "model.layer_norm", "model.bias", "model.learn_wv", "model.learn_wo"
WIDTHS = 8, 32, 128  # plain models of other widths than 64


def get_config():
    variants = [(64, *switches) for switches in itertools.product((False, True), repeat=4)]
    plain = [(d_model, False, False, False, False) for d_model in WIDTHS]
    return sweep_config(table_config(), {FIELDS: variants + plain}, seeds=30)
