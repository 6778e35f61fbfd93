"""Cross-entropy of logits that are scales times rows, with its gradient in one pass.

Every output's logits are a sum of scales times rows of the logit table, so the gradient needs no
more than the softmax and a few weighted sums of it. Making it during the forward pass spares the
second softmax and the stored logits that differentiating the sum would cost.

The softmax is shifted by the largest logit of the list's own digits instead of the largest of all,
which spares a pass over the logits: one of these digits is nearly always the answer, and its
exponential is 1, so nothing can vanish. `HEADROOM` keeps the rest from overflowing.

Dimensions: B lists, N digits, W padded vocabulary, n digits and outputs; sources are numbered by
position.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from orderscale_jax.model.numerics import matmul
from orderscale_jax.model.tables import lookup, sum_into

HEADROOM = 80.0  # exp(80) times any vocabulary is finite in float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def readout_loss(constant, digits, shared, varying, lists):
    """Mean cross-entropy over lists and outputs.

    A logit more than `HEADROOM` above those of all digits of its list counts as that much above.

    Args:
      constant: per output, a tuple of (source, number): scales that are fixed.
      digits: n arrays [N, W], the rows of the logit table for the digits at each position.
      shared: [1+n, W], the rows of SEP and the outputs.
      varying: per output, {source: scale [B] or []}.
      lists: digits [B, n], the targets; impossible columns of the table must hold -1e30.
    """
    return _forward(constant, digits, shared, varying, lists)[0]


def _forward(constant, digits, shared, varying, lists):
    n_lists, n = lists.shape
    width = shared.shape[1]
    weight = 1.0 / lists.size
    rows = [lookup(table, lists[:, i]) for i, table in enumerate(digits)]
    # What every source writes to the logit of each digit of the list: [n][source][B].
    own = [
        [lookup(table, lists[:, j], digit) for j, table in enumerate(digits)]
        + [lookup(row, digit) for row in shared]
        for digit in lists.T
    ]
    loss = 0.0
    d_rows, d_shared = [0.0] * n, [0.0] * (1 + n)
    d_varying = []
    for output in range(n):
        scales = {**dict(constant[output]), **varying[output]}
        terms = [column(c) * (rows[s] if s < n else shared[s - n]) for s, c in scales.items()]
        logits = jnp.broadcast_to(sum(terms), (n_lists, width))
        of_list = [sum(c * row[s] for s, c in scales.items()) for row in own]
        shift = functools.reduce(jnp.maximum, of_list)
        exponentials = jnp.exp(jnp.minimum(logits - shift[:, None], HEADROOM))
        total = exponentials.sum(-1)
        loss += (jnp.log(total) + shift - of_list[output]).sum() * weight
        is_target = lists[:, output, None] == jnp.arange(width)
        slope = exponentials * (weight / total)[:, None] - jnp.where(is_target, weight, 0.0)
        for source, scale in scales.items():
            if source < n:
                d_rows[source] += column(scale) * slope
            else:
                d_shared[source - n] += _weighted_sum(scale, slope)
        d_varying.append({s: _scale_slope(c, s, slope, rows, shared) for s, c in varying[output].items()})
    d_shared = jnp.stack([jnp.broadcast_to(d, (width,)) for d in d_shared])
    d_digits = tuple(
        sum_into((len(table),), jnp.broadcast_to(d, (n_lists, width)), lists[:, i])
        for i, (table, d) in enumerate(zip(digits, d_rows, strict=True))
    )
    return loss, (d_digits, d_shared, tuple(d_varying))


def _backward(constant, gradients, upstream):
    return (*jax.tree.map(lambda gradient: upstream * gradient, gradients), None)


readout_loss.defvjp(_forward, _backward)


def column(scale):
    """A scale that multiplies rows of logits: [B] becomes [B, 1], a number or [] stays."""
    return scale[:, None] if getattr(scale, "ndim", 0) else scale


def _weighted_sum(scale, slope):
    """Gradient [W] of a shared row: slopes [B, W] summed over lists with their scales."""
    if getattr(scale, "ndim", 0):
        return matmul(scale, slope)
    return scale * slope.sum(0)


def _scale_slope(scale, source, slope, rows, shared):
    """Gradient of a scale, of its own shape ([B] or [])."""
    n = len(rows)
    if source < n:
        per_list = (slope * rows[source]).sum(-1)
        return per_list if scale.ndim else per_list.sum()
    return matmul(slope if scale.ndim else slope.sum(0), shared[source - n])
