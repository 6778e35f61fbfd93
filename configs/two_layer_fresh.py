"""The paper's two-layer model on lists drawn afresh from all there are, as in the paper's tables.

    orderscale train --config=two_layer_fresh --workdir=runs/two_layer_fresh

The recipe of `two_layer.py`. Validation lists are among those drawn, so that its accuracy tells what the
model can hold and not what it generalises to.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config


def get_config():
    config = default_config()
    config.train.batches = "sampled"
    config.train.batch_size = 512
    config.train.overrides = as_drawn(LAST_SCORES)
    return config
