"""How long training takes, before it is done, and which of several setups needs most memory.

Work is counted by tracing one gradient step of each model, without compiling it; how long this machine
takes for the least and the most of it is measured by short stretches. Good to a factor of two or three.
"""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax.config import Setup
from orderscale_jax.model import ModelConfig, init_params, scales
from orderscale_jax.task import make_split
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble
from orderscale_jax.training.step import loss

TRACED_LISTS = 1024
MEASURED_RUNS = 64  # on each device that advances runs together
MEASURED_STEPS = 20
BYTE_WORK = 0.3  # arithmetic that takes as long as a byte read or written, from 2 and 3 layers on a CPU
FLOAT = 4  # bytes


def work(setup: Setup) -> float:
    """Arithmetic and memory traffic of one training step, in operations."""
    return _work(setup.model) * setup.train.batch_size / TRACED_LISTS


@functools.cache
def _work(model: ModelConfig) -> float:
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    lists = jax.ShapeDtypeStruct((TRACED_LISTS, model.list_len), jnp.int32)
    gradient = jax.jit(jax.grad(functools.partial(loss, model)))
    cost = gradient.lower(params, lists).cost_analysis()
    return cost.get("flops", 0.0) + BYTE_WORK * cost.get("bytes accessed", 0.0)


def rough_bytes(setup: Setup) -> float:
    """What one run keeps and computes with, in arrays: good enough to tell which of several needs most."""
    model, train = setup.model, setup.train
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    kept = 6 * sum(x.size for x in jax.tree.leaves(params))  # weights, moments, best weights, gradient
    per_list = model.list_len * model.d_vocab
    if not scales.is_faster(model):
        per_list += (2 * model.list_len + 1) * model.d_model * model.n_layers
    n_validated = min(train.eval_batch_size, (1 - setup.task.train_fraction) * setup.task.n_lists)
    return FLOAT * (kept + per_list * max(train.batch_size, n_validated))


@dataclasses.dataclass(frozen=True)
class Speed:
    """What this machine does.

    Attributes:
      points: by whether the model is trained in scales: (work, seconds of a step of one run) of the
        least and the most work, over all devices.
      compile_seconds: of one program, without the compilation cache.
    """

    points: dict[bool, tuple[tuple[float, float], ...]]
    compile_seconds: float

    def seconds(self, setup: Setup, n_runs: int) -> float:
        """For runs that go on to `max_steps`, compilation included."""
        amounts, seconds = zip(*self.points[scales.is_faster(setup.model)], strict=True)
        step = np.interp(work(setup), amounts, seconds)
        return self.compile_seconds + n_runs * setup.train.max_steps * float(step)


def measure(setups: list[Setup]) -> Speed:
    """Trains a short stretch of the smallest and of the largest setup of each form of the model."""
    points, compilations = {}, []
    for form in {scales.is_faster(setup.model) for setup in setups}:
        ordered = sorted((setup for setup in setups if scales.is_faster(setup.model) == form), key=work)
        found = [_stretch(setup) for setup in dict.fromkeys((ordered[0], ordered[-1]))]
        points[form] = tuple((amount, seconds) for amount, seconds, _ in found)
        compilations += [compilation for *_, compilation in found]
    return Speed(points, float(np.mean(compilations)))


def _stretch(setup: Setup) -> tuple[float, float, float]:
    """Work of a step, its seconds for one run where all devices are busy, and those of compiling it."""
    endless = {
        "eval_every": MEASURED_STEPS,
        "max_steps": 4 * MEASURED_STEPS,
        "target_accuracy": 2.0,
        "patience": None,
    }
    setup = dataclasses.replace(setup, train=dataclasses.replace(setup.train, **endless))
    n_runs = jax.local_device_count() * (1 if jax.local_devices()[0].platform == "cpu" else MEASURED_RUNS)
    ensemble = Ensemble(setup, make_split(setup.task), start_runs(setup, np.arange(n_runs)))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        ensemble.advance()
        seconds.append(time.perf_counter() - began)
    stretch = min(seconds[1:])
    return work(setup), stretch / (n_runs * MEASURED_STEPS), max(0.0, seconds[0] - stretch)
