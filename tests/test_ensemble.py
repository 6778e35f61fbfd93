"""A run of many is the run that it would be alone, whatever ends it and however few fit at once."""

import dataclasses

import jax
import numpy as np
import pytest

from orderscale_jax.config import default_config
from orderscale_jax.training import ensemble
from orderscale_jax.training.devices import CompiledTraining, place, start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup, planned_bytes, result

SEEDS = np.arange(8)


@pytest.fixture(scope="module")
def task():
    """(setup, split) under which eight seeds end by every rule there is."""
    config = default_config()
    config.task.n_digits = 6
    config.model.d_model = 8
    config.train.update(
        batch_size=8,
        learning_rate=0.04,
        eval_every=5,
        max_steps=35,
        target_accuracy=0.6,
        patience=2,
        patience_threshold=0.4,
        min_accuracy=0.55,
        max_attempts=2,
    )
    return make_setup(config)


def train(task, seeds):
    setup, split = task
    running, largest = Ensemble(setup, split, start_runs(setup, np.asarray(seeds))), 0
    while not running.done:
        largest = max(largest, running.placement.n_runs)
        running.advance()
    return results(setup, split, running.state()), largest


@pytest.fixture(scope="module")
def together(task):
    return train(task, SEEDS)[0]


def assert_same(found, expected):
    for field in dataclasses.fields(expected):
        if field.name == "params":
            jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
        else:
            assert getattr(found, field.name) == getattr(expected, field.name), field.name


def test_every_rule_ends_some_run(together):
    """What the next tests compare is worth comparing."""
    first = [run for run in together if run.attempts == 1]
    assert any(run.accuracy >= 0.6 for run in first)  # the target
    assert any(run.accuracy < 0.6 and run.steps == 35 for run in first)  # max_steps
    assert any(run.accuracy < 0.6 and run.steps < 35 for run in first)  # patience
    assert len(first) < len(together)  # a retry


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_of_eight_is_the_run_alone(task, together, seed):
    (alone,), _ = train(task, [seed])
    assert_same(together[seed], alone)


def test_runs_that_advance_together_go_as_if_alone(task):
    """Vectorised, as on an accelerator: equal up to rounding."""
    setup, split = task
    started = start_runs(setup, SEEDS)
    in_turn = place(8, 8)
    both = []
    for placement in (in_turn, dataclasses.replace(in_turn, vectorize=True)):
        advance = CompiledTraining(setup, placement)
        runs, _ = advance(advance.load(started), split.train, split.validation)
        both.append(advance.fetch(runs.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *both)


def test_runs_that_do_not_fit_wait(monkeypatch):
    config = default_config()
    config.task.n_digits, config.model.d_model, config.model.n_layers = 4, 4, 1  # compiles soon
    config.train.update(batch_size=4, max_steps=20, eval_every=10, max_attempts=1)
    task = make_setup(config)
    expected, all_at_once = train(task, SEEDS[:4])
    enough, kept = planned_bytes(*task, 2), start_runs(task[0], SEEDS[:4])
    # Weights, both moments and best weights of every run must lie in the planned memory.
    assert sum(array.nbytes for array in jax.tree.leaves(kept)) < planned_bytes(*task, 4)
    assert enough < planned_bytes(*task, 4)
    monkeypatch.setattr(ensemble, "memory", lambda: enough)
    found, largest = train(task, SEEDS[:4])
    assert (all_at_once, largest) == (4, 2)
    for run, alone in zip(found, expected, strict=True):
        assert_same(run, alone)
