"""The paper's two-layer model: order kept in the scale of the digits' vectors inside SEP.

python -m experiments.train --config=configs/two_layer.py --workdir=runs/two_layer
"""

from orderscale_jax.config import default_config


def get_config():
    return default_config()
