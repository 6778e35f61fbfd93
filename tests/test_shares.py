"""Two processes on this machine work as one, and none waits for one that is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orderscale_jax import checkpoint, hosts, runs
from orderscale_jax.config import default_config
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import make_setup

ROOT = Path(__file__).parents[1]
SMALL = {
    "runs": 3,
    "task.n_digits": 8,
    "model.d_model": 8,
    "train.batch_size": 16,
    "train.max_steps": 400,
    "train.eval_every": 100,
    "train.checkpoint_every": 100,
    "train.target_accuracy": 2.0,
    "train.max_retries": 1,
}
REFUSALS = """
import sys, time
from absl import flags
from orderscale_jax.cli import app
from orderscale_jax import hosts, runs
from orderscale_jax.config import default_config

launch.define_hosts()
hosts.PATIENCE = 3

def main(argv):
    launch.join_hosts()
    alone, other = default_config(), default_config()
    other.runs, other.seed = 2, hosts.index()
    for config in (alone, other):
        try:
            runs.train(config, "unused")
        except ValueError as error:
            print(error, flush=True)
    hosts.gather(b"")
    print("ready", flush=True)
    time.sleep(60)

launch.run(main)
"""


def start_two(*command):
    """Two processes of one command, on loopback only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-u", *command, address, "--num_processes=2", f"--process_id={i}"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]


def train_command(workdir, **changes):
    options = {**SMALL, **changes}
    return (
        "-m",
        "experiments.train",
        "--config=configs/two_layer.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in options.items()),
    )


def alive(processes) -> bool:
    return all(process.poll() is None for process in processes)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture(autouse=True)
def leave_none_behind(monkeypatch):
    """Ends what a failed test left running."""
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    yield
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_go_on_after_a_kill_and_equal_one(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    config = default_config()
    config.update_from_flattened_dict(SMALL)
    processes = start_two(*train_command(two))
    states = [two / "states" / f"process_{i}_of_2" for i in range(2)]
    deadline = time.monotonic() + 300
    while (
        not all(list(place.glob("step_*")) for place in states)
        and time.monotonic() < deadline
        and alive(processes)
    ):
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGKILL)
    said = processes[1].communicate(timeout=30)[1]
    assert processes[1].returncode == 1, said
    assert last_line(said).startswith("error: process 0 of 2 is gone: start all 2 again"), said
    assert not (two / "summary.json").exists()
    setup, _ = make_setup(config)
    for place, seeds in zip(states, ([0, 1], [2]), strict=True):
        step, state, _ = checkpoint.restore_latest(place, start_runs(setup, seeds))
        assert step >= 100 and state.seed.tolist() == seeds

    outputs = [process.communicate(timeout=300) for process in start_two(*train_command(two))]
    assert "2 processes: 2 runs on 1 CPU device; 1 run on 1 CPU device" in outputs[0][0], outputs
    assert outputs[1][0] == ""

    alone = runs.train(config, one)
    together = json.loads((two / "summary.json").read_text())
    for name in ("seconds", "steps_per_second", "placement", "checkpoint"):
        del alone[name], together[name]
    assert together == alone
    names = [sorted(path.name for path in place.iterdir()) for place in (one, two)]
    assert names[0] == names[1] == ["checkpoint", "config.json", "members", "metrics.jsonl", "summary.json"]
    logs = [
        [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        for place in (one, two)
    ]
    assert logs[0] == logs[1]
    digests = {two / "members" / f"seed_{run['seed']}": run["weights_sha256"] for run in alone["runs"]}
    for place, digest in {**digests, two / "checkpoint": alone["weights_sha256"]}.items():
        model, _ = checkpoint.load_checkpoint(place)
        assert checkpoint.weight_digest(checkpoint.named_arrays(model)) == digest


def test_more_processes_than_runs_is_one_sentence(tmp_path):
    for process in start_two(*train_command(tmp_path / "few", runs=1)):
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 1, said
        assert "there are more processes (2) than runs (1)" in last_line(said)
    assert not (tmp_path / "few").exists()


def test_a_silent_process_is_missed_and_other_configurations_are_refused():
    processes = start_two("-c", REFUSALS)
    for process in processes:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0].startswith("there are more processes (2) than runs (1)"), lines
        assert lines[1].startswith("process 1 has another configuration than process 0"), lines
        assert lines[2] == "ready\n"
    processes[1].send_signal(signal.SIGSTOP)
    said = processes[0].communicate(timeout=30)[1]
    assert processes[0].returncode == 1
    assert last_line(said).startswith("error: process 1 of 2 is gone"), said


def test_states_of_another_number_of_processes_are_refused(tmp_path):
    config = default_config()
    config.update_from_flattened_dict(SMALL)
    (tmp_path / "states" / "process_0_of_2").mkdir(parents=True)
    with pytest.raises(ValueError, match="written by 2 processes, now there are 1"):
        runs.train(config, tmp_path)


def test_alone():
    assert hosts.gather(b"x") == [b"x"]
    assert hosts.share(3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="host:port"):
        hosts.join(print, "127.0.0.1", 2, 0)
    with pytest.raises(ValueError, match="no process 2 of 2"):
        hosts.join(print, "127.0.0.1:1", 2, 2)
