"""Why do two layers get stuck? Interventions on the optimiser, the scores and the lists, 16 seeds each.

    orderscale sweep --config=sweeps/why_stuck --workdir=runs/why_stuck

30 digits, at most 30,000 steps of 0.08 ms; a run ends at 0.80, past its transition. The rows are
`experiments/results/why_stuck.csv`; `docs/why_two_layers_get_stuck.md` reads them.

Two kinds of lists, on both of which a model that trains as published stays stuck: `paired`, a fixed
training set of 720 lists that holds every order of what it holds, in batches of 128; and lists drawn afresh,
`sampled`.
"""

from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.training.sweep import sweep_config

FIELDS = (
    "task.split",
    "task.paired_share",
    "task.train_fraction",
    "train.batches",
    "train.batch_size",
    "train.overrides",
    "train.scores",
    "train.scores_value",
    "train.scores_until",
)
ALL = ".*"
PAIRED = "paired", 1.0, 0.8, "reshuffle", 128
FRESH = "published", 1.0, 0.8, "sampled", 128
BOTH = PAIRED, FRESH
FULL_BATCH = "paired", 1.0, 0.8, "reshuffle", 720
FREE = "free", 0.0, None


def override(pattern, **values):
    """Overrides of one pattern."""
    return tuple((pattern, field, value) for field, value in values.items())


AS_PUBLISHED = ()
FROZEN = as_drawn(LAST_SCORES)


def cells():
    """Values of FIELDS; what they have in common with others is only named once."""
    # Symmetry and noise, apart: the published split and the paired one, the full batch and small ones.
    for split in ("published", "paired"):
        for size in (128, 720):
            for overrides in (AS_PUBLISHED, FROZEN, override(ALL, epsilon=1e-4)):
                yield split, 1.0, 0.8, "reshuffle", size, overrides, *FREE
    yield *FRESH, AS_PUBLISHED, *FREE
    yield *FRESH, FROZEN, *FREE
    yield *FRESH, override(ALL, epsilon=1e-4), *FREE

    # Where: the same change to other arrays.
    for lists in BOTH:
        for pattern in ("blocks.0.attn.W_[QK]", "blocks.*", "blocks.-1.attn.W_Q", "blocks.-1.attn.W_K"):
            yield *lists, as_drawn(pattern), *FREE
        for pattern in (LAST_SCORES, "blocks.0.attn.W_[QK]", "embed.*", "pos_embed.*", "unembed.*"):
            yield *lists, override(pattern, epsilon=1e-4), *FREE
        for pattern in ("embed.*", "pos_embed.*", "unembed.*"):
            yield *lists, as_drawn(pattern), *FREE

    # How fast: learning rate, beta2, plain gradient descent and decay of the two matrices.
    for lists in BOTH:
        for factor in (0.3, 0.1, 0.03, 0.01):
            yield *lists, override(LAST_SCORES, learning_rate=factor * 1e-3), *FREE
    for value in (0.9, 0.99, 0.9999):
        yield *PAIRED, override(LAST_SCORES, beta2=value), *FREE
    for rate in (0.1, 1.0, 10.0):  # Adam with an epsilon far above every gradient
        yield *PAIRED, override(LAST_SCORES, learning_rate=rate, epsilon=1.0), *FREE
    for epsilon in (1e-6, 1e-5, 1e-3, 1e-2):
        yield *PAIRED, override(LAST_SCORES, epsilon=epsilon), *FREE
    for decay in (0.01, 0.1, 1.0, 10.0):
        yield *PAIRED, override(LAST_SCORES, learning_rate=0.0, weight_decay=decay), *FREE

    # When: trained from a step on only, and up to a step only.
    for step in (300, 1_000, 2_000, 4_000, 8_000):
        for lists in BOTH:
            yield *lists, override(LAST_SCORES, first_step=step), *FREE
            yield *lists, override(LAST_SCORES, last_step=step), *FREE

    # What they are: other draws, and none at all.
    for scale in (0.0, 0.1, 0.3, 3.0, 10.0):
        yield *PAIRED, as_drawn(LAST_SCORES, initial_scale=scale), *FREE
        yield *PAIRED, override(LAST_SCORES, initial_scale=scale), *FREE

    # The scores: kept from growing while the matrices train, and pushed to SEP while they are frozen.
    for bound in (0.5, 1.0, 2.0, 4.0):
        yield *PAIRED, AS_PUBLISHED, "bounded", bound, None
    yield *PAIRED, AS_PUBLISHED, "bounded", 1.0, 10_000
    for factor in (4.0, 16.0):
        yield *PAIRED, AS_PUBLISHED, "divided", factor, None
    for strength in (0.001, 0.01, 0.1):
        yield *PAIRED, AS_PUBLISHED, "penalized", strength, None
    for shift in (-8.0, -4.0, 4.0):
        yield *PAIRED, AS_PUBLISHED, "shifted", shift, None
    for shift in (-4.0, 2.0, 4.0, 8.0, 16.0):
        yield *PAIRED, FROZEN, "shifted", shift, None
    yield *PAIRED, FROZEN, "shifted", 16.0, 10_000
    for bound in (1.0, 4.0):
        yield *FRESH, AS_PUBLISHED, "bounded", bound, None
    yield *FRESH, AS_PUBLISHED, "penalized", 0.01, None
    for shift in (4.0, 16.0):
        yield *FRESH, FROZEN, "shifted", shift, None

    # Noise alone: the full batch of the paired lists, with noise in the gradients of some arrays.
    for ratio in (1.0, 3.0, 10.0, 30.0):
        yield *FULL_BATCH, override(LAST_SCORES, gradient_noise=ratio), *FREE
    for pattern in ("blocks.0.attn.W_[QK]", "embed.*", "pos_embed.*", "unembed.*", ALL):
        yield *FULL_BATCH, override(pattern, gradient_noise=10.0), *FREE
    yield (
        *FULL_BATCH,
        (*FROZEN, *override("(embed|pos_embed|unembed|blocks.0).*", gradient_noise=10.0)),
        *FREE,
    )

    # How many lists train in one order only.
    for share in (1.0, 0.95, 0.9, 0.75, 0.5, 0.25, 0.0):
        for overrides in (AS_PUBLISHED, FROZEN):
            yield "paired", share, 0.5, "reshuffle", 128, overrides, *FREE


def get_config():
    base = default_config()
    base.task.n_digits = 30
    base.train.max_steps = 30_000
    base.train.eval_every = 200
    base.train.target_accuracy = 0.8
    return sweep_config(base, {FIELDS: list(cells())}, seeds=16, success=0.75)
