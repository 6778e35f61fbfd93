"""How long a sweep takes, before it is run.

How long this machine takes for a step is measured, on the cells with the least and the most work of
each form of the model; other cells lie between by their work. Only a step is compiled, not a whole
training program, so an estimate costs seconds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax.config import Setup
from orderscale_jax.model import ModelConfig, init_params, scales
from orderscale_jax.training.hyper import hyper_of
from orderscale_jax.training.run import lists_scored
from orderscale_jax.training.step import optimizer, train_step

MEASURED_RUNS = 64  # on each device that advances runs together
MEASURED_STEPS = 10  # at most; fewer where a step is slow
MEASURED_SECONDS = 0.3  # of steps, about, in one measurement
MEASURED_TIMES = 3
PROGRAM_OVER_STEP = 4  # compiling what trains, over compiling its step: 3 to 5 for Table 4 on 2 CPU cores


def work(setup: Setup) -> float:
    """What a training step costs, in numbers that tell cells of one form of the model apart."""
    model, n = setup.model, setup.model.list_len
    readout = n * model.d_model * model.d_vocab
    if scales.is_faster(model):  # a few numbers per list and logit; the tables once per step
        per_list = n * (n + model.n_layers) * model.n_layers * model.d_vocab
        return setup.train.batch_size * per_list + 2 * readout * model.n_digits
    # Positions by the layers in which they still matter, times the matrices that each goes through.
    positions = sum(
        n * (left > 1) + (left > 0) + n * (left < model.n_layers - 1) for left in range(model.n_layers)
    )
    matrices = 2 + model.learn_wv + model.learn_wo + 8 * model.mlp
    passes = 2 * model.n_positions * (1 + 4 * model.layer_norm + model.bias)
    per_position = model.d_model * (model.d_model * matrices + passes)
    return setup.train.batch_size * (positions * per_position + readout)


def validation_work(setup: Setup) -> float:
    """What validations cost beside training: lists scored over lists trained on, a forward pass being about
    a third of a step."""
    return sum(lists_scored(setup.task)) / (3 * setup.train.eval_every * setup.train.batch_size)


def _shapes(model: ModelConfig):
    """The shapes of a model's weights."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


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
        step *= 1 + validation_work(setup)
        return self.compile_seconds + n_runs * setup.train.max_steps * float(step)


def measure(setups: list[Setup]) -> Speed:
    """Times a few steps of the smallest and of the largest setup of each form of the model."""
    ends = {}
    for form in sorted({scales.is_faster(setup.model) for setup in setups}):
        ordered = sorted((setup for setup in setups if scales.is_faster(setup.model) == form), key=work)
        ends[form] = {work(setup): setup for setup in (ordered[0], ordered[-1])}
    began = time.perf_counter()
    with ThreadPoolExecutor() as pool:  # compilers leave the other threads alone
        jobs = {
            form: [pool.submit(_compile_steps, setup) for setup in of.values()] for form, of in ends.items()
        }
        programs = {form: [job.result() for job in of] for form, of in jobs.items()}
    compile_seconds = (time.perf_counter() - began) / sum(map(len, ends.values()))
    points = {form: tuple(zip(of, map(_time_step, programs[form]), strict=True)) for form, of in ends.items()}
    return Speed(points, PROGRAM_OVER_STEP * compile_seconds)


def _compile_steps(setup: Setup) -> Callable[[int], Any]:
    """A function that takes so many steps of a run, or of MEASURED_RUNS, on every device."""
    devices = jax.local_devices()
    generator = np.random.default_rng(0)  # compiling `start_runs` takes longer than all the rest
    like, lead = _shapes(setup.model), (len(devices), *([_runs_measured()] if _runs_measured() > 1 else []))
    params = jax.tree.map(lambda x: generator.normal(0, 0.1, lead + x.shape).astype(x.dtype), like)
    size = setup.train.batch_size, setup.task.list_len
    lists = jnp.asarray(generator.integers(setup.task.n_digits, size=size), jnp.int32)
    hyper = hyper_of(setup.train)
    transform = optimizer(setup, hyper)

    def steps(params, lists, n_steps):
        def one_step(step, carry):
            return train_step(setup, hyper, transform, *carry, lists, step)[:2]

        return jax.lax.fori_loop(0, n_steps, one_step, (params, transform.init(params)))[0]

    many = steps if _runs_measured() == 1 else jax.vmap(steps, in_axes=(0, None, None))
    placed = jax.pmap(many, in_axes=(0, None, None), devices=devices)
    compiled = placed.lower(params, lists, np.int32(1)).compile()
    return lambda n_steps: jax.block_until_ready(compiled(params, lists, np.int32(n_steps)))


def _time_step(steps: Callable[[int], Any]) -> float:
    """Seconds of a step of one run where all devices are busy."""

    def seconds(n_steps: int) -> float:
        began = time.perf_counter()
        steps(n_steps)
        return (time.perf_counter() - began) / n_steps

    n_steps = int(np.clip(MEASURED_SECONDS / seconds(1), 1, MEASURED_STEPS))
    step = min(seconds(n_steps) for _ in range(MEASURED_TIMES))
    return step / (jax.local_device_count() * _runs_measured())


def _runs_measured() -> int:
    """Runs on each device: on a CPU they take turns, so one tells as much as many."""
    return 1 if jax.local_devices()[0].platform == "cpu" else MEASURED_RUNS
