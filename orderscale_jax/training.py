"""Training as pure functions of (state, lists, config): one step, and a compiled stretch of steps.

A run is a pytree that holds everything it needs, its seed included, so that many runs are one run
with a leading axis. All that decides where a run goes (batches, validation, stopping, retries,
the best weights so far) happens inside the compiled stretch.

Dimensions: B lists, V vocabulary, S steps.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from orderscale_jax import metrics, scales
from orderscale_jax.batches import training_batch
from orderscale_jax.config import TrainConfig
from orderscale_jax.model import ListTransformer, ModelConfig
from orderscale_jax.task import TaskConfig

CLIP_EPSILON = 1e-6  # added to the norm, as PyTorch's clip_grad_norm_ does


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is the same for every run of one program."""

    model: ModelConfig
    task: TaskConfig
    train: TrainConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Run:
    """The whole state of one training run (scalars are arrays []).

    Attributes:
      seed: names the run; with `attempt` it decides initialisation and batches.
      attempt: retries so far.
      step: steps of this attempt.
      total_steps: steps of all attempts.
      params, optimizer: weights and optimiser state.
      learning_rate, weight_decay: of this run.
      best_params: the weights with the best validation accuracy of all attempts.
      best_accuracy: theirs.
      best_step: where in `total_steps` they were met.
      attempt_accuracy: the best of this attempt.
      stale: validations since then.
      transition_step: first validated step (of all) with accuracy above 0.75, or -1.
      done: nothing is left to do.
    """

    seed: jax.Array
    attempt: jax.Array
    step: jax.Array
    total_steps: jax.Array
    params: Any
    optimizer: Any
    learning_rate: jax.Array
    weight_decay: jax.Array
    best_params: Any
    best_accuracy: jax.Array
    best_step: jax.Array
    attempt_accuracy: jax.Array
    stale: jax.Array
    transition_step: jax.Array
    done: jax.Array


TRANSITION_ACCURACY = 0.75  # between the plateau near 0.50 and the 0.9 beyond it


@functools.cache
def graphdef(config: ModelConfig):
    """The static part of a model, to be merged with its parameters."""
    model = nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)[0]


def bind(config: ModelConfig, params) -> ListTransformer:
    """The model with these parameters."""
    return nnx.merge(graphdef(config), params)


def init_params(config: ModelConfig, key):
    """Fresh parameters (Normal(0, 0.8/sqrt(d_model)); biases 0) for a typed key."""
    return nnx.state(ListTransformer(config, rngs=nnx.Rngs(params=key)), nnx.Param)


def optimizer(config: TrainConfig, learning_rate, weight_decay) -> optax.GradientTransformation:
    """AdamW with decoupled decay on every array, the schedule and the clipping of `config`."""
    steps = [optax.scale_by_adam(), optax.add_decayed_weights(weight_decay)]
    if config.schedule == "cosine":
        steps.append(optax.scale_by_learning_rate(lambda count: learning_rate * schedule(config, count)))
    else:
        steps.append(optax.scale_by_learning_rate(learning_rate))
    if config.max_grad_norm is not None:
        steps.insert(0, clip_by_global_norm(config.max_grad_norm))
    return optax.chain(*steps)


def schedule(config: TrainConfig, step):
    """Share of the learning rate at `step`: warm-up s/warmup, then a cosine to 0 at max_steps."""
    warmup = config.warmup_steps
    progress = (step - warmup) / max(1, config.max_steps - warmup)
    return jnp.where(step < warmup, step / max(1, warmup), 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))


def add_noise(gradient, ratio: float, key):
    """The gradient with Gaussian noise `ratio` times the root mean square of each array added to it."""
    arrays, structure = jax.tree.flatten(gradient)
    keys = jax.random.split(key, len(arrays))
    noisy = [
        array + ratio * jnp.sqrt(jnp.mean(array**2)) * jax.random.normal(key, array.shape, array.dtype)
        for array, key in zip(arrays, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales gradients by min(1, limit / (norm + 1e-6)), as published (optax leaves out the 1e-6)."""

    def update(updates, state, params=None):
        del params
        norm = jnp.sqrt(sum(jnp.sum(update**2) for update in jax.tree.leaves(updates)))
        scale = jnp.minimum(1.0, limit / (norm + CLIP_EPSILON))
        return jax.tree.map(lambda update: update * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def loss(config: ModelConfig, params, lists):
    """Mean cross-entropy of lists [B, n], by whichever form of the model is faster."""
    model = bind(config, params)
    if scales.pays(config):
        return scales.loss(model, lists)
    return metrics.cross_entropy(model(lists), lists)


def step(setup: Setup, transform, params, state, lists, axis: str | None = None, noise_key=None):
    """One optimiser step on lists [B, n]: (params, state, loss), averaged over a device axis.

    With `noise_key` the gradient gets the noise of `TrainConfig.gradient_noise`.
    """
    value, gradient = jax.value_and_grad(functools.partial(loss, setup.model))(params, lists)
    if axis is not None:
        value, gradient = jax.lax.pmean((value, gradient), axis)
    if noise_key is not None:
        gradient = add_noise(gradient, setup.train.gradient_noise, noise_key)
    updates, state = transform.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


@functools.partial(jax.jit, static_argnums=0)
def replay(setup: Setup, params, batches):
    """Trains on given batches [S, B, n] and returns (params, losses [S])."""
    transform = optimizer(setup.train, setup.train.learning_rate, setup.train.weight_decay)

    def body(carry, lists):
        *carry, value = step(setup, transform, *carry, lists)
        return tuple(carry), value

    with jax.default_matmul_precision("highest"):
        (params, _), losses = jax.lax.scan(body, (params, transform.init(params)), batches)
    return params, losses


def evaluate(setup: Setup, params, lists):
    """Loss, accuracy, sequence accuracy and accuracy per position [n] on lists [B, n]."""
    model = bind(setup.model, params)
    forward = functools.partial(scales.logits, model) if scales.pays(setup.model) else model

    def sums(lists, weights):
        logits = forward(lists)
        correct = metrics.is_correct(logits, lists) * weights[:, None]
        losses = metrics.token_losses(logits, lists) * weights[:, None]
        return {"loss": losses.sum(), "right": correct.sum(0), "lists_right": correct.all(-1).sum()}

    n_lists, size = len(lists), min(len(lists), setup.train.eval_batch_size)
    padding = -n_lists % size
    weights = jnp.pad(jnp.ones(n_lists), (0, padding)).reshape(-1, size)
    lists = jnp.pad(lists, ((0, padding), (0, 0))).reshape(-1, size, lists.shape[1])
    total = jax.tree.map(lambda x: x.sum(0), jax.lax.map(lambda part: sums(*part), (lists, weights)))
    return {
        "val_loss": total["loss"] / (n_lists * setup.model.list_len),
        "val_accuracy": total["right"].mean() / n_lists,
        "val_sequence_accuracy": total["lists_right"] / n_lists,
        "val_position_accuracy": total["right"] / n_lists,
    }


def start(setup: Setup, seed, attempt=0, learning_rate=None, weight_decay=None) -> Run:
    """A run before its first step; learning rate and decay default to the configured ones."""
    train = setup.train
    learning_rate = train.learning_rate if learning_rate is None else learning_rate
    weight_decay = train.weight_decay if weight_decay is None else weight_decay
    count, number = (
        functools.partial(jnp.asarray, dtype=jnp.int32),
        functools.partial(jnp.asarray, dtype=float),
    )
    seed = jnp.asarray(seed, jnp.uint32)
    params = init_params(setup.model, _key(seed, attempt, "init"))
    return Run(
        seed=seed,
        attempt=count(attempt),
        step=count(0),
        total_steps=count(0),
        params=params,
        optimizer=optimizer(train, learning_rate, weight_decay).init(params),
        learning_rate=number(learning_rate),
        weight_decay=number(weight_decay),
        best_params=params,
        best_accuracy=number(-1.0),
        best_step=count(0),
        attempt_accuracy=number(-1.0),
        stale=count(0),
        transition_step=count(-1),
        done=jnp.asarray(False),
    )


def retries_left(setup: Setup, run: Run):
    """Whether a run ended below `min_accuracy` and may try again."""
    another = run.attempt + 1 < setup.train.max_retries
    return run.done & (run.best_accuracy < setup.train.min_accuracy) & another


def retry(setup: Setup, run: Run) -> Run:
    """The run at the start of its next attempt if it may try again, otherwise unchanged."""
    fresh = start(setup, run.seed, run.attempt + 1, run.learning_rate, run.weight_decay)
    kept = "total_steps", "best_params", "best_accuracy", "best_step", "transition_step"
    fresh = dataclasses.replace(fresh, **{name: getattr(run, name) for name in kept})
    return _where(retries_left(setup, run), fresh, run)


def stretch(setup: Setup, run: Run, train, validation, *, part=0, n_parts=1, axis: str | None = None):
    """Trains up to the next validation, validates, and decides what follows.

    Args:
      setup: static.
      run: the run; one that is done comes back unchanged.
      train: training lists [M, n] (any array where lists are sampled).
      validation: lists [B, n].
      part, n_parts, axis: which share of each batch this device computes, of how many, and the
        name of the axis over which gradients are averaged.

    Returns:
      (run, report): report holds what a person wants to see of this stretch, as scalars.
    """
    return jax.lax.cond(
        run.done,
        lambda run: (run, _report(setup, run, jnp.nan, _unknown(setup))),
        lambda run: _live_stretch(setup, run, train, validation, part, n_parts, axis),
        run,
    )


def _live_stretch(setup, run, train, validation, part, n_parts, axis):
    config = setup.train
    with jax.default_matmul_precision("highest"):
        transform = optimizer(config, run.learning_rate, run.weight_decay)
        key = _key(run.seed, run.attempt, "batches")

        def body(offset, carry):
            params, state, total = carry
            lists = training_batch(
                config.batches, setup.task, config.batch_size, key, run.step + offset, train, part, n_parts
            )
            noise_key = None
            if config.gradient_noise:
                noise_key = jax.random.fold_in(_key(run.seed, run.attempt, "noise"), run.step + offset)
            params, state, value = step(setup, transform, params, state, lists, axis, noise_key)
            return params, state, total + value

        n_steps = config.eval_every
        if config.max_steps % n_steps:  # a trip count of its own for every run costs copies under vmap
            n_steps = jnp.minimum(n_steps, config.max_steps - run.step)
        carry = run.params, run.optimizer, jnp.zeros(())
        params, state, total = jax.lax.fori_loop(0, n_steps, body, carry)
        scores = evaluate(setup, params, validation)
    run = dataclasses.replace(
        run, params=params, optimizer=state, step=run.step + n_steps, total_steps=run.total_steps + n_steps
    )
    run = _judge(setup, run, scores["val_accuracy"])
    return run, _report(setup, run, total / n_steps, scores)


def _judge(setup: Setup, run: Run, accuracy) -> Run:
    """Notes the accuracy of a validation: best weights, patience, whether the attempt is over."""
    config = setup.train
    better = accuracy > run.best_accuracy
    improved = accuracy > run.attempt_accuracy
    stale = jnp.where(improved, 0, run.stale + 1)
    over = (accuracy >= config.target_accuracy) | (run.step >= config.max_steps)
    if config.patience is not None:
        over |= (stale >= config.patience) & (accuracy >= config.patience_threshold)
    broke_through = (run.transition_step < 0) & (accuracy > TRANSITION_ACCURACY)
    return dataclasses.replace(
        run,
        best_params=_where(better, run.params, run.best_params),
        best_accuracy=jnp.where(better, accuracy, run.best_accuracy),
        best_step=jnp.where(better, run.total_steps, run.best_step),
        attempt_accuracy=jnp.where(improved, accuracy, run.attempt_accuracy),
        stale=stale,
        transition_step=jnp.where(broke_through, run.total_steps, run.transition_step),
        done=over,
    )


def _report(setup: Setup, run: Run, train_loss, scores):
    rate = run.learning_rate
    if setup.train.schedule == "cosine":
        rate = rate * schedule(setup.train, run.step)
    return {
        "seed": run.seed,
        "attempt": run.attempt,
        "step": run.step,
        "total_steps": run.total_steps,
        "learning_rate": rate,
        "train_loss": jnp.asarray(train_loss),
        **scores,
        "best_accuracy": run.best_accuracy,
        "done": run.done,
    }


def _unknown(setup: Setup):
    """The scores of a run that was not run."""
    nan = jnp.full((), jnp.nan)
    per_position = jnp.full(setup.model.list_len, jnp.nan)
    names = "val_loss", "val_accuracy", "val_sequence_accuracy"
    return {**{name: nan for name in names}, "val_position_accuracy": per_position}


def _key(seed, attempt, purpose: str):
    """The typed key of one purpose of one attempt."""
    key = jax.random.fold_in(jax.random.key(seed), attempt)
    return jax.random.fold_in(key, ("init", "batches", "noise").index(purpose))


def _where(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
