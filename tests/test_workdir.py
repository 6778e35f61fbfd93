"""A run leaves what it should, goes on where it was killed, and is not mistaken for another."""

import dataclasses
import functools
import io
import json
import re
import shutil
import sys
import types

import ml_collections
import numpy as np
import pytest
from tqdm import tqdm

from orderscale_jax import checkpoint, files, storage, task
from orderscale_jax.analysis.accuracy import accuracy_on
from orderscale_jax.checkpoint import load_checkpoint, named_arrays
from orderscale_jax.config import GROUPS, check_config, default_config, options, validation_lists_seen
from orderscale_jax.errors import UserError
from orderscale_jax.options import meanings
from orderscale_jax.storage import weight_digest
from orderscale_jax.training import progress as progress_room
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.progress import Progress
from orderscale_jax.training.workdir import run_name, train


def small_config(seed=0, **options):
    """Two attempts of 23 steps, with a state at every validation: the program is compiled once for all tests.

    An array is not trained and one has an epsilon of its own, so that the optimiser's state is not uniform.
    """
    config = default_config()
    config.seed = seed
    config.task.n_digits = 8
    config.model.d_model = 8
    config.save_seconds = 0
    given = {
        "batch_size": 16,
        "max_steps": 23,
        "eval_every": 5,
        "min_accuracy": 0.99,
        "max_attempts": 2,
        "learning_rate": 0.01,
        "overrides": (("blocks.-1.attn.W_Q", "learning_rate", 0.0), ("embed.*", "epsilon", 1e-4)),
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
    assert files.read_note(workdir / "summary.json") == summary
    assert (summary["steps"], summary["attempts"], summary["seed"]) == (46, 2, 0)
    assert summary["steps_per_second"] == pytest.approx(46 / summary["seconds"])
    model, config = load_checkpoint(summary["checkpoint"])
    assert json.loads(config.to_json_best_effort()) == json.loads(small_config().to_json_best_effort())
    arrays = named_arrays(model)
    assert weight_digest(arrays) == summary["weights_sha256"]
    assert sum(array.size for array in arrays.values()) == summary["parameters"]


def test_the_log_has_a_line_per_validation(finished):
    workdir, summary = finished
    log = lines(workdir)
    assert [line["total_steps"] for line in log] == [5, 10, 15, 20, 23, 28, 33, 38, 43, 46]
    assert [line["attempt"] for line in log] == [1] * 5 + [2] * 5
    assert [line["step"] for line in log] == [5, 10, 15, 20, 23] * 2
    assert [line["done"] for line in log] == [False] * 9 + [True]
    best = max(log, key=lambda line: line["val_accuracy"])  # the first of equals
    assert log[-1]["best_accuracy"] == best["val_accuracy"]
    assert (summary["best_attempt"], summary["best_step"]) == (best["attempt"], best["step"])
    # The summary says of the weights that were kept what the log says of them, to the last digit.
    for name in ("accuracy", "sequence_accuracy", "position_accuracy", "loss"):
        assert summary[name] == best[f"val_{name}"], name
    for name in ("train_accuracy", "train_sequence_accuracy"):
        assert summary[name] == best[name] and len({line[name] for line in log}) > 1, name


def test_accuracy_on_training_lists_is_that_of_the_weights(finished):
    _, summary = finished
    model, config = load_checkpoint(summary["checkpoint"])
    split = make_setup(config)[1]
    for lists, kind in ((split.train, "train_"), (split.validation, "")):
        found = accuracy_on(model, lists)
        assert summary[f"{kind}accuracy"] == pytest.approx(found.accuracy, abs=1e-6)
        assert summary[f"{kind}sequence_accuracy"] == pytest.approx(found.sequence_accuracy, abs=1e-6)


def test_there_is_no_accuracy_on_training_lists_that_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "LARGEST_SPLIT", 80)
    monkeypatch.setattr(task, "N_SAMPLED_VALIDATION", 40)
    config = small_config(max_attempts=1)
    config.task.split_seed = 77  # of no other test: splits and programs are kept
    config.model.n_layers = 1  # compiles sooner
    summary = train(config, tmp_path)
    assert summary["train_accuracy"] is None and summary["train_sequence_accuracy"] is None
    assert summary["batches"] == "sampled" and 0 <= summary["accuracy"] <= 1
    assert not any(name.startswith("train_acc") for line in lines(tmp_path) for name in line)


def test_a_finished_run_returns_its_summary(finished):
    workdir, summary = finished
    before = {file: file.stat().st_mtime_ns for file in workdir.rglob("*")}
    assert train(small_config(), workdir) == summary
    assert before == {file: file.stat().st_mtime_ns for file in workdir.rglob("*")}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("saves", [0, 6])
def test_a_killed_run_goes_on_and_ends_the_same(finished, tmp_path, monkeypatch, saves):
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
    assert len(lines(tmp_path)) == saves + 1
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write('{"total_st')  # what a kill can leave
    saved = []
    monkeypatch.setattr(checkpoint, "save_state", lambda directory, step, *_: saved.append(step))
    again = train(small_config(), tmp_path)
    assert saved == [5, 10, 15, 20, 23, 28, 33, 38, 43][saves:]  # it went on, rather than starting again
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
    for other, said in (
        (small_config(seed=1), r"\(seed is 0 there and 1 here\)"),
        (
            small_config(max_steps=24, weight_decay=0.5),
            r"\(train.max_steps is 23 there and 24 here; train.weight_decay is 0.01 there and 0.5 here\)",
        ),
    ):
        with pytest.raises(UserError, match=f"holds a run of another configuration {said}"):
            train(other, workdir)
    assert files.read_note(workdir / "summary.json") == summary


def test_a_wrong_configuration_leaves_nothing(tmp_path):
    for wrong, said in (
        ({"batch_size": 52}, "train.batch_size=52 is larger than the training set of 51 lists"),
        ({"max_steps": 0}, "train.max_steps must be at least 1"),
        ({"schedule": "linear"}, "train.schedule must be one of constant, cosine; got 'linear'"),
        ({"batches": "all"}, "train.batches must be one of reshuffle, .*; got 'all'"),
        ({"learning_rate": 0.0}, "train.learning_rate must be positive"),
        ({"epsilon": 0.0}, "train.epsilon must be positive, got 0.0"),
        ({"overrides": (("W_E", "epsilon", 1.0),)}, "'W_E' names no array of this model"),
        ({"scores": "bounded", "scores_value": 1.0}, "train.scores='bounded' changes the model"),
        ({"weight_decay": -1.0}, "train.weight_decay must not be negative"),
        ({"warmup_steps": -1}, "train.warmup_steps must be at least 0, got -1"),
        ({"max_grad_norm": 0.0}, "train.max_grad_norm must be positive or None"),
        ({"patience": 0}, "train.patience must be at least 1 or None"),
    ):
        with pytest.raises(UserError, match=said):
            train(small_config(**wrong), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_weights_and_biases_hears_of_every_validation(tmp_path, monkeypatch):
    said = []
    session = types.SimpleNamespace(
        log=lambda line, step=None: said.append((step, line)), finish=lambda: said.append("end")
    )
    wandb = types.SimpleNamespace(init=lambda **about: said.append(about) or session)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = small_config()
    config.wandb.enabled = True
    summary = train(config, tmp_path)
    about, *validations, (_, final), end = said
    assert about["project"] == "order-by-scale" and about["config"]["train"]["max_steps"] == 23
    assert [step for step, _ in validations] == [line["total_steps"] for line in lines(tmp_path)]
    assert final["final/accuracy"] == summary["accuracy"] and end == "end"
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="needs the package wandb: pip install"):
        train(config, tmp_path / "without")


def test_a_misspelt_option_is_refused_wherever_it_stands():
    config = small_config()
    for group in (config, config.train, config.model, config.task, config.wandb):
        with pytest.raises(AttributeError):
            group.learning_rates = 1
    for place in ("learning_rate", "train.rate", "wandb.projects"):
        wrong = config.to_dict()
        group, _, name = place.rpartition(".")
        (wrong[group] if group else wrong)[name] = 1
        with pytest.raises(UserError, match=f"unknown option {place}; "):
            check_config(ml_collections.ConfigDict(wrong))
    for name, value, said in (
        ("runs", 0, "config.runs must be at least 1, got 0"),
        ("seed", -1, "seeds must be from 0 to"),
        ("name", 3, "config.name must be a word, got 3"),
    ):
        with pytest.raises(UserError, match=said):
            check_config(ml_collections.ConfigDict({**config.to_dict(), name: value}))


def test_every_option_has_a_meaning():
    for group, cls in GROUPS.items():
        assert all(meaning for _, _, meaning in options(group)), group
        assert {field.name for field in dataclasses.fields(cls)} == set(meanings(cls)), group


def test_damaged_states_are_not_a_reason_to_begin_again(tmp_path, monkeypatch):
    save, count = checkpoint.save_state, 0

    def save_three_and_die(*arguments):
        nonlocal count
        save(*arguments)
        if (count := count + 1) == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_three_and_die)
        with pytest.raises(Killed):
            train(small_config(), tmp_path)
    states = sorted((tmp_path / "states").iterdir())
    before = {file: file.read_bytes() for file in (tmp_path / "states").rglob("*") if file.is_file()}
    for state in states:
        (state / storage.SUMS).write_text("")
    with pytest.raises(UserError, match=r"no state in .* is whole"):
        train(small_config(), tmp_path)
    assert sorted((tmp_path / "states").iterdir()) == states
    for file, content in before.items():
        file.write_bytes(content)
    assert train(small_config(), tmp_path)["steps"] == 46


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_damaged_note_is_named(finished, tmp_path, name):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / name).write_text("{")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        train(small_config(), tmp_path / "run")


def test_a_loss_of_zero_is_shown_as_zero():
    setup, _ = make_setup(small_config())
    progress = Progress(setup, start_runs(setup, [0]))
    shown = []
    progress.bar.set_postfix_str = lambda text, refresh: shown.append(text)
    line = {"index": 0, "total_steps": 5, "attempt": 1, "done": False, "best_accuracy": 0.5}
    progress.show([{**line, "train_loss": 0.0, "val_accuracy": 0.25}])
    progress.show([{**line, "train_loss": None, "val_accuracy": 0.25}])
    assert shown == ["loss 0.00 acc 0.250 best 0.500", "loss nan acc 0.250 best 0.500"]


@pytest.mark.parametrize("n_runs", [1, 1024])
def test_the_bar_fits_80_columns(n_runs, monkeypatch):
    """And says that it compiles until there is something to say."""
    config = small_config(max_steps=100_000, max_attempts=3)
    setup, _ = make_setup(config)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(
        progress_room, "tqdm", functools.partial(tqdm, file=terminal, ncols=80, mininterval=0)
    )
    runs = start_runs(setup, np.arange(n_runs))
    with Progress(setup, runs) as progress:
        assert "compiling" in terminal.getvalue()
        for step in (100, 99_900):
            line = {"train_loss": 0.6931, "val_accuracy": 0.4975, "best_accuracy": 0.9012, "done": False}
            progress.show([{**line, "index": i, "total_steps": step, "attempt": 1} for i in range(n_runs)])
    shown = [text for text in re.split(r"[\r\n]+", terminal.getvalue()) if text.strip()]
    assert len(shown) >= 3 and max(map(len, shown)) <= 80
    assert "loss 0.69 acc 0.497 best 0.901" in shown[-1] and "step/s" in shown[-1]
    assert ("attempt 1/3" if n_runs == 1 else "0/1024 done") in shown[-1]


def test_lists_too_many_to_hold_are_sampled():
    config = small_config(batch_size=2048)
    config.task.list_len = 9
    setup, split = make_setup(config)
    assert split.train is None and setup.train.batches == "sampled"
    assert make_setup(small_config())[0].train.batches == "reshuffle"


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, False),
        ({"train.batches": "resample", "task.split": "one_order", "task.train_fraction": 0.3}, False),
        ({"train.batches": "sampled"}, True),
        ({"train.batches": "mirrored"}, True),
        ({"train.batches": "mirrored", "task.split": "paired"}, False),
        ({"train.batches": "mirrored", "task.split": "paired", "task.paired_share": 0.5}, True),
        ({"task.list_len": 9}, None),  # sampled from more than can be held: hardly any is met
    ],
)
def test_whether_training_may_draw_validation_lists(options, seen):
    config = small_config()
    config.update_from_flattened_dict(options)
    assert validation_lists_seen(config) is seen


def test_a_run_has_a_name():
    config = default_config()
    assert run_name(config) == "L2_H1_D64_V100_seed0"
    config.task.list_len = 3
    config.model.layer_norm = config.model.bias = True
    config.seed = 4
    assert run_name(config) == "L2_H1_D64_V100_len3-ln-bias_seed4"
    config.name = "mine"
    assert run_name(config) == "mine"
