"""One step of training and one validation, as pure functions of (parameters, lists, configuration).

Dimensions: B lists, V vocabulary, S steps.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from orderscale_jax.config import Setup, TrainConfig, overridden
from orderscale_jax.errors import UserError
from orderscale_jax.model import array_names, bind, fused, metrics, scales
from orderscale_jax.training.hyper import Hyper, hyper_of, of_array, untrained

CLIP_EPSILON = 1e-6  # added to the norm, as PyTorch's clip_grad_norm_ does


def optimizer(setup: Setup, hyper: Hyper) -> optax.GradientTransformation:
    """AdamW with decoupled decay, the schedule, the clipping and the overrides of a setup."""
    names = array_names(setup.model)
    found = overridden(setup.model, setup.train.overrides)
    kinds = {name: tuple(sorted(found[name].items())) for name in names}
    if not any(kinds.values()):
        transform = optax.chain(*_adamw(setup, hyper, names[0]))
    else:
        first_of = {kind: name for name, kind in reversed(kinds.items())}
        chains = {name: optax.chain(*_adamw(setup, hyper, name)) for name in first_of.values()}
        transform = optax.partition(
            chains, lambda params: _by_name(setup, params, lambda name: first_of[kinds[name]])
        )
    if setup.train.max_grad_norm is None:
        return transform
    return optax.chain(clip_by_global_norm(setup.train.max_grad_norm), transform)


def _adamw(setup: Setup, hyper: Hyper, name: str) -> list[optax.GradientTransformation]:
    """The parts of AdamW for the array `name`; those of a frozen one only decay."""
    value = functools.partial(of_array, setup, hyper, name)
    decay = optax.add_decayed_weights(value("weight_decay"))
    if untrained(setup, name):
        return [decay, _rate(setup, hyper.learning_rate, value)]
    adam = optax.scale_by_adam(b2=value("beta2", 0.999), eps=value("epsilon"))
    return [adam, decay, _rate(setup, value("learning_rate"), value)]


def _rate(setup: Setup, learning_rate, value) -> optax.GradientTransformation:
    """The learning rate, by the schedule and the steps between which an array is trained."""
    first, last = value("first_step"), value("last_step")
    if first is None and last is None and setup.train.schedule == "constant":
        return optax.scale_by_learning_rate(learning_rate)

    def at(count):
        rate = learning_rate
        if setup.train.schedule == "cosine":
            rate = rate * schedule(setup.train, count)
        if first is not None:
            rate = jnp.where(count < first, 0.0, rate)
        return rate if last is None else jnp.where(count < last, rate, 0.0)

    return optax.scale_by_learning_rate(at)


def _by_name(setup: Setup, params, function):
    """A tree like `params` with `function(name)` in place of each array."""
    names = iter(array_names(setup.model))
    return jax.tree.map(lambda _: function(next(names)), params)


def schedule(config: TrainConfig, step):
    """Share of the learning rate at `step`: warm-up s/warmup, then a cosine to 0 at max_steps."""
    warmup = config.warmup_steps
    progress = (step - warmup) / max(1, config.max_steps - warmup)
    return jnp.where(step < warmup, step / max(1, warmup), 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))


def has_noise(setup: Setup) -> bool:
    """Whether any array's gradient gets noise."""
    fields = (field for _, field, _ in setup.train.overrides)
    return setup.train.gradient_noise > 0 or "gradient_noise" in fields


def add_noise(setup: Setup, hyper: Hyper, gradient, key):
    """The gradient with the Gaussian noise of `TrainConfig.gradient_noise` added to each array."""
    arrays, structure = jax.tree.flatten(gradient)
    keys = jax.random.split(key, len(arrays))
    ratios = [
        of_array(setup, hyper, name, "gradient_noise", setup.train.gradient_noise)
        for name in array_names(setup.model)
    ]
    noisy = [
        array + ratio * jnp.sqrt(jnp.mean(array**2)) * jax.random.normal(key, array.shape, array.dtype)
        for array, ratio, key in zip(arrays, ratios, keys, strict=True)
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


def score_rule(setup: Setup, hyper: Hyper, step, squares: list | None = None) -> scales.ScoreRule | None:
    """What `TrainConfig.scores` does at `step`; the mean square of each score that is penalised goes to
    `squares`."""
    kind, c, until = setup.train.scores, hyper.scores_value, setup.train.scores_until
    if kind == "free":
        return None

    def rule(scores):
        if kind == "penalized":
            if squares is not None:
                squares.extend(jnp.mean(score**2) for score in scores)
            return scores
        if kind == "bounded":
            changed = [c * jnp.tanh(score / c) for score in scores]
        elif kind == "divided":
            changed = [score / c for score in scores]
        else:
            changed = [scores[0] + c, *scores[1:]]
        if until is None:
            return changed
        return [jnp.where(step < until, new, old) for new, old in zip(changed, scores, strict=True)]

    return rule


def loss(setup: Setup, hyper: Hyper, params, lists, step, kernel: str | None = None):
    """Mean cross-entropy of lists [B, n] in the fastest form of the model, and the penalty on scores.

    `kernel` is the one of `fused.KERNELS` that the device runs, None for what every device runs.
    """
    model, squares = bind(setup.model, params), []
    if not scales.is_faster(setup.model):
        if setup.train.scores != "free":
            raise UserError(f"train.scores={setup.train.scores!r} needs the scale form of the model")
        return metrics.cross_entropy(model(lists), lists)
    rule = score_rule(setup, hyper, step, squares)
    if kernel is not None and rule is None and fused.applies(setup.model, kernel):
        return fused.loss(model, lists, kernel)
    value = scales.loss(model, lists, rule)
    if not squares:
        return value
    penalty, until = hyper.scores_value * (sum(squares) / len(squares)), setup.train.scores_until
    return value + (penalty if until is None else jnp.where(step < until, penalty, 0.0))


def train_step(
    setup: Setup,
    hyper: Hyper,
    transform,
    params,
    state,
    lists,
    step,
    axis: str | None = None,
    noise_key=None,
    kernel: str | None = None,
):
    """One optimiser step on lists [B, n]: (params, state, loss), averaged over a device axis.

    With `noise_key` the gradient gets the noise of `TrainConfig.gradient_noise`. Frozen arrays
    have no gradient: it counts as zero. `kernel` is as for `loss`.
    """
    arrays, structure = jax.tree.flatten(params)
    trained = [i for i, name in enumerate(array_names(setup.model)) if not untrained(setup, name)]

    def fill(others, some):
        """The tree of all arrays, `some` being the trained ones."""
        filled = list(others)
        for i, array in zip(trained, some, strict=True):
            filled[i] = array
        return jax.tree.unflatten(structure, filled)

    def loss_of(some):
        return loss(setup, hyper, fill(arrays, some), lists, step, kernel)

    value, gradient = jax.value_and_grad(loss_of)([arrays[i] for i in trained])
    if axis is not None:
        value, gradient = jax.lax.pmean((value, gradient), axis)
    gradient = fill(map(jnp.zeros_like, arrays), gradient)
    if noise_key is not None:
        gradient = add_noise(setup, hyper, gradient, noise_key)
    updates, state = transform.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


@functools.partial(jax.jit, static_argnums=0)
def replay(setup: Setup, params, batches):
    """Trains on given batches [S, B, n] and returns (params, losses [S])."""
    hyper = hyper_of(setup.train)
    transform = optimizer(setup, hyper)

    def body(carry, batch):
        step, lists = batch
        *carry, value = train_step(setup, hyper, transform, *carry, lists, step)
        return tuple(carry), value

    numbered = jnp.arange(len(batches)), batches
    (params, _), losses = jax.lax.scan(body, (params, transform.init(params)), numbered)
    return params, losses


def evaluate(setup: Setup, params, lists, rule: scales.ScoreRule | None = None, kernel: str | None = None):
    """Loss, accuracy, sequence accuracy and accuracy per position [n] on lists [B, n]."""
    model = bind(setup.model, params)
    forward = functools.partial(scales.logits, model, rule=rule) if scales.is_faster(setup.model) else model

    def judge(lists):
        if kernel == "tpu" and rule is None and fused.applies(setup.model, kernel):
            return fused.judge(model, lists)
        logits = forward(lists)
        return metrics.token_losses(logits, lists), metrics.is_correct(logits, lists)

    def sums(lists, weights):
        losses, correct = judge(lists)
        losses, correct = losses * weights[:, None], correct * weights[:, None]
        return {"loss": losses.sum(), "right": correct.sum(0), "lists_right": correct.all(-1).sum()}

    n_lists, size = len(lists), min(len(lists), setup.train.eval_batch_size)
    padding = -n_lists % size
    weights = jnp.pad(jnp.ones(n_lists), (0, padding)).reshape(-1, size)
    lists = jnp.pad(lists, ((0, padding), (0, 0))).reshape(-1, size, lists.shape[1])
    total = jax.tree.map(lambda x: x.sum(0), jax.lax.map(lambda part: sums(*part), (lists, weights)))
    return {
        "loss": total["loss"] / (n_lists * setup.model.list_len),
        "accuracy": total["right"].mean() / n_lists,
        "sequence_accuracy": total["lists_right"] / n_lists,
        "position_accuracy": total["right"] / n_lists,
    }
