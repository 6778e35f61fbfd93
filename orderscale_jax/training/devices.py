"""Which device computes what; the only module that uses pmap, cores or memory.

R runs go over D local devices: whole runs where there are enough of them, otherwise shares of every
run's batch, with gradients averaged.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec, SingleDeviceSharding

from orderscale_jax.config import Setup
from orderscale_jax.host import free_memory
from orderscale_jax.model import fused
from orderscale_jax.training import run
from orderscale_jax.training.hyper import Hyper
from orderscale_jax.training.run import Run

logger = logging.getLogger(__name__)
FEWEST_RUNS = 16  # for a GPU's kernel: 79,000 steps/s on an H100, 63,000 without; 1 run: 5,400, 8,100


@dataclasses.dataclass(frozen=True)
class Placement:
    """How R runs are laid over local devices.

    Attributes:
      n_runs: R.
      n_devices: how many devices take part.
      split: what the devices share out: `runs` or `batch`.
      vectorize: whether the runs of one device advance together (vmap) or in turn (map). On a CPU
        taking turns is faster, and keeps every run's arithmetic as if it were alone.
      platform: `cpu`, `gpu` or `tpu`.
      kernel: the one of `fused.KERNELS` that these devices run, None for none.
    """

    n_runs: int
    n_devices: int
    split: str
    vectorize: bool
    platform: str
    kernel: str | None = None

    def __str__(self) -> str:
        devices = f"{self.n_devices} {self.platform.upper()} device{'s' if self.n_devices > 1 else ''}"
        runs = f"{self.n_runs} run{'s' if self.n_runs > 1 else ''}"
        shared = f", {self.split} shared out" if self.n_devices > 1 else ""
        return f"{runs} on {devices}{shared}"


def place(n_runs: int, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Placement:
    """Lays runs over devices, the local ones unless others are given; fewer than all where neither runs
    nor batch divide evenly."""
    devices = jax.local_devices() if devices is None else devices
    placement = lay_out(n_runs, devices)
    n_each = n_runs // placement.n_devices
    kernel = _kernel(devices[0]) if is_worthwhile(placement.platform, n_each) else None
    if placement.n_devices > 1:
        return dataclasses.replace(placement, kernel=kernel)
    n_devices = max(d for d in range(1, len(devices) + 1) if batch_size % d == 0)
    return dataclasses.replace(placement, n_devices=n_devices, split="batch", kernel=kernel)


def lay_out(n_runs: int, devices: Sequence[jax.Device] | None = None) -> Placement:
    """Lays whole runs over devices, as many as divide them evenly, for programs that have no kernel."""
    devices = jax.local_devices() if devices is None else devices
    n_devices = max(d for d in range(1, min(len(devices), n_runs) + 1) if n_runs % d == 0)
    platform = devices[0].platform
    return Placement(n_runs, n_devices, "runs", platform != "cpu" and n_runs > 1, platform)


def is_worthwhile(platform: str, n_runs: int) -> bool:
    """Whether it pays to train so many runs on a device with its kernel."""
    return platform != "gpu" or n_runs >= FEWEST_RUNS


@functools.cache
def _kernel(device: jax.Device) -> str | None:
    """The kernel for a device, tried out on it if it is here; None where there is none, or it fails."""
    kernel = device.platform if device.platform in fused.KERNELS else None
    if kernel is None or device not in jax.local_devices():
        return kernel
    try:
        fused.try_out(kernel, device)
    except Exception as error:  # compilers fail in many ways
        why = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("training is slower than it could be: our kernel fails on this device (%s)", why)
        return None
    return kernel


def memory() -> int:
    """Bytes that runs may take of one device, or of the host's free memory where that is a CPU."""
    own = _own_memory()
    return free_memory() // 2 if own is None else int(0.9 * own)


def most_memory() -> int:
    """Bytes that one device has, or the host's free memory where that is a CPU.

    Of them `memory` leaves some: on a device for fragmentation, on a host for its copies.
    """
    own = _own_memory()
    return free_memory() if own is None else own


def _own_memory() -> int | None:
    """Bytes of memory that a device has for itself; None where it is the host's."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def jitted(function: Callable, device: jax.Device | None = None, **options):
    """`jax.jit` for a device that need not be here: then it can only be lowered and compiled."""
    if device is None:
        return jax.jit(function, **options)
    there = SingleDeviceSharding(device)
    return jax.jit(function, in_shardings=there, out_shardings=there, **options)


def planned_bytes(compiled) -> int:
    """Memory of one device that a compiled program takes, as its compiler plans it; 0 if it does not tell."""
    plan = compiled.memory_analysis()
    if plan is None:
        return 0
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes


def _pmap(function: Callable, devices, in_axes, out_axes, donate):
    """A function of every device; arguments have a leading axis of devices where `in_axes` says 0, and so
    has what it gives, unless `out_axes` is None: then it is the same on all of them."""
    return jax.pmap(function, "devices", in_axes=in_axes, out_axes=out_axes, devices=devices, **donate)


def _shard_map(function: Callable, devices, in_axes, out_axes, donate):
    """What `_pmap` does, by `jax.shard_map`."""
    spec = {0: PartitionSpec("devices"), None: PartitionSpec()}

    def one(*arguments):
        pairs = zip(arguments, in_axes, strict=True)
        given = [x if axis is None else jax.tree.map(lambda leaf: leaf[0], x) for x, axis in pairs]
        found = function(*given)
        return found if out_axes is None else jax.tree.map(lambda leaf: leaf[None], found)

    mapped = jax.shard_map(
        one,
        mesh=Mesh(np.array(devices), ("devices",)),
        in_specs=tuple(spec[axis] for axis in in_axes),
        out_specs=spec[out_axes],
        check_vma=False,
    )
    return jax.jit(mapped, **donate)


MAPPED = _pmap  # or `_shard_map`: the same bits


class PlacedRuns:
    """Runs that have a leading axis R outside (`load`, `fetch`) and the layout of `placement` inside."""

    placement: Placement

    def load(self, runs):
        """Runs [R, …] in the placement's layout."""
        if self._stacked:
            shape = self.placement.n_devices, -1
            return jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *x.shape[1:]), runs)
        return jax.tree.map(lambda x: jnp.array(np.asarray(x)), runs)  # a copy: the call consumes it

    def fetch(self, tree):
        """A tree in the placement's layout as host arrays [R, …]."""
        tree = jax.device_get(tree)
        if self._stacked:
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
        return tree

    @property
    def _stacked(self) -> bool:
        return self.placement.n_devices > 1 and self.placement.split == "runs"


class CompiledTraining(PlacedRuns):
    """Runs, placed and compiled: calling it takes every unfinished run to its next validation.

    Programs are compiled once for each set of shapes, when they are first needed or planned. For `devices`
    that are not here they can be compiled, not called.
    """

    def __init__(self, setup: Setup, placement: Placement, devices: Sequence[jax.Device] | None = None):
        self.setup, self.placement = setup, placement
        self._programs: dict[Any, Any] = {}
        self._parts = ()
        many = functools.partial(_train_until_validation, setup, placement)
        donate = {"donate_argnums": 0}
        if placement.n_devices == 1:
            device = None if devices is None else devices[0]
            self._call = jitted(functools.partial(many, 0), device, **donate)
            return
        devices = (jax.local_devices() if devices is None else devices)[: placement.n_devices]
        if placement.split == "runs":
            self._call = MAPPED(functools.partial(many, 0), devices, (0, None, None), 0, donate)
        else:
            self._call = MAPPED(many, devices, (0, None, None, None), None, {})
            self._parts = (np.arange(placement.n_devices),)

    def __call__(self, runs: Run, train, validation) -> tuple[Run, dict[str, Any]]:
        """(runs, reports): runs in the placement's layout, reports with leading axis R."""
        arguments = *self._parts, runs, train, validation
        runs, reports = self._program(*arguments)(*arguments)
        return runs, self.fetch(reports)

    def bytes(self, runs: Run, train, validation) -> int:
        """Memory of one device, of the host for a CPU, that calls will take, as the compiler plans it.

        Takes runs [R, …] and lists, or anything with those shapes and types.
        """
        sharing = self.placement.n_devices if self.placement.platform == "cpu" else 1
        _, arguments = self.uncompiled(runs, train, validation)
        return planned_bytes(self._program(*arguments)) * sharing

    def uncompiled(self, runs: Run, train, validation):
        """What is compiled for the same: a function with `lower`, and its arguments in shapes."""
        if self._stacked:
            shape = self.placement.n_devices, -1
            runs = jax.eval_shape(
                functools.partial(jax.tree.map, lambda x: x.reshape(*shape, *x.shape[1:])), runs
            )
        return self._call, (*self._parts, runs, train, validation)

    def _program(self, *arguments):
        """The program for arguments of these shapes."""
        shapes = tuple((x.shape, np.dtype(x.dtype)) for x in jax.tree.leaves(arguments))
        if shapes not in self._programs:
            # Arrays, not shapes alone: of these pmap makes none where JAX counts several processes.
            like = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), arguments)
            self._programs[shapes] = self._call.lower(*like).compile()
        return self._programs[shapes]


@functools.partial(jax.jit, static_argnums=0)
def start_runs(setup: Setup, seeds, hyper: Hyper | None = None) -> Run:
    """Runs [R, …] before their first step, for seeds [R] and their numbers [R, …] or the configured ones."""
    start = functools.partial(run.start, setup)
    return jax.vmap(lambda seed, hyper: start(seed, 0, hyper))(jnp.asarray(seeds, jnp.uint32), hyper)


@functools.partial(jax.jit, static_argnums=0)
def try_runs_again(setup: Setup, runs: Run) -> Run:
    """Runs [R, …] with those that may try again at the start of their next attempt."""
    return jax.vmap(functools.partial(run.try_again, setup))(runs)


def _train_until_validation(setup: Setup, placement: Placement, part, runs: Run, train, validation):
    """Every run of this device one stretch on."""
    shares = placement.n_devices if placement.split == "batch" else 1
    one = functools.partial(
        run.train_until_validation,
        setup,
        train=train,
        validation=validation,
        part=part,
        n_parts=shares,
        axis="devices" if shares > 1 else None,
        kernel=placement.kernel,
    )
    return jax.vmap(one)(runs) if placement.vectorize else jax.lax.map(one, runs)
