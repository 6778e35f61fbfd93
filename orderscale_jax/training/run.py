"""A run as a pure function of its seed: its start, its stretches, its attempts.

A run is a pytree that holds everything it needs, its seed included, so that many runs are one run
with a leading axis. All that decides where a run goes (batches, validation, stopping, attempts,
the best weights so far) happens inside the compiled stretch.

Dimensions: B lists.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from orderscale_jax.config import TRANSITION_ACCURACY, Setup
from orderscale_jax.model import init_params
from orderscale_jax.task import N_SAMPLED_VALIDATION, TaskConfig
from orderscale_jax.training.batches import training_batch
from orderscale_jax.training.hyper import Hyper, hyper_of, scaled
from orderscale_jax.training.step import evaluate, has_noise, optimizer, schedule, score_rule, train_step

MOST_TRAINING_LISTS = 2**16  # that a validation scores; the first ones of larger training sets
MOST_LISTS_DRAWN = 2**17  # of a run at once, before its steps: `permuted` loops once for all of them
OF_TRAINING_LISTS = "accuracy", "sequence_accuracy"  # what it tells of them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Run:
    """The whole state of one training run (scalars are arrays []).

    Attributes:
      seed: names the run; with `attempt` it decides initialisation and batches.
      attempt: which attempt this is, from 0.
      step: steps of this attempt.
      total_steps: steps of all attempts.
      params, optimizer: weights and optimiser state.
      hyper: its learning rate and what else may differ between runs of one program.
      attempt_accuracy: the best validation accuracy of this attempt.
      stale: validations since then.
      transition_step: first validated step of this attempt above TRANSITION_ACCURACY, or -1.
      diverged_step: the step of this attempt at whose validation weights or loss were not finite, which
        ended it; or -1.
      best_params: the finite weights with the best validation accuracy of all attempts; before the first
        such validation, and if there is none, the initial ones.
      best_accuracy, best_scores: theirs, and all that `evaluate` gave for them.
      best_attempt, best_step, best_transition_step: the attempt that had them, the step of it at which
        they were met, and its `transition_step`.
      done: nothing is left to do.
    """

    seed: jax.Array
    attempt: jax.Array
    step: jax.Array
    total_steps: jax.Array
    params: Any
    optimizer: Any
    hyper: Hyper
    attempt_accuracy: jax.Array
    stale: jax.Array
    transition_step: jax.Array
    diverged_step: jax.Array
    best_params: Any
    best_accuracy: jax.Array
    best_scores: dict[str, jax.Array]
    best_attempt: jax.Array
    best_step: jax.Array
    best_transition_step: jax.Array
    done: jax.Array


def start(setup: Setup, seed, attempt=0, hyper: Hyper | None = None) -> Run:
    """A run before its first step; its numbers default to the configured ones."""
    hyper = hyper_of(setup.train) if hyper is None else hyper
    count, number = (functools.partial(jnp.asarray, dtype=dtype) for dtype in (jnp.int32, float))
    seed = jnp.asarray(seed, jnp.uint32)
    params = scaled(setup, hyper, init_params(setup.model, _key(seed, attempt, "init")))
    return Run(
        seed=seed,
        attempt=count(attempt),
        step=count(0),
        total_steps=count(0),
        params=params,
        optimizer=optimizer(setup, hyper).init(params),
        hyper=hyper,
        attempt_accuracy=number(-1.0),
        stale=count(0),
        transition_step=count(-1),
        diverged_step=count(-1),
        best_params=params,
        best_accuracy=number(-1.0),
        best_scores=_unknown(setup),
        best_attempt=count(attempt),
        best_step=count(0),
        best_transition_step=count(-1),
        done=jnp.asarray(False),
    )


def attempts_left(setup: Setup, run: Run):
    """Whether a run ended below `min_accuracy` and may try again."""
    another = run.attempt + 1 < setup.train.max_attempts
    return run.done & (run.best_accuracy < setup.train.min_accuracy) & another


def try_again(setup: Setup, run: Run) -> Run:
    """The run at the start of its next attempt if it may try again, otherwise unchanged."""
    fresh = start(setup, run.seed, run.attempt + 1, run.hyper)
    kept = [field.name for field in dataclasses.fields(Run) if field.name.startswith("best_")]
    fresh = dataclasses.replace(fresh, **{name: getattr(run, name) for name in (*kept, "total_steps")})
    return _where(attempts_left(setup, run), fresh, run)


def train_until_validation(
    setup: Setup,
    run: Run,
    train,
    validation,
    *,
    part=0,
    n_parts=1,
    axis: str | None = None,
    kernel: str | None = None,
):
    """Trains up to the next validation, validates, and decides what follows.

    Args:
      setup: static.
      run: the run; one that is done comes back unchanged.
      train: training lists [M, n] (any array where not all lists can be held).
      validation: lists [B, n].
      part, n_parts, axis: which share of each batch this device computes, of how many, and the
        name of the axis over which gradients are averaged.
      kernel: the one of `fused.KERNELS` that the device runs, if any.

    Returns:
      (run, report): report holds what a person wants to see of this stretch, as scalars.
    """
    return jax.lax.cond(
        run.done,
        lambda run: (run, _report(setup, run, jnp.nan, _unknown(setup))),
        lambda run: _train(setup, run, train, validation, part, n_parts, axis, kernel),
        run,
    )


def batches(setup: Setup, run: Run, steps, train, part=0, n_parts=1, kernel: str | None = None):
    """The lists [S, B, n] of some steps [S]; the other arguments are as for `train_until_validation`."""
    config, key = setup.train, _key(run.seed, run.attempt, "batches")

    def draw(step):
        return training_batch(
            config.batches, setup.task, config.batch_size, key, step, train, part, n_parts, kernel
        )

    return jax.vmap(draw)(steps)


def stepper(setup: Setup, run: Run, axis: str | None = None, kernel: str | None = None):
    """One step of a run: a function (params, optimizer state, step, lists) -> (params, state, loss)."""
    transform = optimizer(setup, run.hyper)

    def advance(params, state, step, lists):
        noise_key = None
        if has_noise(setup):
            noise_key = jax.random.fold_in(_key(run.seed, run.attempt, "noise"), step)
        return train_step(setup, run.hyper, transform, params, state, lists, step, axis, noise_key, kernel)

    return advance


def _train(setup, run, train, validation, part, n_parts, axis, kernel):
    config, step = setup.train, stepper(setup, run, axis, kernel)
    n_steps = config.eval_every
    most = max(1, MOST_LISTS_DRAWN // config.batch_size)
    block = max(size for size in range(1, min(most, n_steps) + 1) if n_steps % size == 0)
    n_blocks, is_short = n_steps // block, config.max_steps % n_steps > 0
    if is_short:  # a trip count of its own for every run costs copies under vmap
        n_steps = jnp.minimum(n_steps, config.max_steps - run.step)

    def train_block(i, carry):
        first = run.step + i * block
        drawn = batches(setup, run, first + jnp.arange(block), train, part, n_parts, kernel)

        def body(j, carry):
            params, state, total = carry
            params, state, value = step(params, state, first + j, drawn[j])
            return params, state, total + value

        n_steps_of_block = jnp.minimum(block, n_steps - i * block) if is_short else block
        return jax.lax.fori_loop(0, n_steps_of_block, body, carry)

    carry = run.params, run.optimizer, jnp.zeros(())
    params, state, total = jax.lax.fori_loop(0, n_blocks, train_block, carry)
    rule = score_rule(setup, run.hyper, run.step + n_steps)
    found = evaluate(setup, params, validation, rule, kernel)
    scores = {f"val_{name}": score for name, score in found.items()}
    if setup.task.is_exhaustive:
        seen = evaluate(setup, params, train[:MOST_TRAINING_LISTS], rule, kernel)
        scores |= {f"train_{name}": seen[name] for name in OF_TRAINING_LISTS}
    run = dataclasses.replace(
        run, params=params, optimizer=state, step=run.step + n_steps, total_steps=run.total_steps + n_steps
    )
    run = _judge(setup, run, scores)
    return run, _report(setup, run, total / n_steps, scores)


def lists_scored(task: TaskConfig) -> tuple[int, int]:
    """How many validation and training lists a validation scores; where lists are split by whole sets of
    digits, about so many."""
    if not task.is_exhaustive:
        return N_SAMPLED_VALIDATION, 0
    n_train = int(task.train_fraction * task.n_shared_out)
    duplicates = task.n_digits if task.duplicates == "train_only" else 0
    return task.n_shared_out - n_train, min(n_train + duplicates, MOST_TRAINING_LISTS)


def _judge(setup: Setup, run: Run, scores) -> Run:
    """Notes the scores of a validation: best weights, patience, whether the attempt is over or diverged."""
    config, accuracy = setup.train, scores["val_accuracy"]
    is_finite = jnp.isfinite(scores["val_loss"])
    for array in jax.tree.leaves(run.params):
        is_finite &= jnp.isfinite(array).all()
    better = is_finite & (accuracy > run.best_accuracy)
    improved = accuracy > run.attempt_accuracy
    stale = jnp.where(improved, 0, run.stale + 1)
    over = (accuracy >= config.target_accuracy) | (run.step >= config.max_steps) | ~is_finite
    if config.patience is not None:
        over |= (stale >= config.patience) & (accuracy >= config.patience_threshold)
    broke_through = (run.transition_step < 0) & (accuracy > TRANSITION_ACCURACY)
    transition_step = jnp.where(broke_through, run.step, run.transition_step)
    return dataclasses.replace(
        run,
        attempt_accuracy=jnp.where(improved, accuracy, run.attempt_accuracy),
        stale=stale,
        transition_step=transition_step,
        diverged_step=jnp.where(is_finite, -1, run.step),
        best_params=_where(better, run.params, run.best_params),
        best_accuracy=jnp.where(better, accuracy, run.best_accuracy),
        best_scores=_where(better, scores, run.best_scores),
        best_attempt=jnp.where(better, run.attempt, run.best_attempt),
        best_step=jnp.where(better, run.step, run.best_step),
        best_transition_step=jnp.where(better, transition_step, run.best_transition_step),
        done=over,
    )


def _report(setup: Setup, run: Run, train_loss, scores):
    rate = run.hyper.learning_rate
    if setup.train.schedule == "cosine":
        rate = rate * schedule(setup.train, run.step)
    return {
        "seed": run.seed,
        "attempt": run.attempt + 1,
        "step": run.step,
        "total_steps": run.total_steps,
        "learning_rate": rate,
        "train_loss": jnp.asarray(train_loss),
        **scores,
        "best_accuracy": run.best_accuracy,
        "diverged": run.diverged_step >= 0,
        "done": run.done,
    }


def _unknown(setup: Setup):
    """The scores of a run that was not run."""
    nan = jnp.full((), jnp.nan)
    per_position = jnp.full(setup.model.list_len, jnp.nan)
    names = ["val_loss", "val_accuracy", "val_sequence_accuracy"]
    if setup.task.is_exhaustive:
        names += [f"train_{name}" for name in OF_TRAINING_LISTS]
    return {**{name: nan for name in names}, "val_position_accuracy": per_position}


def _key(seed, attempt, purpose: str):
    """The typed key of one purpose of one attempt."""
    key = jax.random.fold_in(jax.random.key(seed), attempt)
    return jax.random.fold_in(key, ("init", "batches", "noise").index(purpose))


def _where(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
