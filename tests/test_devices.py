"""However runs are laid over devices, they go the same way."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from orderscale_jax.training import devices

COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
EVERY_PLACEMENT = """
import dataclasses, sys
import jax, numpy as np
from orderscale_jax.checkpoint import _flatten
from orderscale_jax.config import Setup, TrainConfig
from orderscale_jax.training.devices import CompiledTraining, Placement, place, start_runs
from orderscale_jax.model import ModelConfig
from orderscale_jax.task import TaskConfig, make_split

assert jax.local_device_count() == 8
setup = Setup(
    ModelConfig(d_model=8, n_digits=8),
    TaskConfig(n_digits=8),
    TrainConfig(batch_size=16, eval_every=7, learning_rate=0.01),
)
split = make_split(setup.task)
found = {}

def go(name, advance, runs):
    runs = advance.load(runs)
    for _ in range(2):
        runs, reports = advance(runs, split.train, split.validation)
    kept = {"params": advance.fetch(runs.params), "reports": reports}
    found.update({f"{name}/{key}": x for key, x in _flatten(kept).items()})

eight, shared = place(8, 16), place(1, 16)
one = dataclasses.replace(shared, n_devices=1)
assert (eight.n_devices, shared.n_devices) == (8, 8)
assert (eight.split, shared.split) == ("runs", "batch")
started = start_runs(setup, np.arange(3, 11))

def member(i):
    return jax.tree.map(lambda x: np.asarray(x)[i : i + 1], started)

alone = CompiledTraining(setup, one)
for i in range(8):
    go(f"seed {3 + i} on one device", alone, member(i))
go("seed 3 on eight devices", CompiledTraining(setup, shared), member(0))
go("all on eight devices", CompiledTraining(setup, eight), started)
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By placement: every weight and report after 14 steps of training."""
    path = tmp_path_factory.mktemp("devices") / "found.npz"
    done = subprocess.run(
        [sys.executable, "-c", EVERY_PLACEMENT, path],
        env={"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PATH": "", "XLA_FLAGS": COMPILE_FAST},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    placements = {}
    with np.load(path) as file:
        for name, array in file.items():
            placement, key = name.split("/")
            placements.setdefault(placement, {})[key] = array
    return placements


def test_eight_devices_train_one_run_as_one_does(found):
    alone, shared = found["seed 3 on one device"], found["seed 3 on eight devices"]
    assert alone.keys() == shared.keys() and any(key.startswith("params") for key in alone)
    for key in alone:
        np.testing.assert_allclose(shared[key], alone[key], rtol=1e-4, atol=2e-5, err_msg=key)


def test_every_run_of_eight_on_eight_devices_goes_as_if_it_were_alone(found):
    together = found["all on eight devices"]
    for i, seed in enumerate(range(3, 11)):
        for key, array in found[f"seed {seed} on one device"].items():
            np.testing.assert_allclose(together[key][[i]], array, rtol=1e-5, atol=2e-6, err_msg=key)
    weights = together["params.embed.W_E.value"]
    assert len(np.unique(weights[:, 0, 0])) == 8  # every seed its own way


@pytest.mark.parametrize(
    ("n_runs", "batch_size", "n_devices", "split"),
    [
        (1, 2048, 8, "batch"),
        (1, 12, 6, "batch"),
        (1, 11, 1, "batch"),
        (8, 11, 8, "runs"),
        (256, 11, 8, "runs"),
        (10, 16, 5, "runs"),
        (11, 16, 8, "batch"),
    ],
)
def test_where_runs_go(monkeypatch, n_runs, batch_size, n_devices, split):
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    placement = devices.place(n_runs, batch_size)
    assert (placement.n_runs, placement.n_devices, placement.split) == (n_runs, n_devices, split)
    assert not placement.vectorize  # on a CPU runs take turns


def test_a_placement_says_what_it_is():
    placement = devices.Placement(1, 8, "batch", False, "cpu")
    assert str(placement) == "1 run on 8 CPU devices, batch shared out"
    assert str(devices.Placement(3, 1, "batch", True, "gpu")) == "3 runs on 1 GPU device"
