"""10 SAEs on SEP: five other families of width 128 with k 3, two seeds, 20,000 steps; `l1` has its penalty.

orderscale sae-sweep --config=sae/families --checkpoint=two_layer --workdir=runs/families
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "base": {"width": 128, "steps": 20_000, "learning_rate": 1e-3},
            "grid": {"family": ("matryoshka", "jumprelu", "topk", "binary", "l1"), "k": (3,)},
            "seeds": 2,
        }
    )
