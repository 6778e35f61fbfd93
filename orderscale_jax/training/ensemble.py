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

from orderscale_jax.config import Setup, check_config, model_config, overridden, task_config, train_config
from orderscale_jax.errors import UserError
from orderscale_jax.files import plain
from orderscale_jax.host import in_words
from orderscale_jax.model import ModelConfig, scales
from orderscale_jax.task import Split, TaskConfig, make_split
from orderscale_jax.training.devices import CompiledTraining, memory, most_memory, place, try_runs_again
from orderscale_jax.training.run import Run, attempts_left
from orderscale_jax.training.size import check_size

# A sweep asks for the same lists and the same program again and again.
_compiled = functools.lru_cache(maxsize=4)(CompiledTraining)


@functools.lru_cache(maxsize=2)
def _split(task: TaskConfig) -> Split:
    split = make_split(task)
    for lists in (split.train, split.validation):
        if lists is not None:
            lists.flags.writeable = False  # they are shared
    return split


def make_setup(config: ml_collections.ConfigDict, n_processes: int = 1) -> tuple[Setup, Split]:
    """What a configuration trains, and on which lists; with how many processes that share out its runs.

    Raises:
      UserError: an option is wrong, this machine has not the memory for it, or the batch is larger than the
        training set.
    """
    check_config(config)
    setup = Setup(model_config(config), task_config(config), train_config(config))
    check_size(setup, -(-config.runs // n_processes))
    overridden(setup.model, setup.train.overrides)  # for its check
    if setup.train.scores != "free" and not _has_choice(setup.model):
        raise UserError(
            f"train.scores={setup.train.scores!r} is for plain models of two layers and more, in which an "
            "output chooses between keys, and which are small enough for the scale form"
        )
    split = _split(setup.task)
    if split.train is None:
        setup = dataclasses.replace(setup, train=dataclasses.replace(setup.train, batches="sampled"))
    elif setup.train.batches != "sampled" and setup.train.batch_size > len(split.train):
        raise UserError(
            f"train.batch_size={setup.train.batch_size} is larger than the training set of "
            f"{len(split.train)} lists: give --config.train.batch_size={len(split.train)} or less"
        )
    return setup, split


def _has_choice(model: ModelConfig) -> bool:
    """Whether the scale form has scores with which the last layer's outputs choose between keys."""
    return scales.is_faster(model) and model.n_layers > 1 and model.list_len > 1


class Ensemble:
    """R runs on their way to their end, each as if it were alone.

    Runs that are done stop costing time: where runs take turns they are skipped, where they advance
    together they leave the program once half of it is done. Runs for which the devices have no memory
    wait until others are done.

    Raises:
      UserError: the devices have no memory for a single run.
    """

    def __init__(self, setup: Setup, split: Split, runs: Run):
        """`runs` [R, …] as `devices.start_runs` or `state` gave them."""
        self.setup = setup
        self._lists, self._validation = device_lists(split)
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
        return self._training.placement

    def advance(self) -> list[dict[str, Any]]:
        """Takes every unfinished run to its next validation; a report per run, with its `index`."""
        unfinished = ~self._done[self._group]
        self._loaded, reports = self._training(self._loaded, self._lists, self._validation)
        done = np.asarray(reports["done"])
        if done[unfinished].any():
            runs = self._training.fetch(self._loaded)
            again = np.asarray(attempts_left(self.setup, runs))
            if again.any():
                self._loaded = self._training.load(try_runs_again(self.setup, runs))
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
        current = self._training.fetch(self._loaded)

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
            self._training = _compiled(self.setup, place(size, self.setup.train.batch_size))
            runs = jax.tree.map(lambda x: x[self._group], self._runs)
            needed = self._training.bytes(runs, self._lists, self._validation)
            if needed <= memory():
                break
            if size == 1:
                _check_one(needed)
                break
            self._fitting = (size + 1) // 2
        self._loaded = self._training.load(runs)


def _check_one(needed: int):
    """UserError if a device has not all the memory that is planned for one run."""
    if needed > (there_is := most_memory()):
        raise UserError(
            f"one run takes {in_words(needed)} of memory, as its program is planned, and there are "
            f"{in_words(there_is)}: give a smaller train.batch_size, train.eval_batch_size or model"
        )


def device_lists(split: Split):
    """Training and validation lists; where lists are sampled, any one stands for the training set."""
    train = split.validation[:1] if split.train is None else split.train
    return jnp.asarray(train), jnp.asarray(split.validation)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      seed: which run it was.
      attempts, steps: how often it was started, and the steps of all attempts together.
      accuracy, sequence_accuracy, position_accuracy [n], loss: of its best weights on validation, as they
        were measured when these weights were met.
      train_accuracy, train_sequence_accuracy: the same of the training lists (of at most 65,536); None where
        not all lists can be held.
      best_attempt, best_step: the attempt that led to them, from 1, and the step of it.
      transition_step: the first validated step of that attempt above TRANSITION_ACCURACY, None if there
        was none.
      diverged_step: the step of the last attempt at which it ended because weights or loss were not finite,
        None if they were. Where no validation was finite, the best weights are the initial ones, and
        accuracies and loss None.
      params: the best weights.
    """

    seed: int
    attempts: int
    steps: int
    accuracy: float
    sequence_accuracy: float
    position_accuracy: list[float]
    loss: float
    best_attempt: int
    best_step: int
    transition_step: int | None
    diverged_step: int | None
    params: Any
    train_accuracy: float | None = None
    train_sequence_accuracy: float | None = None


def result(runs: Run, i: int) -> Result:
    """The result of run i of R, as they are on the host."""
    scores = {name.removeprefix("val_"): plain(values[i]) for name, values in runs.best_scores.items()}
    transition, diverged = int(runs.best_transition_step[i]), int(runs.diverged_step[i])
    return Result(
        seed=int(runs.seed[i]),
        attempts=int(runs.attempt[i]) + 1,
        steps=int(runs.total_steps[i]),
        **scores,
        best_attempt=int(runs.best_attempt[i]) + 1,
        best_step=int(runs.best_step[i]),
        transition_step=transition if transition >= 0 else None,
        diverged_step=diverged if diverged >= 0 else None,
        params=jax.tree.map(lambda x: np.asarray(x[i]), runs.best_params),
    )
