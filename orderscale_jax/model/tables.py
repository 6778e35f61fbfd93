"""Looking rows up in small tables, with the gradient each kind of device is good at.

Summing gradients back into a table is a scatter-add on a CPU (10 times faster there than a
one-hot product) and a one-hot product elsewhere (several GPU builds serialise the scatter).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from orderscale_jax.model.numerics import einsum


def lookup(table, *indices):
    """`table[indices]`: table [N, …] or [N, M, …], integer indices [B] in range; [B, …]."""
    return _lookup(table.shape[: len(indices)], table, *indices)


def sum_into(shape, rows, *indices):
    """Zeros [*shape, …] with rows [B, …] added at `indices`, the way that suits the device."""
    return jax.lax.platform_dependent(
        rows,
        *indices,
        cpu=functools.partial(_scatter, shape),
        default=functools.partial(_one_hot_sum, shape),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(shape, table, *indices):
    return table.at[indices].get(mode="promise_in_bounds")


def _forward(shape, table, *indices):
    return _lookup(shape, table, *indices), indices


def _backward(shape, indices, gradient):
    return (sum_into(shape, gradient, *indices), *(None for _ in indices))


_lookup.defvjp(_forward, _backward)


def _scatter(shape, gradient, *indices):
    zeros = jnp.zeros((*shape, *gradient.shape[1:]), gradient.dtype)
    return zeros.at[indices].add(gradient, mode="promise_in_bounds")


def _one_hot_sum(shape, gradient, *indices):
    first, *rest = (jax.nn.one_hot(i, n, dtype=gradient.dtype) for i, n in zip(indices, shape, strict=True))
    if rest:
        gradient = einsum("bm,b...->bm...", rest[0], gradient)
    return einsum("bn,b...->n...", first, gradient)
