"""What makes two layers break through? The reduced grid, for 2 CPU cores.

    orderscale sweep --config=sweeps/batch_recipe_small --workdir=runs/recipe_small

17 cells of 16 seeds, at most 30,000 steps each: an hour on 2 cores that had other work too. The rows are
shipped as `experiments/results/batch_recipe_small.csv`; copied to `results.csv` in a work directory, they
make the same command draw the figures at once. `batch_recipe.py` is the whole grid.

Full-size lists with batches of 512, and an alphabet of 30, where the full batch is affordable; a run ends
when 85 % of the validation outputs are right, well past the breakthrough.

Two explanations are tried. Noise: `reshuffle` passes through the training set, so that its noise
nearly cancels over an epoch, while `resample` and `sampled` draw afresh; then `resample` must fail like
`sampled`, and the full batch, which has none, must work best. Symmetry: in `sampled` both orders of a
pair come equally often, so nothing in the data prefers an order; a training share of 80 % holds a
third of its pairs in one order only. Then `resample` must work, the better the smaller the share, and
`mirrored`, the same lists in both orders, must not.

Found: symmetry. `resample` breaks through with 16 of 16 seeds and the full batch with 14, `mirrored` and
`sampled` with 2 of 112; with LayerNorm all do.
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
