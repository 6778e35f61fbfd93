"""The paper's three-layer model: it copies one digit per layer and avoids composing them.

python -m experiments.train --config=configs/three_layer.py --workdir=runs/three_layer
"""

from orderscale_jax.config import default_config


def get_config():
    config = default_config()
    config.model.n_layers = 3
    return config
