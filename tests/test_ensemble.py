"""A run of many is the run that it would be alone, whatever ends it and however few fit at once."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from orderscale_jax.config import default_config
from orderscale_jax.training import ensemble
from orderscale_jax.training.devices import CompiledTraining, place, start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup, result

SEEDS = np.arange(40, 48)


@pytest.fixture(scope="module")
def task():
    """(setup, split) under which eight seeds end by every rule there is."""
    config = default_config()
    config.task.n_digits, config.model.d_model, config.model.n_layers = 6, 8, 1  # compiles soon
    config.train.update(
        batch_size=8,
        learning_rate=0.06,
        eval_every=5,
        max_steps=35,
        target_accuracy=0.18,
        patience=2,
        patience_threshold=0.1,
        min_accuracy=0.1,
        max_attempts=2,
    )
    return make_setup(config)


def train(task, seeds):
    setup, split = task
    running, largest = Ensemble(setup, split, start_runs(setup, np.asarray(seeds))), 0
    while not running.done:
        largest = max(largest, running.placement.n_runs)
        running.advance()
    state = running.state()
    return [result(state, i) for i in range(len(seeds))], largest


@pytest.fixture(scope="module")
def together(task):
    return train(task, SEEDS)[0]


def assert_same(found, expected, **tolerances):
    for field in dataclasses.fields(expected):
        if field.name == "params" or (tolerances and isinstance(getattr(expected, field.name), float | list)):
            ours, theirs = (getattr(each, field.name) for each in (found, expected))
            chex.assert_trees_all_close(ours, theirs, **(tolerances or {"rtol": 0, "atol": 0}))
        else:
            assert getattr(found, field.name) == getattr(expected, field.name), field.name


def test_every_rule_ends_some_run(together):
    """What the next tests compare is worth comparing."""
    first = [run for run in together if run.attempts == 1]
    assert any(run.accuracy >= 0.18 for run in first)  # the target
    assert any(run.accuracy < 0.18 and run.steps == 35 for run in first)  # max_steps
    assert any(run.accuracy < 0.18 and run.steps < 35 for run in first)  # patience
    assert len(first) < len(together)  # a retry


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_of_eight_is_the_run_alone(task, together, seed):
    (alone,), _ = train(task, [seed])
    assert_same(together[seed - SEEDS[0]], alone)


def test_runs_that_advance_together_go_as_if_alone(task, together, monkeypatch):
    """Vectorised, as on an accelerator: equal up to rounding, also as runs leave and others go on."""
    placed = []

    def vectorized(n_runs, batch_size):
        placed.append(dataclasses.replace(place(n_runs, batch_size), vectorize=True))
        return placed[-1]

    monkeypatch.setattr(ensemble, "place", vectorized)
    found, _ = train(task, SEEDS)
    assert len({placement.n_runs for placement in placed}) > 1  # some left, and the rest closed ranks
    for ours, theirs in zip(found, together, strict=True):
        assert_same(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_program_is_compiled_for_the_lists_it_is_given(task):
    """Other lists under the same configuration get a program of their own, and the same ones none anew."""
    setup, split = task
    training = CompiledTraining(setup, place(2, setup.train.batch_size))
    accuracies = []
    for validation in (split.validation, split.validation[:3], split.validation):
        runs = training.load(start_runs(setup, SEEDS[:2]))
        _, reports = training(runs, split.train, validation)
        accuracies.append(reports["val_accuracy"])
    sixths = 6 * accuracies[1]  # of three lists of two digits
    np.testing.assert_allclose(sixths, np.round(sixths), atol=1e-5)
    np.testing.assert_array_equal(accuracies[0], accuracies[2])
    assert len(training._programs) == 2


def test_runs_that_do_not_fit_wait(monkeypatch):
    config = default_config()
    config.task.n_digits, config.model.d_model, config.model.n_layers = 4, 4, 1  # compiles soon
    config.train.update(batch_size=4, max_steps=20, eval_every=10, max_attempts=1)
    task = make_setup(config)
    expected, all_at_once = train(task, SEEDS[:4])
    setup, split = task

    def planned(n_runs):
        runs = start_runs(setup, SEEDS[:n_runs])
        return CompiledTraining(setup, place(n_runs, 4)).bytes(runs, split.train, split.validation)

    enough, kept = planned(2), start_runs(setup, SEEDS[:4])
    # Weights, both moments and best weights of every run must lie in the planned memory.
    assert sum(array.nbytes for array in jax.tree.leaves(kept)) < planned(4)
    assert enough < planned(4)
    monkeypatch.setattr(ensemble, "memory", lambda: enough)
    found, largest = train(task, SEEDS[:4])
    assert (all_at_once, largest) == (4, 2)
    for run, alone in zip(found, expected, strict=True):
        assert_same(run, alone)
