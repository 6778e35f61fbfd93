"""Every step's batch follows from key and step alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orderscale_jax.task import TaskConfig
from orderscale_jax.training.batches import permuted, training_batch

TASK = TaskConfig(list_len=2, n_digits=8)
TRAIN = jnp.asarray(np.indices((8, 8), np.int32).reshape(2, -1).T[:50])  # no list twice
BATCH = 12  # four batches an epoch, two lists left over


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _batches(recipe, task, seed, steps, n_parts, batch_size):
    """Batches [S, P, B / P, n] of the given steps, in parts."""
    key = jax.random.key(seed)

    def one(step, part):
        return training_batch(recipe, task, batch_size, key, step, TRAIN, part, n_parts)

    parts = jnp.arange(n_parts)
    return jax.vmap(lambda step: jax.vmap(lambda part: one(step, part))(parts))(steps)


def batches(recipe, steps, *, task=TASK, seed=0, n_parts=1, batch_size=BATCH):
    """Batches [S, B, n]."""
    parts = np.asarray(_batches(recipe, task, seed, jnp.asarray(list(steps)), n_parts, batch_size))
    return parts.reshape(len(parts), batch_size, -1)


def as_sets(batches):
    return [set(map(tuple, batch.tolist())) for batch in batches]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 100, 1025])
def test_an_order_is_a_bijection(size):
    orders = jax.vmap(lambda seed: permuted(jax.random.key(seed), jnp.arange(size), size))(jnp.arange(3))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size > 8:
        assert (orders[0] != orders[1]).any() and (orders[0] != jnp.arange(size)).any()


def test_orders_look_random():
    """Over many keys each list stands at each place about equally often."""
    size, n_keys = 12, 6000
    place = jax.jit(jax.vmap(lambda seed: permuted(jax.random.key(seed), jnp.arange(size), size)))
    orders = np.asarray(place(jnp.arange(n_keys)))
    counts = np.stack([(orders == entry).sum(0) for entry in range(size)])
    expected = n_keys / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 121 + 5 * np.sqrt(2 * 121)  # (size - 1)^2 degrees of freedom


def test_an_epoch_shows_no_list_twice_and_the_next_another_order():
    first, second = (as_sets(batches("reshuffle", range(start, start + 4))) for start in (0, 4))
    assert all(len(batch) == BATCH for batch in first)
    assert len(set().union(*first)) == len(set().union(*second)) == 4 * BATCH
    assert first != second


def test_over_epochs_every_list_is_seen():
    seen = set().union(*as_sets(batches("reshuffle", range(40))))
    assert seen == set(map(tuple, TRAIN.tolist()))


def test_replay_repeats_its_first_epoch():
    replayed = batches("replay", range(12))
    np.testing.assert_array_equal(replayed[:4], replayed[4:8])
    np.testing.assert_array_equal(replayed[:4], replayed[8:])
    np.testing.assert_array_equal(replayed[:4], batches("reshuffle", range(4)))
    assert len(set().union(*as_sets(replayed))) == 4 * BATCH  # of 50: two are never seen


def test_resampled_lists_are_training_lists_and_may_repeat():
    drawn = as_sets(batches("resample", range(40)))
    assert set().union(*drawn) == set(map(tuple, TRAIN.tolist()))
    assert min(map(len, drawn)) < BATCH


@pytest.mark.parametrize("duplicates", ["all", "none", "train_only"])
def test_sampled_lists_come_from_the_whole_alphabet(duplicates):
    task = TaskConfig(list_len=2, n_digits=4, duplicates=duplicates)
    drawn = batches("sampled", range(40), task=task).reshape(-1, 2)
    allowed = {(a, b) for a in range(4) for b in range(4) if a != b or duplicates != "none"}
    assert set(map(tuple, drawn.tolist())) == allowed


@pytest.mark.parametrize("recipe", ["reshuffle", "replay", "resample", "sampled"])
def test_parts_make_the_whole_and_the_seed_decides(recipe):
    whole = batches(recipe, range(6))
    np.testing.assert_array_equal(whole, batches(recipe, range(6), n_parts=4))
    np.testing.assert_array_equal(whole[3:], batches(recipe, range(3, 9))[:3])
    assert (whole != batches(recipe, range(6), seed=1)).any()
    steps_differ = [(a != b).any() for a, b in itertools.pairwise(whole)]
    assert all(steps_differ)
