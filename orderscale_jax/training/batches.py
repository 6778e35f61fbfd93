"""Which lists a step trains on: a pure function of (key, step), so that nothing has to be stored.

A run that resumes at step s, a member of an ensemble and each of eight devices all ask for their
part of the same batch and get it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax.model import kernels
from orderscale_jax.task import TaskConfig

ROUNDS = 5  # of mixing
SORTED = 256  # lists up to which an order is sorted, which is exact but slower; see `permuted`
TURNS = 2**32 - 1  # no step: names the key from which `mirrored` draws which lists it turns round


def training_batch(
    recipe: str,
    task: TaskConfig,
    batch_size: int,
    key,
    step,
    train,
    part,
    n_parts: int,
    kernel: str | None = None,
):
    """Digits [B / n_parts, n] of one part of the batch of `step`.

    Args:
      recipe: `reshuffle`, `replay`, `resample`, `mirrored` or `sampled`; see `TrainConfig.batches`.
      task: the alphabet and list length, for `sampled`.
      batch_size: B, all parts together; must be a multiple of `n_parts`.
      key: typed key of the run.
      step: integer [].
      train: the training lists [M, n]; unused by `sampled`.
      part, n_parts: which part, of how many.
      kernel: `tpu` where gathering single numbers is slow, see `kernels.take`.
    """
    share = batch_size // n_parts
    start = part * share
    if recipe in ("reshuffle", "replay"):
        per_epoch = train.shape[0] // batch_size
        epoch, slot = step // per_epoch, step % per_epoch
        order = jax.random.fold_in(key, epoch if recipe == "reshuffle" else 0)
        places = slot * batch_size + start + jnp.arange(share)
        return _take(train, permuted(order, places, train.shape[0]), task.n_digits, kernel)
    draw = jax.random.fold_in(key, step)
    if recipe in ("resample", "mirrored"):
        drawn = jax.random.randint(draw, (batch_size,), 0, train.shape[0])
        drawn = jax.lax.dynamic_slice_in_dim(drawn, start, share)
        lists = _take(train, drawn, task.n_digits, kernel)
        if recipe == "resample":
            return lists
        turn = jax.random.fold_in(jax.random.fold_in(key, np.uint32(TURNS)), step)
        turned = jax.random.bernoulli(turn, shape=(batch_size, 1))
        return jnp.where(jax.lax.dynamic_slice_in_dim(turned, start, share), lists[:, ::-1], lists)
    return jax.lax.dynamic_slice_in_dim(sample_lists(task, draw, batch_size), start, share)


def _take(train, places, n_digits: int, kernel: str | None):
    """The lists [B, n] that stand at places [B] of the training set."""
    if kernel == "tpu" and len(train) <= kernels.MOST_TAKEN and n_digits <= 2**16:
        return kernels.take(train, places)
    return train[places]


def sample_lists(task: TaskConfig, key, n_lists: int):
    """Lists [n_lists, n] drawn uniformly from all, or from those that are not duplicates."""

    def draw(key):
        return jax.random.randint(key, (n_lists, task.list_len), 0, task.n_digits)

    if task.duplicates != "none":
        return draw(key)

    def is_duplicate(lists):
        return (lists == lists[:, :1]).all(-1, keepdims=True)

    def redraw(state):
        lists, key = state
        key, fresh = jax.random.split(key)
        return jnp.where(is_duplicate(lists), draw(fresh), lists), key

    key, first = jax.random.split(key)
    return jax.lax.while_loop(lambda state: is_duplicate(state[0]).any(), redraw, (draw(first), key))[0]


def permuted(key, places, size: int):
    """Which of `size` lists stand at `places` of the random order that `key` names; each stands once.

    Up to `SORTED` lists every order is equally likely. Beyond, sorting would take longer than a training
    step (8,000 random numbers), so the order is a keyed bijection of the integers below the next power of
    two, walked until it lands below `size`: nothing is stored, and any place can be asked for alone. It
    reaches few of all orders, but each list is equally likely at each place, and two places hold any two
    lists about equally often: over 20,000 keys chi-squared is 0.8 to 1.2 times its degrees of freedom from
    500 lists on (of 16 lists up to 2, of 4 up to 12, which is why those are sorted).
    """
    if size <= SORTED:
        return jax.random.permutation(key, size)[places]
    bits = (size - 1).bit_length()
    mask = jnp.uint32(2**bits - 1)
    words = jax.random.bits(key, (ROUNDS, 2), jnp.uint32)

    def mix(x):
        for round_ in range(ROUNDS):  # adding, multiplying by odd numbers and x ^ (x >> s) all invert
            x = (x + words[round_, 0]) & mask
            x = (x * (words[round_, 1] | 1)) & mask
            x = x ^ (x >> ((bits + 1) // 2))
        return x

    def walk(x):
        return jnp.where(x >= size, mix(x), x)

    x = mix(places.astype(jnp.uint32))
    x = jax.lax.while_loop(lambda x: (x >= size).any(), walk, x)
    return x.astype(jnp.int32)
