"""One step of training and one validation, as pure functions of (parameters, lists, configuration).

Dimensions: B lists, V vocabulary, S steps.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from orderscale_jax.config import Setup, TrainConfig
from orderscale_jax.model import ModelConfig, bind, metrics, scales

CLIP_EPSILON = 1e-6  # added to the norm, as PyTorch's clip_grad_norm_ does


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
    if scales.is_faster(config):
        return scales.loss(model, lists)
    return metrics.cross_entropy(model(lists), lists)


def train_step(setup: Setup, transform, params, state, lists, axis: str | None = None, noise_key=None):
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
        *carry, value = train_step(setup, transform, *carry, lists)
        return tuple(carry), value

    (params, _), losses = jax.lax.scan(body, (params, transform.init(params)), batches)
    return params, losses


def evaluate(setup: Setup, params, lists):
    """Loss, accuracy, sequence accuracy and accuracy per position [n] on lists [B, n]."""
    model = bind(setup.model, params)
    forward = functools.partial(scales.logits, model) if scales.is_faster(setup.model) else model

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
