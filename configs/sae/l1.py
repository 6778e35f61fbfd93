"""6 SAEs on SEP with an L1 penalty instead of a k: two penalties, three seeds.

orderscale sae-sweep --config=sae/l1 --checkpoint=two_layer --workdir=runs/saes
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "base": {"family": "l1", "width": 128, "steps": 20_000, "learning_rate": 1e-3},
            "grid": {"penalty": (0.1, 0.3)},
            "seeds": 3,
        }
    )
