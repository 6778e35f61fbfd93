"""Processes that share runs end with the files of one, and none notices when another dies."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from orderscale_jax import checkpoint, files, storage
from orderscale_jax.config import default_config
from orderscale_jax.errors import UserError
from orderscale_jax.training import shares
from orderscale_jax.training.shares import Share
from orderscale_jax.training.workdir import train

ROOT = Path(__file__).parents[1]
SMALL = {
    "runs": 3,
    "save_seconds": 0,
    "task.n_digits": 8,
    "model.d_model": 8,
    "train.batch_size": 16,
    "train.max_steps": 300,
    "train.eval_every": 100,
    "train.target_accuracy": 2.0,
    "train.max_attempts": 1,
}


def config_of(**changes):
    config = default_config()
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(work directory, summary) of one process that trained all runs."""
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, train(config_of(), workdir)


def assert_same_files(two: Path, one: Path):
    names = [sorted(str(file.relative_to(place)) for file in place.iterdir()) for place in (one, two)]
    assert names[0] == names[1] == ["checkpoint", "config.json", "members", "metrics.jsonl", "summary.json"]
    for name in ("config.json", "metrics.jsonl"):
        assert (two / name).read_text() == (one / name).read_text(), name
    summaries = [files.read_note(place / "summary.json") for place in (one, two)]
    assert summaries[1]["placement"] == "2 processes: 2 runs on 1 CPU device; 1 run on 1 CPU device"
    for summary in summaries:
        for name in ("seconds", "steps_per_second", "placement", "checkpoint"):
            del summary[name]
    assert summaries[0] == summaries[1]
    digests = {run["seed"]: run["weights_sha256"] for run in summaries[0]["runs"]}
    places = {two / "members" / f"seed_{seed}": digest for seed, digest in digests.items()}
    for place, digest in {**places, two / "checkpoint": summaries[0]["weights_sha256"]}.items():
        model, _ = checkpoint.load_checkpoint(place)
        assert storage.weight_digest(checkpoint.named_arrays(model)) == digest


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_whoever_is_last_completes_what_one_would_have_left(alone, tmp_path, order):
    first, last = (Share(i, 2) for i in order)
    assert train(config_of(), tmp_path, first) is None
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "checkpoint").exists()
    assert train(config_of(), tmp_path, first) is None  # done, and not trained again
    summary = train(config_of(), tmp_path, last)
    assert summary["weights_sha256"] == alone[1]["weights_sha256"]
    assert_same_files(tmp_path, alone[0])
    assert train(config_of(), tmp_path, first) == train(config_of(), tmp_path) == summary


def test_to_complete_twice_gives_the_same(alone, tmp_path):
    """As where two processes end at the same moment: the second finds the checkpoint and writes again."""
    train(config_of(), tmp_path, Share(0, 2))
    kept = tmp_path.with_suffix(".kept")
    shutil.copytree(tmp_path / "parts", kept)
    train(config_of(), tmp_path, Share(1, 2))
    before = files.read_note(tmp_path / "summary.json")
    shutil.copytree(kept, tmp_path / "parts")
    (tmp_path / "summary.json").unlink()
    again = train(config_of(), tmp_path, Share(1, 2))
    assert {k: v for k, v in again.items() if "second" not in k} == {
        k: v for k, v in before.items() if "second" not in k
    }
    assert_same_files(tmp_path, alone[0])


def test_another_number_of_shares_is_refused(tmp_path):
    train(config_of(), tmp_path, Share(0, 2))
    for share in (Share(), Share(1, 3)):
        with pytest.raises(UserError, match=f"begun with 2 process.*now there are {share.count}"):
            train(config_of(), tmp_path, share)
    (tmp_path / "alone" / "states").mkdir(parents=True)
    with pytest.raises(UserError, match=r"begun with 1 process.*now there are 2"):
        train(config_of(), tmp_path / "alone", Share(0, 2))


def test_shares_of_different_configurations_are_refused(tmp_path):
    train(config_of(), tmp_path, Share(0, 2))
    part = tmp_path / "parts" / "0_of_2" / "part.json"
    said = files.read_note(part)
    said["config"]["seed"] = 7  # as if it had been started in the same instant
    files.write_note(part, said)
    with pytest.raises(UserError, match="holds a run of another configuration"):
        train(config_of(), tmp_path, Share(1, 2))


def test_shares_that_do_not_exist():
    assert [list(Share(i, 3).of(8)) for i in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    with pytest.raises(UserError, match="no process 2 of 2: they count from 0"):
        Share(2, 2)
    with pytest.raises(UserError, match=r"more processes \(2\) than runs \(1\)"):
        Share(0, 2).of(1)


def start(command, environment=None, **options):
    """A process of this clone, with these variables."""
    ours = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    variables = os.environ | ours | (environment or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=variables, cwd=ROOT, **pipes)


def test_a_share_that_is_killed_is_started_again_and_the_other_never_notices(alone, tmp_path):
    def share(i):
        options = [f"--config.{name}={value}" for name, value in SMALL.items()]
        command = [
            "-m",
            "experiments.train",
            "--config=two_layer_published",
            f"--workdir={tmp_path}",
            *options,
        ]
        return start([*command, "--num_processes=2", f"--process_id={i}"])

    processes = [share(0), share(1)]
    try:
        states, deadline = tmp_path / "parts" / "0_of_2" / "states", time.monotonic() + 120
        while not list(states.glob("step_*")) and processes[0].poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        processes[0].send_signal(signal.SIGKILL)
        said = processes[1].communicate(timeout=120)
        assert processes[1].returncode == 0, said
        assert "share 1 of 2 is complete" in said[0] or "share 2 of 2 is complete" in said[0], said
        processes[0].communicate()
        assert processes[0].returncode == -signal.SIGKILL and not (tmp_path / "summary.json").exists()
        processes[0] = share(0)
        said = processes[0].communicate(timeout=120)
        assert processes[0].returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert_same_files(tmp_path, alone[0])


def test_jax_says_which_process_of_a_cluster_this_is():
    """Two processes on this machine, with what Open MPI tells its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ask = (
        "from orderscale_jax.training.shares import share_of_cluster; import jax; "
        "print(share_of_cluster(), jax.process_count())"
    )
    processes = []
    for i in range(2):
        processes.append(
            start(
                ["-c", ask],
                {
                    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
                    "OMPI_COMM_WORLD_SIZE": "2",
                    "OMPI_COMM_WORLD_RANK": str(i),
                    "OMPI_COMM_WORLD_LOCAL_RANK": str(i),
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_COORDINATOR_BIND_ADDRESS": address,
                },
            )
        )
    said = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in said] == ["0_of_2 1", "1_of_2 1"], said


def test_where_there_is_no_cluster_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(shares, "ASK_JAX", "raise SystemExit('no cluster here')")
    with pytest.raises(
        UserError, match=r"does not know which processes take part \(no cluster here\)"
    ) as error:
        shares.share_of_cluster()
    assert "\n" not in str(error.value)


def test_a_share_saves_everything_where_jax_counts_several_processes(alone, tmp_path, monkeypatch):
    """As on a TPU pod, of whose hosts each sees that there are others."""
    for index in (1, 0):
        with monkeypatch.context() as pod:
            pod.setattr(jax, "process_count", lambda backend=None: 2)
            pod.setattr(jax, "process_index", lambda backend=None, index=index: index)
            with pytest.raises(
                UserError, match="JAX counts 2 processes here, which would all train the same"
            ):
                train(config_of(), tmp_path / "two")
            train(config_of(), tmp_path / "two", Share(index, 2))
            assert jax.process_count() == 2
    assert_same_files(tmp_path / "two", alone[0])


@pytest.mark.parametrize("share", [Share(), Share(1, 2)])
def test_processes_that_are_joined_are_refused(share, tmp_path, monkeypatch):
    """What they save, orbax would tell apart by numbers that all of them have."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(
        UserError, match=r"leave it out; --distributed, or --num_processes, shares out the runs"
    ):
        train(config_of(), tmp_path / "two", share)
    assert not (tmp_path / "two").exists()
    with pytest.raises(UserError, match="orbax would mix up what each saves"):
        checkpoint.save_state(tmp_path / "states", 1, {"x": np.zeros(1)}, {})
    assert not (tmp_path / "states").exists()
