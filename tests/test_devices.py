"""However runs are laid over devices, they go the same way."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from orderscale_jax import host
from orderscale_jax.training import devices

EVERY_PLACEMENT = """
import dataclasses, sys
import jax, numpy as np
from orderscale_jax.checkpoint import _flatten
from orderscale_jax.config import LAST_SCORES, Setup, TrainConfig, as_drawn
from orderscale_jax.training import devices
from orderscale_jax.training.devices import CompiledTraining, Placement, place, start_runs
from orderscale_jax.model import ModelConfig
from orderscale_jax.task import TaskConfig, make_split
from orderscale_jax.training import ensemble as room
from orderscale_jax.training.ensemble import Ensemble

assert jax.local_device_count() == 8
setup = Setup(
    ModelConfig(d_model=8, n_digits=8),
    TaskConfig(n_digits=8),
    TrainConfig(
        batch_size=16,
        eval_every=7,
        max_steps=70,
        target_accuracy=0.3,
        learning_rate=0.01,
        overrides=(*as_drawn(LAST_SCORES), ("embed.*", "epsilon", 1e-4)),
    ),
)
split = make_split(setup.task)
found = {}
compiled = room._compiled  # each program is traced once

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

for i in range(8):
    go(f"seed {3 + i} on one device", compiled(setup, one), member(i))
go("seed 3 on eight devices", compiled(setup, shared), member(0))
go("all on eight devices", compiled(setup, eight), started)
devices.MAPPED = devices._shard_map
go("seed 3 by shard_map", CompiledTraining(setup, shared), member(0))
go("all by shard_map", CompiledTraining(setup, eight), started)
devices.MAPPED = devices._pmap

def to_the_end(seeds):
    running, placements = Ensemble(setup, split, start_runs(setup, np.asarray(seeds))), set()
    while not running.done:
        placements.add(str(running.placement))
        running.advance()
    return running.state(), placements

# Runs under pmap that end at different times, by their target or by their steps.
together, placements = to_the_end(range(8))
assert placements == {"8 runs on 8 CPU devices, runs shared out"}, placements
assert len(set(together.total_steps.tolist())) > 1, together.total_steps
room.place = lambda n_runs, batch_size: one
for i in (0, 3, 7):
    alone, _ = to_the_end([i])
    for name in ("seed", "total_steps", "best_step", "best_accuracy"):
        assert getattr(together, name)[i] == getattr(alone, name)[0], (i, name)

# What is compiled to plan memory is what runs.
planned = compiled(setup, eight)
planned._call = None  # nothing can be compiled any more
assert planned.bytes(started, split.train, split.validation) > sum(x.nbytes for x in jax.tree.leaves(started))
planned(planned.load(started), split.train, split.validation)
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By placement: every weight and report after 14 steps of training."""
    path = tmp_path_factory.mktemp("devices") / "found.npz"
    done = subprocess.run(
        [sys.executable, "-c", EVERY_PLACEMENT, path],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
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


@pytest.mark.parametrize("runs", ["seed 3", "all"])
def test_both_ways_to_use_many_devices_give_the_same_bits(found, runs):
    mapped = found[f"{runs} by shard_map"]
    assert mapped.keys() == found[f"{runs} on eight devices"].keys()
    for key, array in found[f"{runs} on eight devices"].items():
        np.testing.assert_array_equal(mapped[key], array, err_msg=key)


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
def test_where_runs_go(n_runs, batch_size, n_devices, split):
    placement = devices.place(n_runs, batch_size, 8 * jax.local_devices()[:1])
    assert (placement.n_runs, placement.n_devices, placement.split) == (n_runs, n_devices, split)
    assert not placement.vectorize  # on a CPU runs take turns


def test_a_placement_says_what_it_is():
    placement = devices.Placement(1, 8, "batch", False, "cpu")
    assert str(placement) == "1 run on 8 CPU devices, batch shared out"
    assert str(devices.Placement(3, 1, "batch", True, "gpu")) == "3 runs on 1 GPU device"


def test_cores_are_those_that_may_be_used(monkeypatch, tmp_path):
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda process: range(6), raising=False)
    monkeypatch.setattr(host, "CONTROL_GROUP", tmp_path)
    assert host.available_cores() == 6
    for quota, cores in (("max 100000", 6), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 6)):
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        assert host.available_cores() == cores, quota


def test_free_memory_is_what_a_container_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "CONTROL_GROUP", tmp_path)
    free = host.free_memory()
    assert free > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert host.free_memory() > free / 2
    (tmp_path / "memory.max").write_text("50000\n")
    assert host.free_memory() == 49_000


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A device that is not here."""

    platform: str
    id: int


@pytest.mark.parametrize(
    ("platform", "n_runs", "n_devices", "kernel"),
    [
        ("cpu", 64, 4, None),
        ("tpu", 1, 4, "tpu"),
        ("gpu", 60, 4, None),
        ("gpu", 64, 4, "gpu"),
        ("gpu", 1, 1, None),
    ],
)
def test_a_device_trains_with_its_kernel_where_that_pays(platform, n_runs, n_devices, kernel):
    placement = devices.place(n_runs, 1024, [Elsewhere(platform, i) for i in range(n_devices)])
    assert (placement.kernel, placement.n_devices) == (kernel, n_devices)


def test_a_device_on_which_the_kernel_fails_trains_without(monkeypatch, caplog):
    def refuses(kernel, device):
        raise RuntimeError("no such instruction\nat a place")

    here = Elsewhere("gpu", 0)
    monkeypatch.setattr(devices.jax, "local_devices", lambda: [here])
    monkeypatch.setattr(devices.fused, "try_out", refuses)
    devices._kernel.cache_clear()
    assert devices.place(8, 1024).kernel is None and not caplog.text  # nothing is tried for so few runs
    assert devices.place(64, 1024).kernel is None
    assert "our kernel fails on this device (no such instruction)" in caplog.text
    devices._kernel.cache_clear()
