"""`experiments.train` trains, and says what is wrong in one sentence, leaving nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    f"--config.{field}"
    for field in (
        "task.n_digits=8",
        "model.d_model=8",
        "train.batch_size=16",
        "train.max_steps=6",
        "train.eval_every=3",
        "train.max_retries=1",
    )
]
# Each command runs in a fork of a process that has imported everything, which takes seconds.
FORKS = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from orderscale_jax.cli import app, train

for i, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{i}.{name}", os.O_CREAT | os.O_WRONLY), number)
        sys.argv = ["train", *arguments]
        try:
            launch.run(train.main)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(99)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
TWO_LAYER = f"--config={ROOT / 'configs' / 'two_layer.py'}"
WORKDIR = "--workdir=new/run"

BAD = {
    "no layers": ([TWO_LAYER, WORKDIR, "--config.model.n_layers=0"], "model.n_layers must be at least 1"),
    "heads": ([TWO_LAYER, WORKDIR, "--config.model.n_heads=7"], "model.n_heads must divide model.d_model"),
    "one digit": ([TWO_LAYER, WORKDIR, "--config.task.n_digits=1"], "task.n_digits must be at least 2"),
    "batch": ([TWO_LAYER, WORKDIR, "--config.train.batch_size=8001"], "larger than the training set of 8000"),
    "unknown field": ([TWO_LAYER, WORKDIR, "--config.model.n_layer=3"], "n_layer"),
    "unknown group": ([TWO_LAYER, WORKDIR, "--config.optimizer.lr=3"], "optimizer"),
    "no number": ([TWO_LAYER, WORKDIR, "--config.model.n_layers=two"], "expected a whole number"),
    "no such file": (["--config=nowhere.py", WORKDIR], "there is no configuration file 'nowhere.py'"),
    "broken config": (["--config=file", WORKDIR], "the configuration file failed: "),
    "no workdir": ([TWO_LAYER], "--workdir is required"),
    "no config": ([WORKDIR], "--config is required"),
    "a file in the way": ([TWO_LAYER, "--workdir=file/run"], "cannot be written"),
    "a file": ([TWO_LAYER, "--workdir=file"], "cannot be written: it is a file"),
    "read-only": ([TWO_LAYER, "--workdir=/proc/run"], "cannot be written"),
    "stray argument": ([TWO_LAYER, WORKDIR, "stray"], "unexpected argument 'stray'"),
    "two ways": ([TWO_LAYER, WORKDIR, "--config.train.batches=twice"], "train.batches must be one of"),
    "other run": ([TWO_LAYER, "--workdir=taken"], "holds a run of another configuration"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("launchers")
    (place / "file").write_text("something else")
    (place / "taken").mkdir()
    (place / "taken" / "config.json").write_text("{}")
    return place


def run(command, place):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ORDERSCALE_CACHE": str(place / "cache"),
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)


@pytest.fixture(scope="module")
def answers(place):
    """By case: (exit code, stdout, stderr)."""
    everything = json.dumps([arguments for arguments, _ in BAD.values()])
    done = run([sys.executable, "-c", FORKS, everything], place)
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == len(BAD), done.stderr
    read = [[(place / f"{i}.{name}").read_text() for name in ("out", "err")] for i in range(len(BAD))]
    return {case: (code, *texts) for case, code, texts in zip(BAD, codes, read, strict=True)}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_sentence(case, answers):
    code, out, err = answers[case]
    assert code in (1, 2) and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert BAD[case][1] in err


def test_nothing_is_left_behind(answers, place):
    assert not (place / "new").exists()
    assert [entry.name for entry in (place / "taken").iterdir()] == ["config.json"]
    assert (place / "file").read_text() == "something else"


def test_training(tmp_path):
    command = [sys.executable, "-m", "experiments.train", TWO_LAYER, "--workdir=runs/one", *SMALL]
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "one" / "summary.json").read_text())
    assert summary["steps"] == 6 and summary["seed"] == 0
    assert done.stdout.count("\n") == 1 and f"accuracy {summary['accuracy']:.4f}" in done.stdout
    assert summary["checkpoint"] in done.stdout
