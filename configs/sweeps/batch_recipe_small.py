"""What makes two layers break through? The reduced grid, for 2 CPU cores.

    orderscale sweep --config=sweeps/batch_recipe_small --workdir=runs/recipe_small

17 cells of 16 seeds, at most 30,000 steps each: an hour on 2 cores that had other work too. The rows are
shipped as `experiments/results/batch_recipe_small.csv`; copied to `results.csv` in a work directory, they
make the same command draw the figures at once. `batch_recipe.py` is the whole grid.

Full-size lists with batches of 512, and an alphabet of 30, where the full batch is affordable; a run ends
when 85 % of the validation outputs are right, well past the breakthrough.

The recipes differ in two things: how much a batch's gradient varies (`reshuffle` passes through the
training set, `resample` and `sampled` draw afresh, the full batch does not vary), and whether both orders
of a pair come equally often (`sampled` and `mirrored`: yes; a training share of 80 % holds a third of its
pairs in one order only). The grid shows which recipes break through; it does not separate the two, since
no cell holds both orders of every pair without any noise.

Found: of `sampled` runs 0 of 48 break through, of `mirrored` ones 1 of 48 in batches of 128 to 512 and
5 of 16 in batches of 720; on the training set as it is 14 to 16 of 16, of `replay` and of `resample` with a
share of 0.95 10; with LayerNorm all do.
"""

from orderscale_jax.config import default_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = "task.n_digits", "train.batches", "train.batch_size", "task.train_fraction", "model.layer_norm"
CELLS = (
    (100, "sampled", 512, 0.8, False),
    (100, "mirrored", 512, 0.8, False),
    (100, "mirrored", 512, 0.5, False),
    (100, "resample", 512, 0.95, False),
    (100, "resample", 512, 0.8, False),
    (100, "resample", 512, 0.5, False),
    (100, "reshuffle", 512, 0.8, False),
    (100, "replay", 512, 0.8, False),
    (30, "sampled", 128, 0.8, False),
    (30, "mirrored", 128, 0.8, False),
    (30, "resample", 128, 0.8, False),
    (30, "reshuffle", 128, 0.8, False),
    (30, "reshuffle", 720, 0.8, False),  # the full batch
    (30, "mirrored", 720, 0.8, False),
    (30, "sampled", 720, 0.8, False),
    (30, "sampled", 128, 0.8, True),
    (30, "reshuffle", 128, 0.8, True),
)


def get_config():
    base = default_config()
    base.train.max_steps = 30_000
    base.train.eval_every = 200
    base.train.target_accuracy = 0.85
    return sweep_config(base, {FIELDS: CELLS}, seeds=16, success=0.75)
