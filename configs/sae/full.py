"""The published grid, with seeds that count in every family: 1,440 SAEs of 75,000 steps.

    orderscale sae-sweep --config=sae/full --checkpoint=two_layer --dry_run

Eight widths, k 1 to 5, four rates, three seeds, three families. A machine with two cores takes weeks, which
`--dry_run` tells; `orderscale compile` says what accelerators would take.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "base": {"steps": 75_000},
            "grid": {
                "family": ("batch_topk", "matryoshka", "jumprelu"),
                "width": tuple(range(64, 513, 64)),
                "k": (1, 2, 3, 4, 5),
                "learning_rate": (1e-5, 1e-4, 1e-3, 1e-2),
            },
            "seeds": 3,
        }
    )
