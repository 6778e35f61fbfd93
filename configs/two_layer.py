"""The paper's two-layer model: order kept in the scale of the digits' vectors inside SEP.

    python -m experiments.train --config=configs/two_layer.py --workdir=runs/two_layer

100,000 steps, three to six minutes on 2 CPU cores. Expect validation accuracy near 0.5 until the run
breaks through (seed 0: step 29,700), 0.90 some thousand steps later and 0.925 at the end. This is how
the shipped model `two_layer` was made.
"""

from orderscale_jax.config import default_config


def get_config():
    return default_config()
