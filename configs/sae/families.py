"""12 SAEs on SEP: four other families of width 128 with k 3, three seeds, 20,000 steps.

orderscale sae-sweep --config=sae/families --checkpoint=two_layer --workdir=runs/saes
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "base": {"width": 128, "steps": 20_000, "learning_rate": 1e-3},
            "grid": {"family": ("matryoshka", "jumprelu", "topk", "binary"), "k": (3,)},
            "seeds": 3,
        }
    )
