"""A run leaves what it should, goes on where it was killed, and is not mistaken for another."""

import json

import pytest

from orderscale_jax import checkpoint
from orderscale_jax.checkpoint import load_checkpoint, named_arrays, weight_digest
from orderscale_jax.config import default_config
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.workdir import run_name, train


def small_config(seed=0, **options):
    """Two attempts of 23 steps, with a state every 10: the program is compiled once for all tests."""
    config = default_config()
    config.seed = seed
    config.task.n_digits = 8
    config.model.d_model = 8
    given = {
        "batch_size": 16,
        "max_steps": 23,
        "eval_every": 5,
        "checkpoint_every": 10,
        "min_accuracy": 0.99,
        "max_retries": 2,
        "learning_rate": 0.01,
    }
    config.train.update(given | options)
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(work directory, summary) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "deep" / "run"
    return workdir, train(small_config(), workdir)


def test_what_a_run_leaves(finished):
    workdir, summary = finished
    assert {entry.name for entry in workdir.iterdir()} == {
        "checkpoint",
        "config.json",
        "metrics.jsonl",
        "summary.json",
    }
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert (summary["steps"], summary["attempts"], summary["seed"]) == (46, 2, 0)
    assert summary["steps_per_second"] == pytest.approx(46 / summary["seconds"])
    model, config = load_checkpoint(summary["checkpoint"])
    assert config.to_dict() == small_config().to_dict()
    arrays = named_arrays(model)
    assert weight_digest(arrays) == summary["weights_sha256"]
    assert sum(array.size for array in arrays.values()) == summary["parameters"]


def test_the_log_has_a_line_per_validation(finished):
    workdir, summary = finished
    log = lines(workdir)
    assert [line["total_steps"] for line in log] == [5, 10, 15, 20, 23, 28, 33, 38, 43, 46]
    assert [line["attempt"] for line in log] == [0] * 5 + [1] * 5
    assert [line["done"] for line in log] == [False] * 9 + [True]
    best = max(line["val_accuracy"] for line in log)
    assert best == pytest.approx(summary["accuracy"]) and log[-1]["best_accuracy"] == pytest.approx(best)
    at_best = [line["total_steps"] for line in log if line["val_accuracy"] == best]
    assert summary["best_step"] == at_best[0]


def test_a_finished_run_returns_its_summary(finished):
    workdir, summary = finished
    before = {file: file.stat().st_mtime_ns for file in workdir.rglob("*")}
    assert train(small_config(), workdir) == summary
    assert before == {file: file.stat().st_mtime_ns for file in workdir.rglob("*")}


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("saves", "validations"), [(0, 2), (3, 9)])
def test_a_killed_run_goes_on_and_ends_the_same(finished, tmp_path, monkeypatch, saves, validations):
    """Killed before its first state, and in its second attempt."""
    workdir, summary = finished
    save, count = checkpoint.save_state, 0

    def save_and_die(directory, *arguments, **options):
        nonlocal count
        count += 1
        if count > saves:
            raise Killed
        save(directory, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(small_config(), tmp_path)
    assert not (tmp_path / "summary.json").exists()
    assert len(lines(tmp_path)) == validations
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write('{"total_st')  # what a kill can leave
    saved = []
    monkeypatch.setattr(checkpoint, "save_state", lambda directory, step, *_: saved.append(step))
    again = train(small_config(), tmp_path)
    assert saved == [10, 20, 33, 43][saves:]  # it went on, rather than starting again
    assert again["weights_sha256"] == summary["weights_sha256"]
    assert lines(tmp_path) == lines(workdir)
    timed = {"seconds", "steps_per_second", "checkpoint"}
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in summary.items() if k not in timed
    }


def test_another_seed_gives_other_weights(finished, tmp_path):
    _, summary = finished
    other = train(small_config(seed=1), tmp_path)
    assert other["seed"] == 1 and other["weights_sha256"] != summary["weights_sha256"]


def test_a_directory_of_another_configuration_is_refused(finished):
    workdir, summary = finished
    for other in (small_config(seed=1), small_config(max_steps=24)):
        with pytest.raises(ValueError, match="holds a run of another configuration"):
            train(other, workdir)
    assert json.loads((workdir / "summary.json").read_text()) == summary


def test_a_wrong_configuration_leaves_nothing(tmp_path):
    for options, said in (
        ({"batch_size": 52}, "train.batch_size=52 is larger than the training set of 51 lists"),
        ({"max_steps": 0}, "train.max_steps must be at least 1"),
        ({"schedule": "linear"}, "train.schedule must be one of constant, cosine; got 'linear'"),
        ({"batches": "all"}, "train.batches must be one of reshuffle, .*; got 'all'"),
        ({"learning_rate": 0.0}, "train.learning_rate must be positive"),
        ({"weight_decay": -1.0}, "train.weight_decay must not be negative"),
        ({"warmup_steps": -1}, "train.warmup_steps must not be negative"),
        ({"max_grad_norm": 0.0}, "train.max_grad_norm must be positive or None"),
        ({"patience": 0}, "train.patience must be at least 1 or None"),
    ):
        with pytest.raises(ValueError, match=said):
            train(small_config(**options), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_lists_too_many_to_hold_are_sampled():
    config = small_config(batch_size=2048)
    config.task.list_len = 8
    setup, split = make_setup(config)
    assert split.train is None and setup.train.batches == "sampled"
    assert make_setup(small_config())[0].train.batches == "reshuffle"


def test_a_run_has_a_name():
    config = default_config()
    assert run_name(config) == "L2_H1_D64_V100_seed0"
    config.task.list_len = 3
    config.model.layer_norm = config.model.bias = True
    config.seed = 4
    assert run_name(config) == "L2_H1_D64_V100_len3-ln-bias_seed4"
    config.name = "mine"
    assert run_name(config) == "mine"
