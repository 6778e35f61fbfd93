"""The sparse autoencoder, a Flax module: SEP's residual in, latents, SEP's residual out.

Dimensions: B lists, D model, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model.numerics import matmul
from orderscale_jax.options import shown
from orderscale_jax.sae.config import BY_BATCH, SAEConfig

FIRST_THRESHOLD = 0.001  # of every latent of a jumprelu SAE, as in the published library


class Fixed(nnx.Variable):
    """What belongs to an SAE and is not trained by gradients: its threshold, the mean of its inputs."""


class SparseAutoencoder(nnx.Module):
    """SEP [B, D] after layer 0 in, latents [B, F] and a reconstruction [B, D] of SEP out.

    `encode` and `decode` take and give SEP as the model has it: they subtract and add `act_mean`.

    Attributes:
      W_enc [D, F], b_enc [F]: the encoder.
      W_dec [F, D], b_dec [D]: the decoder; a row is the direction of a latent, of length 1 unless the
        family is `binary`.
      threshold: above which a latent is kept: [] of the families that keep the largest of a batch
        (negative until it is followed), [F] of `jumprelu`, [] and unused of the others.
      act_mean [D]: mean of SEP over the training lists.

    Raises:
      UserError: `config` is no SAEConfig, or `d_model` is no positive number.
    """

    def __init__(self, config: SAEConfig, d_model: int, *, rngs: nnx.Rngs):
        check_kind("config", config, SAEConfig)
        if not isinstance(d_model, int | np.integer) or d_model < 1:
            raise UserError(f"d_model must be a whole number from 1 on, got {shown(d_model)}")
        self.config = config
        rows = jax.random.normal(rngs.params(), (config.width, d_model))
        rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
        self.W_enc = nnx.Param(rows.T)
        self.b_enc = nnx.Param(jnp.zeros(config.width))
        self.W_dec = nnx.Param(rows)
        self.b_dec = nnx.Param(jnp.zeros(d_model))
        if config.family == "jumprelu":
            self.threshold = nnx.Param(jnp.full(config.width, FIRST_THRESHOLD))
        else:
            self.threshold = Fixed(jnp.float32(-1))
        self.act_mean = Fixed(jnp.zeros(d_model))

    def __call__(self, sep):
        """The reconstruction [B, D] of SEP [B, D]."""
        return self.decode(self.encode(sep))

    def encode(self, sep):
        """Latents [B, F] of SEP [B, D] as they are after training."""
        x = _rows("sep", sep, len(self.act_mean[...])) - self.act_mean[...]
        return kept(self.config, self.preactivations(x), self.threshold[...])

    def decode(self, latents):
        """What latents [B, F] say that SEP [B, D] is."""
        return self.reconstruct(_rows("latents", latents, self.config.width)) + self.act_mean[...]

    def preactivations(self, x):
        """[B, F] before anything is cut off, of SEP less its mean [B, D]."""
        W_enc = self.W_enc[...]
        # As (x - b_dec) W_enc + b_enc, but no gradient goes through [B, D] on its way to b_dec.
        return matmul(x, W_enc) + (self.b_enc[...] - matmul(self.b_dec[...], W_enc))

    def reconstruct(self, latents):
        """SEP less its mean [B, D], of latents [B, F]."""
        return matmul(latents, self.W_dec[...]) + self.b_dec[...]


def _rows(name: str, rows, width: int):
    """The argument `name` [B, width], traced or not; UserError if it has another shape."""
    rows = rows if isinstance(rows, jax.Array) else real_numbers(name, rows)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise UserError(f"{name} must have shape [B, {width}], got {list(rows.shape)}")
    return rows


def kept(config: SAEConfig, preactivations, threshold, xp: Any = jnp):
    """Latents [B, F] of preactivations [B, F] after training, in the arithmetic of `xp` (JAX or NumPy)."""
    positive = xp.maximum(preactivations, 0)
    if config.family in BY_BATCH:
        is_kept = positive > xp.maximum(threshold, 0)
        return xp.where(is_kept, xp.ones_like(positive) if config.family == "binary" else positive, 0)
    if config.family == "topk":
        least = xp.sort(positive, axis=-1)[..., -config.k, None]
        return xp.where(positive >= least, positive, 0)
    if config.family == "jumprelu":
        return xp.where(preactivations > threshold, positive, 0)
    return positive


def named_arrays(sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    """The arrays on the host by name."""
    check_kind("sae", sae, SparseAutoencoder)
    return {name: np.asarray(getattr(sae, name)[...]) for name in ARRAYS}


ARRAYS = ("W_dec", "W_enc", "act_mean", "b_dec", "b_enc", "threshold")


def from_named_arrays(config: SAEConfig, arrays: Mapping[str, np.ndarray]) -> SparseAutoencoder:
    """An SAE with the given arrays; the inverse of `named_arrays`.

    Raises:
      UserError: an array is missing, unknown, not finite, no array of numbers, or of another shape.
    """
    check_kind("config", config, SAEConfig)
    check_kind("arrays", arrays, Mapping)
    if missing := sorted(set(ARRAYS) - set(arrays)):
        raise UserError(f"array {missing[0]} is missing")
    if unknown := sorted(set(arrays) - set(ARRAYS)):
        raise UserError(f"array {unknown[0]} does not belong to a sparse autoencoder")
    d_model = np.shape(arrays["W_dec"])[-1] if np.ndim(arrays["W_dec"]) == 2 else 1
    sae = nnx.eval_shape(lambda: SparseAutoencoder(config, d_model, rngs=nnx.Rngs(0)))
    for name in ARRAYS:
        array, leaf = real_numbers(f"array {name}", arrays[name]), getattr(sae, name)
        if array.shape != leaf.shape:
            raise UserError(f"array {name} has shape {list(array.shape)}, expected {list(leaf.shape)}")
        if array.size and np.abs(array).max() > np.finfo(np.float32).max:
            raise UserError(f"array {name} holds a number that is too large for 32 bits")
        leaf.set_value(jnp.asarray(array, jnp.float32))
    return sae
