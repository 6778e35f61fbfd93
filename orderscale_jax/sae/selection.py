"""The n largest numbers of a whole batch, without sorting it.

Sorting half a million numbers takes thirty times as long as the rest of a training step. But the number of
entries above a threshold is a smooth function of it, and from one step to the next the threshold hardly
moves. So it is searched for: a few counts, and the answer is exact.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

MOST_GUESSES = 12  # before bisection of bit patterns, which takes at most MOST_LOOKS in all
MOST_LOOKS = 48
NEAR = 3  # counts from the goal at which entries are taken or left one by one
LANES = 4096  # numbers that are added side by side


def threshold_of_largest(values, n, guess, slope):
    """A threshold, not negative, above which lie exactly the `n` largest of `values`.

    Of equal entries all are above or none; so where the n-th largest has equals there may be more, or fewer.
    Where fewer than `n` are positive all of these are above.

    Args:
      values: float32 of any shape, fewer than 2^24.
      n: whole number [].
      guess: a threshold that may be near [], such as that of the last step.
      slope: entries per unit of threshold near it [], positive, or a guess.

    Returns:
      (threshold, smallest entry above it or infinity, slope), each [].
    """
    flat = jnp.ravel(values)
    table, n = flat.reshape(-1, LANES if flat.size % LANES == 0 else 1), n.astype(jnp.float32)

    def count_above(threshold):
        return jnp.where(table > threshold, 1.0, 0.0).sum(0).sum()

    def least_above(threshold):
        return jnp.where(table > threshold, table, jnp.inf).min(0).min()

    def before_largest_below(threshold):
        return _from_bits(_bits(jnp.where(table <= threshold, table, 0.0).max(0).max()) - 1)

    def is_open(state):
        i, _, count, low, high, *_ = state
        return (count != n) & (_bits(high) - _bits(low) > 1) & (i < MOST_LOOKS)

    def narrow(state):
        i, threshold, count, low, high, slope, last, last_count = state
        low, high = jnp.where(count > n, threshold, low), jnp.where(count < n, threshold, high)
        steepness = (last_count - count) / (threshold - last)
        is_sure = (jnp.abs(last_count - count) > 8 * NEAR) & (steepness > 0) & jnp.isfinite(steepness)
        slope = jnp.where(is_sure, steepness, slope)
        by_slope = threshold + (count - n) / slope
        halfway = _from_bits(_bits(low) + (_bits(high) - _bits(low)) // 2)
        may_guess = i < MOST_GUESSES
        guess = jnp.where((by_slope > low) & (by_slope < high) & may_guess, by_slope, halfway)
        is_near = (jnp.abs(count - n) <= NEAR) & may_guess
        one_on = jnp.where(count > n, 1, 2)
        new, new_count = jax.lax.switch(
            jnp.where(is_near, one_on, 0),
            (
                lambda _: (guess, count_above(guess)),
                lambda threshold: (least_above(threshold), count - 1),  # of equal entries more than one
                lambda threshold: (before_largest_below(threshold), count + 1),
            ),
            threshold,
        )
        return i + 1, new, new_count, low, high, slope, threshold, count

    first = jnp.where(guess > 0, guess, 1.0)
    zero, infinity = jnp.float32(0), jnp.float32(jnp.inf)
    count = count_above(first)
    state = jnp.int32(0), first, count, zero, infinity, slope, first, count
    _, threshold, _, _, _, slope, *_ = jax.lax.while_loop(is_open, narrow, state)
    return threshold, least_above(threshold), slope


def _bits(x):
    """Numbers that are not negative, as whole numbers in the same order."""
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def _from_bits(bits):
    return jax.lax.bitcast_convert_type(jnp.maximum(bits, 0), jnp.float32)
