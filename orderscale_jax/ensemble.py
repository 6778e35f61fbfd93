"""Many training runs at once, on the host's side: what goes to the devices, and when it is done.

Dimensions: R runs.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from orderscale_jax import training
from orderscale_jax.config import model_config, task_config, train_config
from orderscale_jax.devices import Advance, memory, place, retry_runs, start_runs
from orderscale_jax.task import Split, make_split
from orderscale_jax.training import Run, Setup

# A sweep asks for the same lists and the same program again and again.
_split = functools.lru_cache(maxsize=2)(make_split)
_compiled = functools.lru_cache(maxsize=4)(Advance)


def make_setup(config: ml_collections.ConfigDict) -> tuple[Setup, Split]:
    """What a configuration trains, and on which lists.

    Raises:
      ValueError: an option is wrong, or the batch is larger than the training set.
    """
    setup = Setup(model_config(config), task_config(config), train_config(config))
    split = _split(setup.task)
    if split.train is None:
        setup = dataclasses.replace(setup, train=dataclasses.replace(setup.train, batches="sampled"))
    elif setup.train.batches != "sampled" and setup.train.batch_size > len(split.train):
        raise ValueError(
            f"train.batch_size={setup.train.batch_size} is larger than the training set of "
            f"{len(split.train)} lists: give --config.train.batch_size={len(split.train)} or less"
        )
    return setup, split


class Ensemble:
    """R runs on their way to their end, each as if it were alone.

    Runs that are done stop costing time: where runs take turns they are skipped, where they advance
    together they leave the program once half of it is done. Runs for which the devices have no memory
    wait until others are done.
    """

    def __init__(self, setup: Setup, split: Split, runs: Run):
        """`runs` [R, …] as `devices.start_runs` or `state` gave them."""
        self.setup = setup
        self._lists, self._validation = _device_lists(split)
        self._runs = jax.device_get(runs)
        self._done = np.array(self._runs.done)
        self._fitting = len(self._done)  # how many fit, as far as is known
        if not self.done:
            self._load(np.flatnonzero(~self._done))

    @property
    def done(self) -> bool:
        return bool(self._done.all())

    @property
    def placement(self):
        return self._advance.placement

    def advance(self) -> list[dict[str, Any]]:
        """Takes every unfinished run to its next validation; a report per run, with its `index`."""
        unfinished = ~self._done[self._group]
        self._loaded, reports = self._advance(self._loaded, self._lists, self._validation)
        done = np.asarray(reports["done"])
        if done[unfinished].any():
            runs = self._advance.fetch(self._loaded)
            again = np.asarray(training.retries_left(self.setup, runs))
            if again.any():
                self._loaded = self._advance.load(retry_runs(self.setup, runs))
                done = done & ~again
        lines = [
            {"index": int(self._group[i]), **{name: plain(values[i]) for name, values in reports.items()}}
            for i in np.flatnonzero(unfinished)
        ]
        for i, line in zip(np.flatnonzero(unfinished), lines, strict=True):
            line["done"] = bool(done[i])
        self._done[self._group] = done
        left = len(self._group) - int(done.sum())
        if not self.done and (left == 0 or (self.placement.vectorize and 2 * left <= len(self._group))):
            self._runs = self.state()
            self._load(np.flatnonzero(~self._done))
        return lines

    def state(self) -> Run:
        """All runs [R, …] on the host."""
        if not hasattr(self, "_loaded"):
            return self._runs
        current = self._advance.fetch(self._loaded)

        def merge(all_runs, group):
            merged = np.array(all_runs)
            merged[self._group] = group
            return merged

        return jax.tree.map(merge, self._runs, current)

    def _load(self, waiting: np.ndarray):
        """Puts the runs of these indices on the devices, or as many of them as fit."""
        self._loaded = None
        self._fitting = min(self._fitting, len(waiting))
        while True:
            size = self._fitting
            self._group = waiting[:size]
            self._advance = _compiled(self.setup, place(size, self.setup.train.batch_size))
            runs = jax.tree.map(lambda x: x[self._group], self._runs)
            if size == 1 or self._advance.bytes(runs, self._lists, self._validation) <= memory():
                break
            self._fitting = (size + 1) // 2
        self._loaded = self._advance.load(runs)


def planned_bytes(setup: Setup, split: Split, n_runs: int) -> int:
    """Memory of one device, of the host for a CPU, that so many runs at once will take.

    It is what the compiler plans for their program, which is compiled for it.
    """
    advance = _compiled(setup, place(n_runs, setup.train.batch_size))
    runs = jax.eval_shape(functools.partial(start_runs, setup), jax.ShapeDtypeStruct((n_runs,), jnp.uint32))
    return advance.bytes(runs, *_device_lists(split))


def _device_lists(split: Split):
    """Training and validation lists; where lists are sampled, any one stands for the training set."""
    train = split.validation[:1] if split.train is None else split.train
    return jnp.asarray(train), jnp.asarray(split.validation)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      seed, attempts: which run it was, and how often it was started.
      accuracy, sequence_accuracy, position_accuracy [n], loss: of its best weights on validation.
      steps: of all attempts; `best_step` of them led to the best weights, `transition_step` to the
        first validation above 0.75 (None if there was none).
      params: the best weights.
    """

    seed: int
    attempts: int
    accuracy: float
    sequence_accuracy: float
    position_accuracy: list[float]
    loss: float
    steps: int
    best_step: int
    transition_step: int | None
    params: Any


def results(setup: Setup, split: Split, runs: Run) -> list[Result]:
    """The results of runs [R, …], their best weights evaluated in turn."""
    best = jax.tree.map(jnp.asarray, runs.best_params)
    scores = jax.device_get(_evaluate(setup, best, jnp.asarray(split.validation)))
    found = []
    for i, seed in enumerate(np.asarray(runs.seed)):
        transition = int(runs.transition_step[i])
        found.append(
            Result(
                seed=int(seed),
                attempts=int(runs.attempt[i]) + 1,
                accuracy=float(scores["val_accuracy"][i]),
                sequence_accuracy=float(scores["val_sequence_accuracy"][i]),
                position_accuracy=plain(scores["val_position_accuracy"][i]),
                loss=float(scores["val_loss"][i]),
                steps=int(runs.total_steps[i]),
                best_step=int(runs.best_step[i]),
                transition_step=transition if transition >= 0 else None,
                params=jax.tree.map(lambda x, i=i: np.asarray(x[i]), runs.best_params),
            )
        )
    return found


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(setup: Setup, params, validation):
    return jax.lax.map(lambda of_run: training.evaluate(setup, of_run, validation), params)


def plain(value):
    """An array as JSON can hold it; what is not a number becomes None."""
    value = np.asarray(value)
    if value.ndim:
        return [plain(entry) for entry in value]
    value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
