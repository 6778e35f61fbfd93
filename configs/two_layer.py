"""The paper's two-layer model: order kept in the scale of the digits' vectors inside SEP.

    orderscale train --config=two_layer --workdir=runs/two_layer

100,000 steps, three to eight minutes on 2 CPU cores. Expect validation accuracy near 0.5 until the run
breaks through (the shipped one: step 5,000), 0.90 some thousand steps later and 0.92 to 0.93 at the end.
This is how the shipped model `two_layer` was made. On other hardware or versions of JAX the same seed
breaks through at another step: until then a last bit decides.
"""

from orderscale_jax.config import default_config


def get_config():
    return default_config()
