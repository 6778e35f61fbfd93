"""Lists, their published split, and lists that are too many to hold."""

import dataclasses
import itertools

import numpy as np
import pytest

from orderscale_jax import task
from orderscale_jax.errors import UserError
from orderscale_jax.task import TaskConfig, check_lists, make_split, tokens, torch_randperm


def is_duplicate(lists):
    return (lists == lists[:, :1]).all(axis=1)


def as_set(lists):
    return set(map(tuple, lists.tolist()))


def orders(digits):
    return set(itertools.permutations(digits))


def test_the_published_split():
    split = make_split(TaskConfig())
    assert (split.train.shape, split.validation.shape) == ((8000, 2), (2000, 2))
    assert split.train[0].tolist() == [60, 44]
    assert split.validation[:2].tolist() == [[80, 52], [3, 66]]


def exchanged_one_by_one(n, seed):
    """The definition: entry i is exchanged with entry i + (draw mod (n - i)), i = 0 … n-2 in turn."""
    generator, entries = np.random.RandomState(seed), list(range(n))
    for i in range(n - 1):
        j = i + int(generator.randint(0, 2**32, dtype=np.uint32)) % (n - i)
        entries[i], entries[j] = entries[j], entries[i]
    return entries


@pytest.mark.parametrize("n", [*range(12), 100, 4097, 70_000])  # the last needs more than 16 bits
def test_permutations_are_exchanges(n):
    for seed in (0, 5):
        np.testing.assert_array_equal(torch_randperm(n, seed), exchanged_one_by_one(n, seed))


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (1, 0), (2, 3), (1000, 0), (10_000, 7), (4097, 2**32 - 1)])
def test_permutations_are_those_of_torch(n, seed):
    torch = pytest.importorskip("torch")
    expected = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_array_equal(torch_randperm(n, seed), expected)


@pytest.mark.parametrize(("list_len", "n_digits"), [(1, 9), (2, 12), (3, 5), (4, 4)])
def test_every_list_is_on_one_side(list_len, n_digits):
    config = TaskConfig(list_len=list_len, n_digits=n_digits)
    split = make_split(config)
    assert len(split.train) == int(0.8 * config.n_lists)
    assert len(split.train) + len(split.validation) == config.n_lists
    everything = as_set(split.train) | as_set(split.validation)
    assert everything == set(np.ndindex(*[n_digits] * list_len))


def test_duplicates():
    splits = {policy: make_split(TaskConfig(n_digits=12, duplicates=policy)) for policy in task.DUPLICATES}
    assert is_duplicate(splits["all"].validation).any() and is_duplicate(splits["all"].train).any()
    none, train_only = splits["none"], splits["train_only"]
    assert not is_duplicate(none.train).any() and not is_duplicate(none.validation).any()
    assert len(none.train) == int(0.8 * 132) and len(none.train) + len(none.validation) == 132
    np.testing.assert_array_equal(train_only.validation, none.validation)
    np.testing.assert_array_equal(train_only.train[:-12], none.train)
    assert as_set(train_only.train[-12:]) == {(digit, digit) for digit in range(12)}


def test_the_seed_matters():
    first, again, other = (make_split(TaskConfig(n_digits=12, split_seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train, again.train)
    assert as_set(first.validation) != as_set(other.validation)


def published(config):
    return make_split(dataclasses.replace(config, split="published", paired_share=1.0))


SETS = pytest.mark.parametrize(("list_len", "n_digits"), [(2, 12), (3, 6)])
POLICIES = pytest.mark.parametrize("duplicates", task.DUPLICATES)


@SETS
@POLICIES
@pytest.mark.parametrize("split", ["paired", "one_order"])
def test_splits_by_sets_hold_what_the_published_one_holds(list_len, n_digits, duplicates, split):
    config = TaskConfig(list_len, n_digits, duplicates, train_fraction=0.2, split=split)
    found, expected = make_split(config), published(config)
    sides = as_set(found.train), as_set(found.validation)
    assert [len(side) for side in sides] == [len(found.train), len(found.validation)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == as_set(expected.train) | as_set(expected.validation)
    assert found.train.dtype == found.validation.dtype == np.int32
    again, other = make_split(config), make_split(dataclasses.replace(config, split_seed=1))
    np.testing.assert_array_equal(found.train, again.train)
    np.testing.assert_array_equal(found.validation, again.validation)
    assert as_set(other.train) != sides[0]
    if duplicates == "train_only":
        assert is_duplicate(found.train).sum() == n_digits and not is_duplicate(found.validation).any()


@SETS
@POLICIES
def test_paired_lists_train_in_every_order(list_len, n_digits, duplicates):
    config = TaskConfig(list_len, n_digits, duplicates, split="paired")
    split = make_split(config)
    train = as_set(split.train)
    assert all(orders(digits) <= train for digits in train)
    missing = len(published(config).train) - len(train)
    assert 0 <= missing < min(len(orders(digits)) for digits in as_set(split.validation))  # no set fits in
    assert missing == 0 or duplicates != "all"


@SETS
@POLICIES
def test_in_one_order_no_other_order_of_a_list_trains(list_len, n_digits, duplicates):
    config = TaskConfig(list_len, n_digits, duplicates, train_fraction=0.2, split="one_order")
    train = make_split(config).train
    assert (
        len(train) == len(published(config).train) == len({tuple(sorted(digits)) for digits in as_set(train)})
    )
    rises = train[:, 0] < train[:, -1]
    assert 0.2 < rises.mean() < 0.8  # which order it is is drawn


@SETS
@POLICIES
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_a_share_of_the_lists_trains_in_every_order(list_len, n_digits, duplicates, share):
    config = TaskConfig(
        list_len, n_digits, duplicates, train_fraction=0.24, split="paired", paired_share=share
    )
    train = as_set(make_split(config).train)
    assert len(train) == len(published(config).train)
    several = {digits for digits in train if len(orders(digits)) > 1}  # a duplicate has one order alone
    paired = {digits for digits in several if orders(digits) <= train}
    assert all(orders(digits) & train == {digits} for digits in several - paired)
    rounding = max(map(len, map(orders, several)))
    wanted = share * int(0.24 * (config.n_lists - n_digits * (duplicates != "all")))
    n_duplicates = len(train - several) if duplicates == "all" else 0
    assert wanted - rounding - n_duplicates <= len(paired) <= wanted + 0.5
    assert len(paired) + n_duplicates > wanted - rounding


def test_more_lists_than_there_are_sets_are_refused():
    for options in ({"split": "one_order"}, {"split": "paired", "paired_share": 0.5}):
        with pytest.raises(ValueError, match="cannot be had from 78 sets of digits"):
            make_split(TaskConfig(n_digits=12, **options))


@pytest.mark.parametrize("duplicates", task.DUPLICATES)
def test_lists_that_are_too_many_are_sampled(duplicates):
    config = TaskConfig(list_len=8, n_digits=9, duplicates=duplicates)
    assert not config.is_exhaustive
    split = make_split(config)
    assert split.train is None and split.validation.shape == (8192, 8)
    assert set(np.unique(split.validation)) == set(range(9))
    np.testing.assert_array_equal(split.validation, make_split(config).validation)
    other = TaskConfig(list_len=8, n_digits=9, duplicates=duplicates, split_seed=1)
    assert (make_split(other).validation != split.validation).any()


def test_sampled_validation_is_free_of_duplicates(monkeypatch):
    monkeypatch.setattr(task, "LARGEST_SPLIT", 80)  # bytes, so that duplicates are frequent
    for duplicates in task.DUPLICATES:
        split = make_split(TaskConfig(list_len=2, n_digits=6, duplicates=duplicates))
        assert is_duplicate(split.validation).any() == (duplicates == "all")


def test_what_fits_in_memory_is_split():
    """Four digits of 50, as published, are; four of 100 would take 1.6 GB."""
    config = TaskConfig(list_len=4, n_digits=50)
    assert not TaskConfig(list_len=4, n_digits=100).is_exhaustive
    split = make_split(config)
    assert (split.train.shape, split.validation.shape) == ((5_000_000, 4), (1_250_000, 4))
    numbers = np.concatenate([split.train, split.validation]) @ (50 ** np.arange(4)[::-1])
    assert (np.bincount(numbers, minlength=config.n_lists) == 1).all()  # every list, once


def test_tokens():
    got = tokens(np.array([[3, 4, 5], [0, 0, 9]]), n_digits=10)
    np.testing.assert_array_equal(got, [[3, 4, 5, 11, 10, 10, 10], [0, 0, 9, 11, 10, 10, 10]])


def test_numbers_of_numpy_do_not_overflow():
    config = TaskConfig(n_digits=np.int8(100), list_len=np.int64(9))
    assert (type(config.n_digits), config.n_lists, config.is_exhaustive) == (int, 10**18, False)
    with pytest.raises(ValueError, match="make_split needs a TaskConfig, got dict"):
        make_split({})


def test_no_digit_is_taken_for_a_token():
    with pytest.raises(ValueError, match="digits must lie in 0 … 9, got 0 … 11"):
        tokens(np.array([[0, 11]]), n_digits=10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"list_len": 0}, "task.list_len must be at least 1"),
        ({"n_digits": 1}, "task.n_digits must be at least 2"),
        ({"duplicates": "some"}, "task.duplicates must be one of all, none, train_only"),
        ({"train_fraction": 1.0}, "task.train_fraction must lie between 0 and 1"),
        ({"train_fraction": 0.0}, "task.train_fraction must lie between 0 and 1"),
        ({"split_seed": -1}, "task.split_seed must fit 32 bits"),
        ({"split": "by_sum"}, "task.split must be one of published, paired, one_order; got 'by_sum'"),
        ({"paired_share": 0.5}, "task.paired_share says nothing where task.split is 'published'"),
        ({"paired_share": 0.5, "split": "one_order"}, "says nothing where task.split is 'one_order'"),
        ({"paired_share": 1.5, "split": "paired"}, "task.paired_share is a fraction, from 0 to 1; got 1.5"),
        (
            {"split": "paired", "list_len": 8},
            "task.split='paired' needs all lists, and 100.8 are too many",
        ),
        ({"split": "one_order", "list_len": 8}, "task.split='one_order' needs all lists, and 100.8 are"),
        ({"list_len": 1, "duplicates": "none"}, "lists of one digit are all duplicates"),
        ({"list_len": 2.0}, r"task.list_len must be a whole number, got 2\.0"),
        ({"n_digits": True}, "task.n_digits must be a whole number, got True"),
        ({"train_fraction": "most"}, "task.train_fraction must be a number, got 'most'"),
        ({"duplicates": None}, "task.duplicates must be a word, got None"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(ValueError, match=said):
        TaskConfig(**options)


def test_a_split_without_one_side_is_refused():
    with pytest.raises(ValueError, match="both sides need at least one list"):
        make_split(TaskConfig(n_digits=2, train_fraction=0.1))


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        (np.zeros((4, 3), int), r"shape \[B, 2\], got \[4, 3\]"),
        (np.zeros(2, int), r"shape \[B, 2\], got \[2\]"),
        (np.zeros((4, 2)), "lists must hold integers, got float64"),
        (np.array([[0, 10]]), "digits must lie in 0 … 9, got 0 … 10"),
        (np.array([[-1, 3]]), "digits must lie in 0 … 9, got -1 … 3"),
    ],
)
def test_lists_that_do_not_fit(lists, said):
    with pytest.raises(ValueError, match=said):
        check_lists(lists, list_len=2, n_digits=10)


@pytest.mark.parametrize("lists", [[], [3, 1], [[3, 1], [2]], [[], []], np.zeros((0, 0), int), None])
def test_what_is_no_list_has_no_tokens(lists):
    with pytest.raises(UserError, match=r"lists must have shape \[B, n\], got "):
        tokens(lists, n_digits=10)
    assert tokens(np.zeros((0, 2), int), n_digits=10).shape == (0, 5)


def test_lists_that_fit():
    checked = check_lists([[0, 9]], list_len=2, n_digits=10)
    assert checked.dtype == np.int32 and checked.tolist() == [[0, 9]]
    assert check_lists(np.zeros((0, 2), int), 2, 10).shape == (0, 2)


def test_a_training_set_into_which_no_set_of_digits_fits_is_refused():
    config = TaskConfig(n_digits=4, split="paired", duplicates="none", train_fraction=0.1)
    with pytest.raises(ValueError, match="no whole set of digits fits 1 training lists"):
        make_split(config)
