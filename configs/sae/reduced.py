"""45 SAEs on SEP: BatchTopK, three widths, k 1 to 5, three seeds, 20,000 steps.

    orderscale sae-sweep --config=sae/reduced --checkpoint=two_layer --workdir=runs/reduced

Half an hour to an hour on 2 CPU cores. The rate is one of the published grid.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "base": {"family": "batch_topk", "steps": 20_000, "learning_rate": 1e-3},
            "grid": {"width": (64, 128, 256), "k": (1, 2, 3, 4, 5)},
            "seeds": 3,
        }
    )
