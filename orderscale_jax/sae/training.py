"""Training of sparse autoencoders: a run as a pure function of its seed, and many of them in one program.

One compiled call takes every run over a stretch of steps. Runs of one program have the same family, width
and number of steps; their seeds, inputs, learning rates, k and penalties may differ.

Dimensions: B lists of a batch, M training lists, D model, F latents, R runs, S sets of inputs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from orderscale_jax.model.numerics import matmul
from orderscale_jax.sae.autoencoder import Fixed, SparseAutoencoder
from orderscale_jax.sae.config import SAEConfig
from orderscale_jax.sae.selection import threshold_of_largest
from orderscale_jax.training.batches import permuted
from orderscale_jax.training.devices import MAPPED, PlacedRuns, Placement, jitted
from orderscale_jax.training.step import clip_by_global_norm

STRETCH = 250  # steps of a compiled call
MOST_LISTS_DRAWN = 2**17  # of a run at once, before its steps: `permuted` loops once for all of them
MEDIAN_ROUNDS, MEDIAN_TOLERANCE = 100, 1e-5  # of Weiszfeld's algorithm
SMALLEST_NORM = 1e-6
ROW_BITS = 14  # to which the numbers of a row are compared where nearly the largest will do


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """What may differ between runs of one program, as scalars []."""

    k: jax.Array
    learning_rate: jax.Array
    penalty: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SAERun:
    """The whole state of one run (scalars are arrays []).

    Attributes:
      seed: decides the first weights and the batches.
      source: which of the S sets of inputs it is trained on.
      step: steps so far.
      params, fixed: the arrays of the SAE, trained and not.
      optimizer: Adam's state.
      unfired [F]: samples since a latent last fired.
      search: the last batch's threshold and the slope at it, where the next search begins.
      hyper: what may differ.
      loss: mean squared error, summed over D, of the last step.
    """

    seed: jax.Array
    source: jax.Array
    step: jax.Array
    params: Any
    fixed: Any
    optimizer: Any
    unfired: jax.Array
    search: tuple[jax.Array, jax.Array]
    hyper: Hyper
    loss: jax.Array


def hyper_of(config: SAEConfig) -> Hyper:
    """The numbers of a configuration."""
    return Hyper(
        k=jnp.int32(config.k),
        learning_rate=jnp.float32(config.learning_rate),
        penalty=jnp.float32(config.weight_of_penalty),
    )


def start(config: SAEConfig, seed, source, hyper: Hyper, inputs) -> SAERun:
    """A run before its first step, for inputs [S, M, D]: SEP less nothing."""
    sep = inputs[source]
    sae = SparseAutoencoder(config, sep.shape[-1], rngs=nnx.Rngs(params=_key(seed, "init")))
    sae.act_mean.set_value(sep.mean(0))
    x = (sep - sep.mean(0))[places(config, seed, jnp.zeros(1, jnp.int32), len(sep))[0]]
    sae.b_dec.set_value(geometric_median(x))
    if config.family == "binary":  # its rows carry the size of what they stand for
        size = jnp.sqrt(((x - sae.b_dec[...]) ** 2).sum(-1).mean() / hyper.k)
        sae.W_dec.set_value(sae.W_dec[...] * size)
    _, params, fixed = nnx.split(sae, nnx.Param, Fixed)
    return SAERun(
        seed=jnp.asarray(seed, jnp.uint32),
        source=jnp.asarray(source, jnp.int32),
        step=jnp.int32(0),
        params=params,
        fixed=fixed,
        optimizer=_optimizer(config, hyper).init(params),
        unfired=jnp.zeros(config.width, jnp.int32),
        search=(jnp.float32(0), jnp.float32(config.batch_size)),
        hyper=hyper,
        loss=jnp.float32(jnp.nan),
    )


def advance(config: SAEConfig, n_steps: int, run: SAERun, inputs) -> SAERun:
    """The run `n_steps` steps on."""
    sep = inputs[run.source]
    centred = sep - run.fixed.act_mean[...]
    most = max(1, MOST_LISTS_DRAWN // config.batch_size)
    block = max(size for size in range(1, min(most, n_steps) + 1) if n_steps % size == 0)

    def body(state, drawn):
        whole = dataclasses.replace(state, seed=run.seed, source=run.source, hyper=run.hyper)
        whole = step(config, whole, centred[drawn])
        return dataclasses.replace(whole, seed=None, source=None, hyper=None), None

    def of_block(state, _):
        drawn = places(config, run.seed, state.step + jnp.arange(block), len(sep))
        return jax.lax.scan(body, state, drawn)

    state = dataclasses.replace(run, seed=None, source=None, hyper=None)
    state, _ = jax.lax.scan(of_block, state, length=n_steps // block)
    return dataclasses.replace(state, seed=run.seed, source=run.source, hyper=run.hyper)


def step(config: SAEConfig, run: SAERun, x) -> SAERun:
    """One step on inputs [B, D], SEP less its mean."""
    _, seen, gradient = differentiate(config, run, x)
    if config.family != "binary":
        gradient.W_dec.set_value(_less_parallel(gradient.W_dec[...], run.params.W_dec[...]))
    updates, optimizer = _optimizer(config, run.hyper).update(gradient, run.optimizer, run.params)
    params = optax.apply_updates(run.params, updates)
    if config.family != "binary":
        W_dec = params.W_dec[...]
        params.W_dec.set_value(
            W_dec / jnp.maximum(jnp.linalg.norm(W_dec, axis=-1, keepdims=True), SMALLEST_NORM)
        )
    return dataclasses.replace(
        run,
        step=run.step + 1,
        params=params,
        fixed=_followed(config, run, seen),
        optimizer=optimizer,
        unfired=seen["unfired"],
        search=seen["search"],
        loss=seen["loss"],
    )


def differentiate(config: SAEConfig, run: SAERun, x):
    """(what is minimised, what was seen on the way, the gradient) of inputs [B, D]."""
    (value, seen), gradient = jax.value_and_grad(_loss, argnums=1, has_aux=True)(config, run.params, run, x)
    if not config.aux or config.family in ("jumprelu", "l1"):
        return value, seen, gradient
    is_dead, left = seen["unfired"] >= config.dead_after, seen["left"]

    def of_dead(params):
        return config.aux * _auxiliary(bind(config, params, run.fixed), x, left, is_dead)

    # Differentiated inside the branch: through it, every step would carry what only the branch needs.
    more, more_gradient = jax.lax.cond(
        is_dead.any(),
        jax.value_and_grad(of_dead),
        lambda params: (jnp.float32(0), jax.tree.map(jnp.zeros_like, params)),
        run.params,
    )
    return value + more, seen, jax.tree.map(jnp.add, gradient, more_gradient)


def bind(config: SAEConfig, params, fixed) -> SparseAutoencoder:
    """The SAE with these arrays."""
    return nnx.merge(_graphdef(config, params.b_dec.shape[-1]), params, fixed)


@functools.cache
def _graphdef(config: SAEConfig, d_model: int):
    sae = nnx.eval_shape(lambda: SparseAutoencoder(config, d_model, rngs=nnx.Rngs(0)))
    return nnx.split(sae, nnx.Param, Fixed)[0]


def _loss(config: SAEConfig, params, run: SAERun, x):
    """What is minimised but for the part of dead latents, of inputs [B, D]; and what was seen on the way."""
    sae = bind(config, params, run.fixed)
    before = sae.preactivations(x)
    latents, penalty, search, least = _train_latents(config, sae, run, before)
    errors = []
    for end in config.nested:
        error = _combine(latents[:, :end], sae.W_dec[...][:end]) + sae.b_dec[...] - x
        errors.append((error**2).sum(-1).mean())
    fired = jax.lax.stop_gradient(latents).max(0) > 0
    unfired = jnp.where(fired, 0, jnp.minimum(run.unfired, config.dead_after) + len(x))
    value = sum(errors) / len(errors) + penalty
    seen = {"loss": errors[-1], "unfired": unfired, "search": search, "least": least, "left": -error}
    return value, seen


def _train_latents(config: SAEConfig, sae: SparseAutoencoder, run: SAERun, before):
    """Latents [B, F] of preactivations as they are in training, their penalty, and what the search for a
    threshold found."""
    fixed = jax.lax.stop_gradient(before)
    nothing = run.search, jnp.float32(0)
    warm = _risen(run.step, 2 * config.warmup_steps)
    if config.family == "l1":
        latents = jax.nn.relu(before)
        return latents, run.hyper.penalty * warm * latents.sum(-1).mean(), *nothing
    if config.family == "jumprelu":
        latents, is_on = _jump(before, sae.threshold[...], config.bandwidth)
        excess = is_on.sum(-1).mean() / run.hyper.k - 1
        return latents, run.hyper.penalty * warm * excess**2, *nothing
    if config.family == "topk":
        return jnp.where(fixed >= _kth_largest(fixed, run.hyper.k), before, 0), 0.0, *nothing
    threshold, least, slope = threshold_of_largest(fixed, run.hyper.k * len(fixed), *run.search)
    is_kept = fixed > threshold
    latents = jnp.where(is_kept, before, 0)
    if config.family == "binary":
        # Forward 1 or 0; backward as if the step at the threshold were a sigmoid of the input's scale.
        soft = jax.nn.sigmoid((before - threshold) / jnp.maximum(threshold, SMALLEST_NORM))
        latents = is_kept + soft - jax.lax.stop_gradient(soft)
    return latents, 0.0, (threshold, slope), least


@jax.custom_vjp
def _combine(latents, rows):
    """latents [B, F] times rows [F, D]. The gradient of the rows is computed as the transpose of [D, F],
    which takes a CPU half the time."""
    return matmul(latents, rows)


def _combine_forward(latents, rows):
    return matmul(latents, rows), (latents, rows)


def _combine_backward(kept, gradient):
    latents, rows = kept
    of_rows = jax.lax.optimization_barrier(matmul(gradient.T, latents)).T  # else XLA turns it round again
    return matmul(gradient, rows.T), of_rows


_combine.defvjp(_combine_forward, _combine_backward)


def _kth_largest(values, k):
    """The k-th largest number of each row [B, 1], or the smallest positive one where fewer are positive."""

    def next_one(_, last):
        return jnp.where(values < last, values, 0).max(-1, keepdims=True)

    found = jax.lax.fori_loop(0, k, next_one, jnp.full((len(values), 1), jnp.inf))
    return jnp.maximum(found, jnp.finfo(jnp.float32).tiny)


def _auxiliary(sae: SparseAutoencoder, x, left, is_dead):
    """How badly dead latents [F] reconstruct what the others have left [B, D] of inputs [B, D], as a share of
    it (arXiv 2406.04093)."""
    n_used = jnp.minimum(left.shape[-1] // 2, is_dead.sum())
    before = sae.preactivations(x)
    fixed = jnp.where(is_dead, jax.nn.relu(jax.lax.stop_gradient(before)), 0)
    is_used = _largest_of_rows(fixed, n_used)
    rebuilt = _combine(jnp.where(is_used, before, 0), sae.W_dec[...])
    total = ((left - left.mean(0)) ** 2).sum(-1).mean()
    return ((left - rebuilt) ** 2).sum(-1).mean() / jnp.maximum(total, SMALLEST_NORM)


def _largest_of_rows(values, n):
    """Which of `values` [B, F], not negative, are the `n` largest of their row and positive.

    Nearly: they are compared in steps of 1/16,384 of the row's largest, as numbers of 16 bits, of which a CPU
    compares twice as many at once. Of equal ones all are taken or none, so there may be fewer.
    """
    levels = 1 << ROW_BITS
    scale = levels / jnp.maximum(values.max(-1, keepdims=True), SMALLEST_NORM)
    columns = jnp.minimum(values * scale, levels - 1).astype(jnp.int16).T  # added up three times as fast
    counter = jnp.int16 if len(columns) < 2**15 else jnp.int32

    def rise(i, level):
        higher = level + jnp.right_shift(jnp.int16(levels // 2), i.astype(jnp.int16))
        at_least = (columns >= higher).astype(counter).sum(0, dtype=counter)
        return jnp.where(at_least > n, higher, level)

    is_few = (values > 0).sum(-1) <= n
    zeros = jnp.zeros(len(values), jnp.int16)
    level = jax.lax.cond(is_few.all(), lambda: zeros, lambda: jax.lax.fori_loop(0, ROW_BITS, rise, zeros))
    return jnp.where(is_few[:, None], values > 0, (columns > level).T)


@jax.custom_vjp
def _jump(before, threshold, bandwidth):
    """(latents, whether they are on) of preactivations [B, F] and thresholds [F]; see arXiv 2407.14435 for
    the derivative by the threshold, which is that of a step smoothed over the bandwidth."""
    is_on = before > threshold
    return jnp.where(is_on, before, 0), is_on.astype(before.dtype)


def _jump_forward(before, threshold, bandwidth):
    return _jump(before, threshold, bandwidth), (before, threshold, bandwidth)


def _jump_backward(kept, gradients):
    before, threshold, bandwidth = kept
    of_latents, of_on = gradients
    is_close = jnp.abs(before - threshold) < bandwidth / 2
    by_threshold = -jnp.where(is_close, (threshold * of_latents + of_on) / bandwidth, 0).sum(0)
    return jnp.where(before > threshold, of_latents, 0), by_threshold, None


_jump.defvjp(_jump_forward, _jump_backward)


def _followed(config: SAEConfig, run: SAERun, seen: dict[str, Any]):
    """The arrays that no gradient trains, after a step."""
    if "threshold" not in run.fixed:
        return run.fixed
    old, least = run.fixed.threshold[...], seen["least"]
    least = jnp.where(jnp.isfinite(least), least, 0.0)
    rate = config.threshold_decay
    new = jnp.where(old < 0, least, rate * old + (1 - rate) * least)
    fixed = jax.tree.map(lambda x: x, run.fixed)
    fixed.threshold.set_value(jnp.where(run.step > config.threshold_start, new, old))
    return fixed


def _less_parallel(gradient, rows):
    """The gradient of rows [F, D] without the part along each."""
    unit = rows / (jnp.linalg.norm(rows, axis=-1, keepdims=True) + SMALLEST_NORM)
    return gradient - (gradient * unit).sum(-1, keepdims=True) * unit


def _optimizer(config: SAEConfig, hyper: Hyper) -> optax.GradientTransformation:
    def rate(count):
        return hyper.learning_rate * _risen(count, config.warmup_steps)

    return optax.chain(
        clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(b1=0.0 if config.family == "jumprelu" else 0.9),
        optax.scale_by_learning_rate(rate),
    )


def _risen(step, n_steps: int):
    """What rises from 0 to 1 over `n_steps`; 1 at once where there are none."""
    return jnp.minimum(step / n_steps, 1.0) if n_steps else 1.0


def places(config: SAEConfig, seed, steps, n_lists: int):
    """Which of M training lists steps [S] are trained on, [S, B]: each at most once in a step, in an order of
    the step's own."""
    key = _key(seed, "batches")

    def of_step(step):
        return permuted(jax.random.fold_in(key, step), jnp.arange(config.batch_size), n_lists)

    return jax.vmap(of_step)(steps)


def geometric_median(points):
    """The point [D] with the least sum of distances to points [B, D], by Weiszfeld's algorithm."""

    def is_open(state):
        i, guess, last = state
        return (i < MEDIAN_ROUNDS) & ~(jnp.linalg.norm(guess - last) < MEDIAN_TOLERANCE)

    def better(state):
        i, guess, _ = state
        weights = 1 / jnp.maximum(jnp.linalg.norm(points - guess, axis=-1), SMALLEST_NORM)
        return i + 1, matmul(weights / weights.sum(), points), guess

    mean = points.mean(0)
    return jax.lax.while_loop(is_open, better, (0, mean, jnp.full_like(mean, jnp.inf)))[1]


def _key(seed, purpose: str):
    number = ("init", "batches").index(purpose)
    return jax.random.fold_in(jax.random.key(seed), number)


class CompiledSAETraining(PlacedRuns):
    """Runs, placed and compiled: calling it takes each of them `n_steps` on.

    For `devices` that are not here it can be compiled, not called.
    """

    def __init__(
        self,
        config: SAEConfig,
        n_steps: int,
        placement: Placement,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.placement = placement
        many = functools.partial(_advance_all, config, n_steps, placement.vectorize)
        donate = {"donate_argnums": 0}
        if placement.n_devices == 1:
            self.call: Callable = jitted(many, None if devices is None else devices[0], **donate)
        else:
            devices = (jax.local_devices() if devices is None else devices)[: placement.n_devices]
            self.call = MAPPED(many, devices, (0, None), 0, donate)

    def __call__(self, runs: SAERun, inputs) -> SAERun:
        return self.call(runs, inputs)


def _advance_all(config: SAEConfig, n_steps: int, vectorize: bool, runs: SAERun, inputs):
    one = functools.partial(advance, config, n_steps, inputs=inputs)
    return jax.vmap(one)(runs) if vectorize else jax.lax.map(one, runs)


@functools.partial(jax.jit, static_argnums=0)
def start_runs(config: SAEConfig, seeds, sources, hypers: Hyper, inputs) -> SAERun:
    """Runs [R, …] before their first step, for seeds [R], sources [R] and numbers [R, …]."""
    return jax.lax.map(lambda x: start(config, *x, inputs), (seeds, sources, hypers))
