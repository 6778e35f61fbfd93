"""Matrix products in real float32 on every device: the one place that decides it.

An accelerator rounds the factors of a product to bfloat16 or TF32 unless it is told not to. Numbers that
are compared (accuracies of two runs, a model and its closed form) need better, so every product in both
forms of the model is one of these. Their gradients inherit the precision.
"""

import functools

import jax
import jax.numpy as jnp

PRECISION = jax.lax.Precision.HIGHEST

matmul = functools.partial(jnp.matmul, precision=PRECISION)
einsum = functools.partial(jnp.einsum, precision=PRECISION)
