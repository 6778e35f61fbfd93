"""Signals, a full disk, failing hardware, damage: nothing is lost, and nothing is read as something else.

`python -m experiments.faults` does the same at random instants and a thousand times.
"""

import contextlib
import errno
import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import faults
from orderscale_jax import checkpoint, files, storage
from orderscale_jax.checkpoint import restore_latest, save_state
from orderscale_jax.cli import app, signals
from orderscale_jax.cli.configuration import load
from orderscale_jax.errors import UserError
from orderscale_jax.training import owner, sweep_training, workdir
from orderscale_jax.training.interruption import Interrupted, Interruption
from orderscale_jax.training.shares import Share
from orderscale_jax.training.sweep import sweep_config
from orderscale_jax.training.workdir import train

LONG = 12_000  # steps: some seconds
OPTIONS = {
    "task.n_digits": 8,
    "model.d_model": 8,
    "train.batch_size": 16,
    "train.max_steps": LONG,
    "train.max_attempts": 1,
    "train.target_accuracy": 1.1,
}
TRAINING = ["train", "--config=two_layer", *(f"--config.{name}={value}" for name, value in OPTIONS.items())]


def long_config():
    config = load("two_layer")
    config.update_from_flattened_dict(OPTIONS)
    return config


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """What can be damaged, by name: its place, and what is read from it."""
    found = faults.readers(tmp_path_factory.mktemp("things"))
    return {name: (place, read) for name, place, read in found}


@pytest.mark.parametrize(
    ("name", "flips"),
    [
        ("checkpoint", 60),
        ("state", 60),
        ("work directory", 60),
        ("results of a sweep", 40),
        (".npz", 40),
        (".pt", 40),
    ],
)
def test_nothing_damaged_is_read_as_something_else(things, name, flips):
    if name not in things:
        pytest.skip("needs PyTorch")
    found = faults.flip(*things[name], flips, random.Random(0))
    assert found["failed"] == 0 and found["refused"] >= 0.8 * flips, found


def wait_for(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def start(place, *more):
    """A process that ignores no signal, whatever this one does."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.SIGNALS}
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "orderscale_jax", *TRAINING, f"--workdir={place}", *more],
            env=os.environ | {"PYTHONPATH": str(faults.ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def logged(place):
    return [json.loads(line)["total_steps"] for line in (place / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_is_told_to_end_saves_and_goes_on(tmp_path, caplog):
    """SIGTERM, Ctrl-C, then nothing, against one that nothing disturbed."""
    caplog.set_level(logging.INFO, "orderscale_jax")
    place, steps, log = tmp_path / "run", [], tmp_path / "run" / "metrics.jsonl"

    def size():
        return log.stat().st_size if log.exists() else 0

    for number in (signal.SIGTERM, signal.SIGINT):
        before = size()
        with start(place) as process:
            wait_for(lambda before=before: size() > before, process)
            process.send_signal(number)
            out, err = process.communicate()
        assert (process.returncode, out) == (128 + number, ""), err
        found = re.search(r"error: stopped after step ([\d,]+), which is saved in .*; the same command", err)
        steps.append(int(found[1].replace(",", "")))
        assert logged(place)[-1] == steps[-1] and "Traceback" not in err
    assert 0 < steps[0] < steps[1] < LONG and f"going on from step {steps[0]}," in err
    for folder in (place, tmp_path / "alone"):
        train(long_config(), folder)
    assert f"going on from step {steps[1]}," in caplog.text
    assert faults.left(place) == faults.left(tmp_path / "alone")


def test_a_run_is_not_waited_for_in_its_first_stretch(tmp_path):
    """It has nothing to save; and as soon as a directory has an owner no other process gets it."""
    more = "--config.train.max_steps=100000000", "--config.train.eval_every=100000000"
    with start(tmp_path / "run", *more) as process:
        wait_for((tmp_path / "run" / ".owner_0_of_1").exists, process)
        with start(tmp_path / "run") as second:
            said = second.communicate()
        assert (second.returncode, said[0]) == (1, "") and said[1].count("\n") == 1, said
        assert f"is in use by process {process.pid} on " in said[1]
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (129, "", "error: interrupted\n")
    assert not (tmp_path / "run").exists()


@contextlib.contextmanager
def heard():
    """As in a command."""
    with signals.handled() as wanted:
        wanted.hear()
        yield wanted


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]])
def test_patience_has_an_end(numbers, monkeypatch, capfd):
    """A stretch that does not end is left after PATIENCE, and at once at a second Ctrl-C."""
    left = []
    monkeypatch.setattr(signals, "PATIENCE", 0.05 if len(numbers) == 1 else 60)
    monkeypatch.setattr(signals, "SAME", 0.0)
    monkeypatch.setattr(signals.os, "_exit", left.append)
    with pytest.raises(signals.Ended), heard() as wanted, wanted.deferred():
        for number in numbers:
            os.kill(os.getpid(), number)
            wait_for(lambda: wanted.signal is not None)
            time.sleep(0.01)
        wait_for(lambda: left)
    assert left == [128 + numbers[0]]
    said = capfd.readouterr().err
    assert "saving after the running stretch; Ctrl-C leaves at once" in said
    assert "nothing after the last saved state is kept; the same command goes on from there" in said


def test_what_was_answered_or_has_failed_is_not_left(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 0.05)
    monkeypatch.setattr(signals.os, "_exit", lambda code: pytest.fail("it left"))
    with pytest.raises(OSError, match="full"), heard() as wanted, wanted.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: wanted.signal is not None)
        raise OSError("full")
    time.sleep(0.2)


def test_a_signal_in_a_callback_is_not_lost(capfd):
    """Python ignores what is raised there."""

    class Callback:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)

    with pytest.raises(signals.Ended), heard():
        callback = Callback()
        del callback
        time.sleep(60)
    assert capfd.readouterr().err == ""


def test_signals_that_others_listen_to_are_theirs(monkeypatch, capfd):
    heard_of = []
    monkeypatch.setattr(signals, "PATIENCE", 0.0)
    monkeypatch.setattr(signals.os, "_exit", lambda code: pytest.fail("it left"))
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard_of.append(number))
    try:
        with heard() as wanted, wanted.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)
            assert wanted.signal is None and heard_of == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert capfd.readouterr().err == ""


def test_a_signal_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    """An exception in the midst of that of a compiled module can end in a crash."""
    (tmp_path / "slowly_imported.py").write_text(
        f"import os, time; os.kill({os.getpid()}, {int(signal.SIGINT)}); time.sleep(0.2); is_whole = True"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(signals.Ended), heard():
        import slowly_imported

        is_whole = slowly_imported.is_whole
        time.sleep(60)
    assert is_whole and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_second_one_leaves_an_import_at_once(tmp_path, monkeypatch, capfd):
    (tmp_path / "imported_for_ever.py").write_text("import leaving; leaving.wait()")
    left = []

    class Leaving:
        @staticmethod
        def wait():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
            wait_for(lambda: left)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "leaving", Leaving)
    monkeypatch.setattr(signals, "SAME", 0.0)
    monkeypatch.setattr(signals.os, "_exit", left.append)
    with pytest.raises(signals.Ended), heard():
        import imported_for_ever  # noqa: F401

        time.sleep(60)
    assert left == [130] and capfd.readouterr().err == "\nerror: left at once\n"


def test_signals_are_answered_before_anything_slow_is_imported():
    code = "import sys, orderscale_jax.cli.main; print(*{'jax', 'numpy', 'absl'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"


def answered_at(line: int) -> tuple[int, int]:
    """Sends SIGTERM at one of the lines that our handling of signals runs: (exit code, lines there are)."""
    lines, before = 0, signal.getsignal(signal.SIGTERM)

    def trace(frame, event, argument):
        nonlocal lines
        name = frame.f_code.co_filename
        if event == "line" and ("contextlib" in name or name.startswith(str(Path(signals.__file__).parent))):
            lines += 1
            if lines == line and signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, before):
                os.kill(os.getpid(), signal.SIGTERM)
        return trace

    try:
        sys.settrace(trace)
        app.guard(lambda: None)
    except SystemExit as end:
        return end.code, lines
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGTERM, before)
    return 0, lines


def test_a_signal_at_any_line_is_answered_in_one_sentence(monkeypatch, capsys):
    """From the handlers' being in place on, to the end of a command that does nothing."""
    monkeypatch.setattr(app.os, "_exit", sys.exit)
    answers = []
    for line in range(1, answered_at(0)[1] + 1):
        code, _ = answered_at(line)
        answers.append((code, capsys.readouterr().err))
    assert set(answers) == {(0, ""), (143, "error: interrupted\n")}
    assert answers.count((0, "")) > 10 and answers.count((143, "error: interrupted\n")) > 10


class AfterFirst(Interruption):
    is_wanted = True


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    config = faults.small_config()
    for step in (5, 10, 15):
        with pytest.raises(Interrupted, match=f"stopped after step {step}, which is saved in"):
            train(config, tmp_path / "run", interruption=AfterFirst())
        assert logged(tmp_path / "run")[-1] == step
    train(config, tmp_path / "run", interruption=AfterFirst())
    train(config, tmp_path / "alone")
    assert faults.left(tmp_path / "run") == faults.left(tmp_path / "alone")


def test_one_owner_at_a_time(tmp_path):
    """And what a killed one leaves owns nothing."""
    (tmp_path / ".owner_0_of_1").write_text('{"host": "elsewhere", "pid": 1, "since": "long ago"}')
    alone, first, second = Share(), Share(0, 2), Share(1, 2)
    for here, there in ((alone, alone), (first, first), (alone, second), (second, alone)):
        with (
            owner.owned(tmp_path, here),
            pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "),
            owner.owned(tmp_path, there),
        ):
            pass
    with owner.owned(tmp_path, first), owner.owned(tmp_path, second):
        pass
    assert not any(tmp_path.iterdir())


def test_where_nothing_can_be_locked_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(owner.fcntl, "flock", refuse)
    with owner.owned(tmp_path, Share()):
        assert "cannot be locked here: make sure that no other process writes there" in caplog.text
    assert not any(tmp_path.iterdir())


STATE = {"x": np.random.default_rng(0).normal(size=(100, 1000))}  # 800 kB


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_the_last_state_stays(tmp_path, capfd):
    """One error, nothing half-written; and it goes on when there is room."""
    save_state(tmp_path, 1, STATE, {})
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with full_disk(), pytest.raises(OSError, match="File too large") as error:
        save_state(tmp_path, 2, STATE, {})
    assert error.value.filename == str(tmp_path / "step_000000002")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert restore_latest(tmp_path, STATE)[0] == 1
    save_state(tmp_path, 2, STATE, {})
    assert restore_latest(tmp_path, STATE)[0] == 2
    assert capfd.readouterr() == ("", "")


def test_a_log_on_a_full_disk_is_named(tmp_path):
    with files.Growing(tmp_path / "log") as log:
        log.add("x" * 90_000)
        with full_disk(), pytest.raises(OSError, match="File too large") as error:
            log.add("x" * 20_000)
    assert error.value.filename == str(tmp_path / "log")


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_what_the_hardware_refuses_loses_nothing(tmp_path, monkeypatch, call):
    save_state(tmp_path, 1, STATE, {})

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, "rename")), fail)
        save_state(tmp_path, 2, STATE, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000001"]
    assert restore_latest(tmp_path, STATE)[0] == 1


def test_what_is_not_read_back_the_same_replaces_nothing(tmp_path, monkeypatch):
    save_state(tmp_path, 1, STATE, {})
    write, damaged = storage._sums, []

    def damage(path):
        sums = write(path)
        largest = max((path / "arrays").rglob("d/*"), key=lambda file: file.stat().st_size)
        damaged.append(largest)
        largest.write_bytes(largest.read_bytes()[:-1])
        return sums

    monkeypatch.setattr(storage, "_sums", damage)
    with pytest.raises(OSError, match="what was written was not read back the same"):
        save_state(tmp_path, 2, STATE, {})
    assert damaged and [entry.name for entry in tmp_path.iterdir()] == ["step_000000001"]


def test_a_save_that_died_in_its_commit_is_no_state(tmp_path):
    """orbax lists a step before it is complete; here nothing has a state's name before it is whole."""
    die = """
import os, sys, numpy as np
from orbax.checkpoint._src.path import atomicity
from orderscale_jax import checkpoint
for kind in vars(atomicity).values():
    if isinstance(kind, type) and "finalize" in vars(kind):
        kind.finalize = lambda *_, **__: os.kill(os.getpid(), 9)
checkpoint.save_state(sys.argv[1], 2, {"x": np.zeros(3)}, {})
"""
    save_state(tmp_path, 1, {"x": np.zeros(3)}, {})
    died = subprocess.run(
        [sys.executable, "-c", die, str(tmp_path)], env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert died.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) > 1  # what it left
    assert restore_latest(tmp_path, {"x": np.zeros(3)})[0] == 1
    save_state(tmp_path, 3, {"x": np.zeros(3)}, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step_000000001", "step_000000003"]


@pytest.mark.parametrize(
    "name", ["a[b]c", "a\\b", "a*b?", "new\nline", "blank and ü", "{$HOME}", b"\xff\xfe"]
)
def test_any_path_the_system_allows_works(tmp_path, name):
    place = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name))))
    save_state(place / "states", 1, {"x": np.arange(3)}, {"said": 1})
    assert restore_latest(place / "states", {"x": np.zeros(3)})[1]["x"].tolist() == [0, 1, 2]


def test_a_path_that_is_too_long_is_refused_before_training(tmp_path):
    deep = tmp_path.joinpath(*["x" * 200] * 20)
    with pytest.raises(UserError, match="is too long: files in it would have paths of up to"):
        train(faults.small_config(), deep)
    assert not any(tmp_path.iterdir())


def test_a_run_that_is_not_finite_ends_at_once(tmp_path):
    """With its last finite weights, and with no NaN in what it writes."""
    config = faults.small_config()
    config.train.update(learning_rate=1e30, max_attempts=2)
    summary = train(config, tmp_path)
    assert (summary["diverged_step"], summary["steps"], summary["attempts"]) == (5, 10, 2)
    assert summary["accuracy"] is None and summary["best_step"] == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["diverged"]) for line in lines] == [(5, True)] * 2
    assert "NaN" not in "".join(file.read_text() for file in tmp_path.glob("*.json*"))
    model, _ = checkpoint.load_checkpoint(tmp_path / "checkpoint")
    assert all(np.isfinite(array).all() for array in checkpoint.named_arrays(model).values())
    assert train(config, tmp_path) == summary


def test_what_a_work_directory_is_not_is_said_before_training(tmp_path, monkeypatch):
    config = faults.small_config()
    monkeypatch.setattr(workdir, "_Course", lambda *_: pytest.fail("it trains"))
    for name, content, said in (
        ("checkpoint/thesis.tex", "text", "is not a checkpoint: name another place"),
        ("metrics.jsonl", "{}\n", "holds metrics.jsonl, but no config.json that says of which training"),
        ("summary.json", "{}\n", "holds summary.json, but no config.json that says of which training"),
        ("config.json", "5", "config.json is damaged"),
        ("results.csv", "", "holds a sweep"),
    ):
        place = tmp_path / name.partition("/")[0].partition(".")[0]
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text(content)
        with pytest.raises((UserError, OSError), match=said):
            train(config, place)
        assert [file for file in place.rglob("*") if file.is_file()] == [place / name]


def test_overwriting_begins_anew_and_takes_only_what_is_ours(tmp_path):
    config = faults.small_config()
    first = train(config, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    config.seed = 1
    with pytest.raises(UserError, match="begin anew with --overwrite"):
        train(config, tmp_path)
    second = train(config, tmp_path, overwrite=True)
    assert second["seed"] == 1 and second["weights_sha256"] != first["weights_sha256"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "list.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"list.txt is not of a training: nothing in .* was removed"):
        train(config, tmp_path, overwrite=True)
    assert files.read_note(tmp_path / "summary.json") == second


@pytest.mark.parametrize("damage", ["missing", "damaged", "another"])
def test_a_finished_run_knows_its_checkpoint(tmp_path, damage):
    config, said = faults.small_config(), {"another": "holds other weights"}.get(damage, f"is {damage}")
    summary = train(config, tmp_path / "run")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert train(config, moved) == {**summary, "checkpoint": str(moved / "checkpoint")}
    (moved / "checkpoint").rename(tmp_path / "away")
    if damage == "damaged":
        (moved / "checkpoint" / "arrays").mkdir(parents=True)
        (moved / "checkpoint" / "arrays" / "_METADATA").write_text("{}")
    elif damage == "another":
        model, about = checkpoint.load_checkpoint(tmp_path / "away")
        model.embed.W_E.set_value(model.embed.W_E[...] + 1)
        checkpoint.save_checkpoint(moved / "checkpoint", model, about)
    with pytest.raises(UserError, match=f"its checkpoint .* {said}.*: put back a copy of it, or train anew"):
        train(config, moved)


def stopped(place):
    """A run that was interrupted after 10 of its 20 steps, and its configuration."""
    config = faults.small_config()
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(config, place, interruption=AfterFirst())
    return config


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("\n", "\n{}\n", 1),
        lambda text: text.replace("\n", "\n5\n", 1),
        lambda text: text.replace('"index": 0', '"index": 3', 1),
        lambda text: text.partition("\n")[2],
        lambda text: text.partition("\n")[0] + "\n" + text,
        lambda text: text.replace("1", "2", 1),
    ],
)
def test_a_log_that_was_changed_is_noticed(tmp_path, damage, caplog):
    config, log = stopped(tmp_path), tmp_path / "metrics.jsonl"
    text = log.read_text()
    log.write_text(damage(text))
    with pytest.raises(
        UserError, match=r"metrics.jsonl is not what training had written by step 10: put back"
    ):
        train(config, tmp_path)
    log.unlink()
    train(config, tmp_path)
    assert logged(tmp_path) == [15, 20] and "is gone: it begins again after step 10" in caplog.text


def test_a_state_knows_its_configuration(tmp_path):
    config = stopped(tmp_path)
    (tmp_path / "config.json").unlink()
    other = faults.small_config()
    other.train.learning_rate = 0.5
    with pytest.raises(
        UserError, match=r"another configuration \(train.learning_rate is 0.001 there and 0.5"
    ):
        train(other, tmp_path)
    config.save_seconds = 5.0  # decides nothing
    assert train(config, tmp_path)["steps"] == 20


class Moved(Interruption):
    """Moves a directory away while training goes on."""

    def __init__(self, place, step):
        self.place, self.left = place, step

    @property
    def is_wanted(self):
        self.left -= 1
        if self.left == 0:
            self.place.rename(self.place.with_name("moved"))
        return False


@pytest.mark.parametrize("save_seconds", [0.0, 1e6])
def test_a_directory_that_is_moved_away_is_not_written_again(tmp_path, save_seconds):
    config = faults.small_config()
    config.save_seconds = save_seconds
    with pytest.raises(FileNotFoundError, match="was moved, deleted or replaced while it was in use"):
        train(config, tmp_path / "run", interruption=Moved(tmp_path / "run", 2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["moved"]
    assert train(config, tmp_path / "moved")["steps"] == 20


def test_a_sweep_that_is_moved_away_is_not_written_again(tmp_path):
    (tmp_path / "run").mkdir()
    config = sweep_config(faults.small_config(), {"train.learning_rate": (0.001, 0.002)}, 1)
    with pytest.raises(FileNotFoundError, match="was moved, deleted or replaced while it was in use"):
        sweep_training.train(config, tmp_path / "run", interruption=Moved(tmp_path / "run", 2))
    assert not (tmp_path / "run").exists()
    assert len(sweep_training.train(config, tmp_path / "moved")) == 2


def test_what_is_missing_of_a_complete_share_is_named(tmp_path):
    config = faults.small_config()
    train(config, tmp_path)
    files.write_note(tmp_path / "part.json", {})
    for name in ("summary.json", "metrics.jsonl"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl is missing, which this training has written"):
        train(config, tmp_path)


def test_a_lost_copy_of_the_best_of_several_is_made_again(tmp_path):
    config = faults.small_config()
    config.runs = 2
    summary = train(config, tmp_path)
    (tmp_path / "checkpoint" / storage.SUMS).write_text("torn")
    assert train(config, tmp_path) == summary
    model, _ = checkpoint.load_checkpoint(tmp_path / "checkpoint")
    assert storage.weight_digest(checkpoint.named_arrays(model)) == summary["weights_sha256"]


def test_links_and_pipes_are_not_followed(tmp_path):
    config = faults.small_config()
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "checkpoint").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="is a link to what is not there"):
        train(config, tmp_path / "link")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "owned").mkdir()
    (tmp_path / "owned" / ".owner_0_of_1").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError):
        train(config, tmp_path / "owned")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    save_state(tmp_path / "states", 1, STATE, {})
    (tmp_path / "states" / "step_000000001" / storage.SUMS).unlink()
    os.mkfifo(tmp_path / "states" / "step_000000001" / storage.SUMS)
    os.mkfifo(tmp_path / "states" / "step_000000002")
    with pytest.raises(checkpoint.DamagedError):
        restore_latest(tmp_path / "states", STATE)
