"""How many layers a list of n digits needs: list lengths 1 to 8 by 1 to 10 layers, 3 seeds each.

    orderscale sweep --config=sweeps/length_by_layers --workdir=runs/length

Published settings: lists drawn on the fly, batch 1,024, 50,000 steps at most. The authors' 238 runs
took 47 GPU-hours; on 2 CPU cores it takes weeks, so look with --dry_run first, take a GPU, or cut
the grid in a copy of this file.

Expect (published): the fewest layers with runs above 0.90 are 2, 3, 3, 4, 4, 5, 5 for lengths 1 to 7,
and none of 10 suffices for length 8; beyond 7 layers some runs fail again.
"""

from orderscale_jax.config import table_config
from orderscale_jax.training.sweep import sweep_config


def get_config():
    return sweep_config(
        table_config(), {"task.list_len": range(1, 9), "model.n_layers": range(1, 11)}, seeds=3
    )
