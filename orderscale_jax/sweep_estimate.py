"""How long training takes and how much memory, before it is done.

Work is counted by tracing one gradient step of each model, without compiling it; how fast this
machine does such work is measured by a short stretch. Good to a factor of two or three.
"""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax import scales, training
from orderscale_jax.devices import start_runs
from orderscale_jax.ensemble import Ensemble
from orderscale_jax.model import ModelConfig
from orderscale_jax.task import make_split
from orderscale_jax.training import Setup

TRACED_LISTS = 1024
MEASURED_RUNS = 64  # on each device that advances runs together
BYTE_WORK = 0.3  # arithmetic that takes as long as a byte read or written, from 2 and 3 layers on a CPU
FLOAT = 4  # bytes


def work(setup: Setup) -> float:
    """Arithmetic and memory traffic of one training step, in operations."""
    return _work(setup.model) * setup.train.batch_size / TRACED_LISTS


@functools.cache
def _work(model: ModelConfig) -> float:
    params = jax.eval_shape(lambda: training.init_params(model, jax.random.key(0)))
    lists = jax.ShapeDtypeStruct((TRACED_LISTS, model.list_len), jnp.int32)
    gradient = jax.jit(jax.grad(functools.partial(training.loss, model)))
    cost = gradient.lower(params, lists).cost_analysis()
    return cost.get("flops", 0.0) + BYTE_WORK * cost.get("bytes accessed", 0.0)


def memory_bytes(setup: Setup) -> int:
    """What one run needs on a device: weights, both moments, best weights, gradient, activations.

    The activations are fitted to what XLA reports for the compiled program on a CPU.
    """
    model, train = setup.model, setup.train
    params = jax.eval_shape(lambda: training.init_params(model, jax.random.key(0)))
    n_params = sum(x.size for x in jax.tree.leaves(params))
    per_list = 3 * model.list_len * model.d_vocab
    if not scales.pays(model):
        residual = 2 * model.list_len + 1  # positions
        copies = 4.5 + 2.5 * model.layer_norm + model.learn_wv + model.learn_wo + 12 * model.mlp
        per_list += copies * residual * model.d_model * max(1, model.n_layers - 1)
    return int(FLOAT * (6 * n_params + per_list * train.batch_size))


@dataclasses.dataclass(frozen=True)
class Speed:
    """What this machine does.

    Attributes:
      work_per_second: by whether the model is trained in scales, over all devices.
      compile_seconds: of one program, without the compilation cache.
    """

    work_per_second: dict[bool, float]
    compile_seconds: float

    def seconds(self, setup: Setup, n_runs: int) -> float:
        """For runs that go on to `max_steps`, compilation included."""
        rate = self.work_per_second[scales.pays(setup.model)]
        return self.compile_seconds + n_runs * setup.train.max_steps * work(setup) / rate


def measure(setups: list[Setup]) -> Speed:
    """Trains one stretch of the smallest setup of each form of the model."""
    rates, compilations = {}, []
    for form in {scales.pays(setup.model) for setup in setups}:
        setup = min((s for s in setups if scales.pays(s.model) == form), key=work)
        endless = {"max_steps": 2 * setup.train.eval_every, "target_accuracy": 2.0, "patience": None}
        setup = dataclasses.replace(setup, train=dataclasses.replace(setup.train, **endless))
        n_runs = jax.local_device_count() * (1 if jax.local_devices()[0].platform == "cpu" else MEASURED_RUNS)
        ensemble = Ensemble(setup, make_split(setup.task), start_runs(setup, np.arange(n_runs)))
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            lines = ensemble.advance()
            seconds.append(time.perf_counter() - began)
        rates[form] = len(lines) * setup.train.eval_every * work(setup) / seconds[1]
        compilations.append(max(0.0, seconds[0] - seconds[1]))
    return Speed(rates, float(np.mean(compilations)))
