"""6 SAEs on SEP whose latents are on or off, with 3, 5 and 10 of them on: what does it cost not to grade?

orderscale sae-sweep --config=sae/binary --checkpoint=two_layer --workdir=runs/binary
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "base": {"family": "binary", "width": 128, "steps": 20_000, "learning_rate": 1e-3},
            "grid": {"k": (3, 5, 10)},
            "seeds": 2,
        }
    )
