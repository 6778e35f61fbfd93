"""Loss and accuracies over the n output positions. B lists, V vocabulary."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def token_losses(logits, targets):
    """Cross-entropy of each output: logits [..., V], targets [...] -> [...]."""
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]


def cross_entropy(logits, lists):
    """Mean cross-entropy over lists and output positions; logits [B, n, V], lists [B, n]."""
    return token_losses(logits, lists).mean()


def is_correct(logits, targets):
    """Whether arg-max over V hits: logits [..., V], targets [...] -> bool [...].

    The target must beat every later token strictly or by a tie and every earlier one strictly
    (arg-max takes the first of equals). Written as comparisons because XLA vectorises them and not
    arg-max; a NaN anywhere is a miss. The target is not compared with itself: a compiler may compute its
    logit twice, and round it differently the second time.
    """
    tokens, targets = jnp.arange(logits.shape[-1]), targets[..., None]
    target = jnp.take_along_axis(logits, targets, axis=-1)
    beaten = (logits < target) | ((logits == target) & (tokens > targets)) | (tokens == targets)
    return beaten.all(-1)
