"""The paper's three-layer model: it copies one digit per layer and avoids composing them.

    orderscale train --config=three_layer --workdir=runs/three_layer

A few hundred steps, most of the time being compilation: half a minute on 2 CPU cores. Expect validation
accuracy 1.0 (seed 0: step 300), where it stops. This is how the shipped model `three_layer` was made.
"""

from orderscale_jax.config import default_config


def get_config():
    config = default_config()
    config.model.n_layers = 3
    return config
