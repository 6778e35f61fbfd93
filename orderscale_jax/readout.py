"""Cross-entropy of logits that are scales times rows, with its gradient in one pass.

Every output's logits are a sum of scales times rows of the logit table, so the gradient needs no
more than the softmax and a few weighted sums of it. Making it during the forward pass spares the
second softmax and the stored logits that differentiating the sum would cost.

Dimensions: B lists, W padded vocabulary, n digits and outputs; sources are numbered by position.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def readout_loss(constant, rows, shared, varying, lists):
    """Mean cross-entropy over lists and outputs.

    Args:
      constant: per output, a tuple of (source, number): scales that are fixed.
      rows: n arrays [B, W], the digits' rows of the logit table.
      shared: [1+n, W], the rows of SEP and the outputs.
      varying: per output, {source: scale [B] or []}.
      lists: digits [B, n], the targets; impossible columns of the table must hold -1e30.
    """
    return _forward(constant, rows, shared, varying, lists)[0]


def _forward(constant, rows, shared, varying, lists):
    n, (n_lists, width) = len(rows), rows[0].shape
    weight = 1.0 / lists.size
    loss = 0.0
    d_rows, d_shared = [0.0] * n, [0.0] * shared.shape[0]
    d_varying = []
    for output in range(n):
        scales = {**dict(constant[output]), **varying[output]}
        terms = [_column(c) * (rows[s] if s < n else shared[s - n]) for s, c in scales.items()]
        logits = jnp.broadcast_to(sum(terms), (n_lists, width))
        is_target = lists[:, output, None] == jnp.arange(width)
        top = logits.max(-1)
        exponentials = jnp.exp(logits - top[:, None])
        total = exponentials.sum(-1)
        target = jnp.take_along_axis(logits, lists[:, output, None], -1, mode="promise_in_bounds")[:, 0]
        loss += (jnp.log(total) + top - target).sum() * weight
        slope = exponentials * (weight / total)[:, None] - jnp.where(is_target, weight, 0.0)
        for source, scale in scales.items():
            if source < n:
                d_rows[source] += _column(scale) * slope
            else:
                d_shared[source - n] += _weighted_sum(scale, slope)
        d_varying.append({s: _scale_slope(c, s, slope, rows, shared) for s, c in varying[output].items()})
    d_shared = jnp.stack([jnp.broadcast_to(d, (width,)) for d in d_shared])
    d_rows = tuple(jnp.broadcast_to(d, (n_lists, width)) for d in d_rows)
    return loss, (d_rows, d_shared, tuple(d_varying))


def _backward(constant, gradients, upstream):
    return (*jax.tree.map(lambda gradient: upstream * gradient, gradients), None)


readout_loss.defvjp(_forward, _backward)


def _column(scale):
    """A scale that multiplies rows: [B] becomes [B, 1]."""
    return scale[:, None] if getattr(scale, "ndim", 0) else scale


def _weighted_sum(scale, slope):
    """Gradient [W] of a shared row: slopes [B, W] summed over lists with their scales."""
    if getattr(scale, "ndim", 0):
        return scale @ slope
    return scale * slope.sum(0)


def _scale_slope(scale, source, slope, rows, shared):
    """Gradient of a scale, of its own shape ([B] or [])."""
    n = len(rows)
    if source < n:
        per_list = (slope * rows[source]).sum(-1)
        return per_list if scale.ndim else per_list.sum()
    return slope @ shared[source - n] if scale.ndim else slope.sum(0) @ shared[source - n]
