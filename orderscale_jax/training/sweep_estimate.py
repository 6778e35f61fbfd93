"""How long a sweep takes and what it holds in memory, before it is run.

How long this machine takes for a step is measured, on the cells with the least and the most work of
each form of the model; other cells lie between by their work, which is counted by tracing one gradient
without compiling it. Only a step is compiled, not a whole training program, so an estimate costs seconds.
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
from orderscale_jax.training.step import loss, optimizer, train_step

TRACED_LISTS = 1024
MEASURED_RUNS = 64  # on each device that advances runs together
MEASURED_STEPS = 10
MEASURED_TIMES = 3
BYTE_WORK = 0.3  # arithmetic that takes as long as a byte read or written, from 2 and 3 layers on a CPU
PROGRAM_OVER_STEP = 4  # compiling what trains, over compiling its step: 3 to 5 for Table 4 on 2 CPU cores
FLOAT = 4  # bytes


def work(setup: Setup) -> float:
    """Arithmetic and memory traffic of one training step, in operations."""
    return _work(setup.model) * setup.train.batch_size / TRACED_LISTS


@functools.cache
def _work(model: ModelConfig) -> float:
    lists = jax.ShapeDtypeStruct((TRACED_LISTS, model.list_len), jnp.int32)
    gradient = jax.jit(jax.grad(functools.partial(loss, model)))
    cost = gradient.lower(_shapes(model), lists).cost_analysis()
    return cost.get("flops", 0.0) + BYTE_WORK * cost.get("bytes accessed", 0.0)


def _shapes(model: ModelConfig):
    """The shapes of a model's weights."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def rough_bytes(setup: Setup) -> float:
    """What one run keeps and computes with, in arrays; a compiler plans one to two times as much."""
    model, train = setup.model, setup.train
    kept = 6 * sum(x.size for x in jax.tree.leaves(_shapes(model)))  # weights, moments, best, gradient
    per_list = 2 * model.list_len * model.d_vocab  # logits and their gradient
    if not scales.is_faster(model):
        per_list += (2 * model.list_len + 1) * model.d_model * model.n_layers
    n_validated = min(train.eval_batch_size, (1 - setup.task.train_fraction) * setup.task.n_lists)
    return FLOAT * (kept + per_list * max(train.batch_size, n_validated))


@dataclasses.dataclass(frozen=True)
class Speed:
    """What this machine does.

    Attributes:
      points: by whether the model is trained in scales: (work, seconds of a step of one run) of the
        least and the most work, all devices being busy.
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
    """Times a few steps of the smallest and of the largest setup of each form of the model."""
    points, compilations = {}, []
    for form in sorted({scales.is_faster(setup.model) for setup in setups}):
        ordered = sorted((setup for setup in setups if scales.is_faster(setup.model) == form), key=work)
        found = {work(setup): _time_step(setup) for setup in (ordered[0], ordered[-1])}
        points[form] = tuple((amount, seconds) for amount, (seconds, _) in found.items())
        compilations += [compilation for _, compilation in found.values()]
    return Speed(points, PROGRAM_OVER_STEP * float(np.mean(compilations)))


def _time_step(setup: Setup) -> tuple[float, float]:
    """Seconds of a step of one run where all devices are busy, and those of compiling it."""
    devices = jax.local_devices()
    runs = 1 if devices[0].platform == "cpu" else MEASURED_RUNS
    generator = np.random.default_rng(0)  # compiling `start_runs` takes longer than all the rest
    like, lead = _shapes(setup.model), (len(devices), *([runs] if runs > 1 else []))
    params = jax.tree.map(lambda x: generator.normal(0, 0.1, lead + x.shape).astype(x.dtype), like)
    size = setup.train.batch_size, setup.task.list_len
    lists = jnp.asarray(generator.integers(setup.task.n_digits, size=size), jnp.int32)
    transform = optimizer(setup.train, setup.train.learning_rate, setup.train.weight_decay)

    def steps(params, lists):
        def one_step(_, carry):
            return train_step(setup, transform, *carry, lists)[:2]

        return jax.lax.fori_loop(0, MEASURED_STEPS, one_step, (params, transform.init(params)))[0]

    began = time.perf_counter()
    many = steps if runs == 1 else jax.vmap(steps, in_axes=(0, None))
    compiled = jax.pmap(many, in_axes=(0, None), devices=devices).lower(params, lists).compile()
    compilation = time.perf_counter() - began
    jax.block_until_ready(compiled(params, lists))
    seconds = []
    for _ in range(MEASURED_TIMES):
        began = time.perf_counter()
        jax.block_until_ready(compiled(params, lists))
        seconds.append(time.perf_counter() - began)
    return min(seconds) / (len(devices) * runs * MEASURED_STEPS), compilation
