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


@pytest.mark.parametrize("size", [1, 2, 3, 100, 256, 257, 1025])
def test_an_order_is_a_bijection(size):
    orders = jax.vmap(lambda seed: permuted(jax.random.key(seed), jnp.arange(size), size))(jnp.arange(3))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size > 8:
        assert (orders[0] != orders[1]).any() and (orders[0] != jnp.arange(size)).any()


def test_large_orders_look_random():
    """Over many keys each list stands at each place, and two at two places, about equally often."""
    size, n_keys, n_bins = 600, 20_000, 12
    places = jnp.array([0, 1, 299, 599])
    place = jax.jit(jax.vmap(lambda seed: permuted(jax.random.key(seed), places, size)))
    bins = np.asarray(place(jnp.arange(n_keys))) * n_bins // size
    freedom = n_bins**2 - 1
    for a, b in itertools.combinations(bins.T, 2):
        counts = np.bincount(a * n_bins + b, minlength=n_bins**2)
        expected = n_keys / n_bins**2
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [4, 16, 30])
def test_small_orders_are_all_equally_likely(size):
    """Any two places hold any two lists equally often; the keyed bijection alone gives up to 12 here."""
    n_keys, places = 20_000, jnp.array([0, size // 2])
    place = jax.jit(jax.vmap(lambda seed: permuted(jax.random.key(seed), places, size)))
    first, second = np.asarray(place(jnp.arange(n_keys))).T
    counts = np.bincount(first * size + second, minlength=size**2)[~np.eye(size, dtype=bool).ravel()]
    expected = n_keys / len(counts)
    freedom = len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


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


def test_mirrored_lists_are_the_resampled_ones_in_either_order():
    plain, mirrored = batches("resample", range(300)), batches("mirrored", range(300))
    turned = (plain != mirrored).any(-1)
    np.testing.assert_array_equal(np.where(turned[..., None], plain[..., ::-1], plain), mirrored)
    palindrome = plain[..., 0] == plain[..., 1]
    assert abs(turned[~palindrome].mean() - 0.5) < 5 * 0.5 / np.sqrt((~palindrome).sum())
    # Which list is drawn says nothing of whether it is turned.
    first_half = (plain[..., 0] < 4)[~palindrome]
    shares = [turned[~palindrome][half].mean() for half in (first_half, ~first_half)]
    assert abs(shares[0] - shares[1]) < 0.06


@pytest.mark.parametrize("recipe", ["reshuffle", "replay", "resample", "mirrored", "sampled"])
def test_parts_make_the_whole_and_the_seed_decides(recipe):
    whole = batches(recipe, range(6))
    np.testing.assert_array_equal(whole, batches(recipe, range(6), n_parts=4))
    np.testing.assert_array_equal(whole[3:], batches(recipe, range(3, 9))[:3])
    assert (whole != batches(recipe, range(6), seed=1)).any()
    steps_differ = [(a != b).any() for a, b in itertools.pairwise(whole)]
    assert all(steps_differ)
