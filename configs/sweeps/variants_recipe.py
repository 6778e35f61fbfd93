"""The recipe on other models: several heads, LayerNorm, and lists of four and five digits, 2 seeds.

    orderscale sweep --config=sweeps/variants_recipe --workdir=runs/variants_recipe

Heads and LayerNorm on the published split until 0.90 or for 10,000 steps; longer lists in three layers drawn
afresh, for 6,000 steps. Batches of 512. A quarter of an hour on 2 CPU cores.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = (
    "task.list_len",
    "model.n_layers",
    "model.n_heads",
    "model.layer_norm",
    "train.batches",
    "train.max_steps",
    "train.overrides",
)
MODELS = (
    (2, 2, 1, True, "reshuffle", 10_000),
    (2, 2, 2, False, "reshuffle", 10_000),
    (2, 2, 4, False, "reshuffle", 10_000),
    (4, 3, 1, False, "sampled", 6_000),
    (5, 3, 1, False, "sampled", 6_000),
)


def get_config():
    base = default_config()
    base.train.batch_size = 512
    base.train.target_accuracy = 0.9
    cells = [(*model, overrides) for model in MODELS for overrides in ((), as_drawn(LAST_SCORES))]
    return sweep_config(base, {FIELDS: cells}, seeds=2)
