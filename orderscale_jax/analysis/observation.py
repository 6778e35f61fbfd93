"""One pass of a model over lists, observed once and shared by every analysis.

Dimensions: B lists, n list length, T = 2n+1 positions, L layers, H heads, D model, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax import task
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.graph import Graph
from orderscale_jax.model import Interventions, ListTransformer, metrics
from orderscale_jax.model.interventions import checked
from orderscale_jax.model.numerics import matmul
from orderscale_jax.printing import Printable

CHUNK = 2048  # lists on the device at once, so that its memory does not grow with the validation set


@dataclasses.dataclass(frozen=True, repr=False)
class Outcome(Printable):
    """What a model answered.

    Attributes:
      predictions: int [B, n], the arg-max tokens over all V.
      correct: bool [B, n], whether each output is right.
      loss: mean cross-entropy over lists and outputs, in nats.
    """

    predictions: np.ndarray
    correct: np.ndarray
    loss: float

    @property
    def accuracy(self) -> float:
        """Fraction of output tokens right."""
        return float(self.correct.mean())

    @property
    def per_position_accuracy(self) -> np.ndarray:
        """Fraction right of each output, [n]."""
        return self.correct.mean(0)

    @property
    def list_correct(self) -> np.ndarray:
        """bool [B], whether all n outputs are right."""
        return self.correct.all(1)

    @property
    def sequence_accuracy(self) -> float:
        """Fraction of lists with all n outputs right."""
        return float(self.list_correct.mean())

    def table(self) -> str:
        """How often each output and the whole list is right, and the loss."""
        each = [(f"o{i + 1} right", percent(x)) for i, x in enumerate(self.per_position_accuracy)]
        return columns(
            [
                ("outputs right", percent(self.accuracy)),
                *each,
                ("lists entirely right", percent(self.sequence_accuracy)),
                ("loss, nats", number(self.loss, 4)),
            ]
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Observation(Outcome):
    """A model, lists, and what the analyses need of a forward pass without interventions.

    Attributes:
      model, lists: what was observed; lists int32 [B, n].
      patterns: [L, B, H, T, T].
      sep_scores: scores of SEP's reads of the digits before the softmax, [L, B, H, n].
      residuals: final residuals of the outputs [B, n, D], before any final LayerNorm.
      lens: int [L+1, B, T], arg-max of residual @ W_U where layer l begins (index L: at the end).
    """

    model: ListTransformer
    lists: np.ndarray
    patterns: np.ndarray
    sep_scores: np.ndarray
    residuals: np.ndarray
    lens: np.ndarray

    @property
    def graph(self) -> Graph:
        return self.model.config.graph

    @property
    def sep_reads(self) -> np.ndarray:
        """How much of each digit SEP takes in, [L, B, H, n]; alpha is layer 0."""
        n = self.graph.list_len
        return self.patterns[:, :, :, n, :n]

    @property
    def output_reads(self) -> np.ndarray:
        """What the outputs (second last axis) take of SEP, o1 … o(n-1) (last axis), [L, B, H, n, n].

        Beta is the last layer and the last output.
        """
        n = self.graph.list_len
        return self.patterns[:, :, :, n + 1 :, n : 2 * n]


def observe(model: ListTransformer, lists: np.ndarray) -> Observation:
    """Runs `model` over `lists` [B, n] once.

    Raises:
      UserError: no lists, lists of another length, or digits outside the model's alphabet.
    """
    check_kind("model", model, ListTransformer)
    lists = task.check_lists(lists, model.config.list_len, model.config.n_digits)
    if not len(lists):
        raise UserError("there is nothing to analyse: give at least one list")
    if not model.is_finite():
        raise UserError("this model cannot be analysed: some of its weights are not finite numbers")
    seen = _in_chunks(model, lists, lambda indices: None)
    return Observation(
        model=model,
        lists=lists,
        predictions=seen["predictions"],
        correct=seen["correct"],
        loss=float(seen["loss"].mean(dtype=np.float64)),
        patterns=seen["patterns"].swapaxes(0, 1),
        sep_scores=seen["sep_scores"].swapaxes(0, 1),
        residuals=seen["residuals"],
        lens=seen["lens"].swapaxes(0, 1),
    )


def intervene(
    observation: Observation,
    *,
    keep=None,
    renormalize: bool = True,
    patterns=None,
    patterns_at=None,
    residuals=None,
    residuals_at=None,
    added=None,
) -> Outcome:
    """Runs the observed model over the observed lists again, with something changed on the way.

    Most analyses use one compiled function. Patterns and weights that are not given are therefore filled in
    with values that change nothing.

    Args:
      keep: weights [L, H|1, T, T] that multiply the patterns (`model.keep_weights`).
      renormalize: rescale the rows that `keep` changed so that they sum to 1 again.
      patterns: [L, B|1, H|1, T, T] to use instead of the model's own.
      patterns_at: bool [L, T, T], the edges at which they replace them; everywhere if not given.
      residuals, residuals_at, added: as for `Interventions`.

    Raises:
      UserError: a shape, type or value is not as it must be.
    """
    check_kind("observation", observation, Observation)
    given = Interventions(keep, renormalize, patterns, patterns_at, residuals, residuals_at, added)
    given = checked(given, observation.model.config, len(observation.lists))
    keep, patterns, patterns_at = given.keep, given.patterns, given.patterns_at
    L, _, H, T, _ = observation.patterns.shape
    shape = (L, len(observation.lists), H, T, T)
    if patterns is None:
        patterns, patterns_at = np.zeros((L, 1, H, T, T), np.float32), np.zeros((L, T, T), bool)
    elif patterns_at is None:
        patterns_at = np.ones((L, T, T), bool)
    patterns = np.broadcast_to(patterns, shape)
    keep = np.broadcast_to(np.float32(1) if keep is None else keep, (L, H, T, T))

    def of_lists(array, indices):
        if array is None:
            return None
        return jnp.asarray(array if array.shape[1] == 1 else np.asarray(array)[:, indices])

    def interventions(indices):
        return Interventions(
            keep=jnp.asarray(keep),
            renormalize=jnp.asarray(renormalize),
            patterns=jnp.asarray(patterns[:, indices]),
            patterns_at=jnp.asarray(patterns_at),
            residuals=of_lists(given.residuals, indices),
            residuals_at=given.residuals_at,
            added=of_lists(given.added, indices),
        )

    seen = _in_chunks(observation.model, observation.lists, interventions)
    return Outcome(seen["predictions"], seen["correct"], float(seen["loss"].mean(dtype=np.float64)))


def chunks(n_lists: int) -> Iterator[slice]:
    """Consecutive slices of at most CHUNK lists."""
    for start in range(0, n_lists, CHUNK):
        yield slice(start, min(start + CHUNK, n_lists))


def _in_chunks(model: ListTransformer, lists: np.ndarray, interventions) -> dict[str, np.ndarray]:
    """What `see_chunk` sees of every list, chunk by chunk; `interventions` is a function of list indices."""
    graphdef, state = nnx.split(model)
    size, seen = min(CHUNK, len(lists)), []
    for part in chunks(len(lists)):
        # the last chunk is filled up with its last list: one shape, one compilation
        indices = np.minimum(np.arange(part.start, part.start + size), len(lists) - 1)
        found = jax.device_get(
            see_chunk(graphdef, state, jnp.asarray(lists[indices]), interventions(indices))
        )
        seen.append({name: x[: part.stop - part.start] for name, x in found.items()})
    return {name: np.concatenate([chunk[name] for chunk in seen]) for name in seen[0]}


@functools.partial(jax.jit, static_argnums=0)
def see_chunk(graphdef, state, lists, interventions: Interventions | None):
    """Answers, and for an undisturbed pass the rest of an Observation; every array has B first."""
    model = nnx.merge(graphdef, state)
    if interventions is not None:
        return _answers(model(lists, interventions), lists)
    n, W_U = model.config.list_len, model.unembed.W_U[...]
    logits, trace = model(lists, trace=True)
    lens = jnp.argmax(matmul(trace.residuals, W_U), axis=-1)
    return _answers(logits, lists) | {
        "patterns": trace.patterns.swapaxes(0, 1),
        "sep_scores": trace.scores[:, :, :, n, :n].swapaxes(0, 1),
        "residuals": trace.residuals[-1, :, n + 1 :],
        "lens": lens.swapaxes(0, 1),
    }


def _answers(logits, lists):
    return {
        "predictions": jnp.argmax(logits, axis=-1),
        "correct": metrics.is_correct(logits, lists),
        "loss": jax.vmap(metrics.cross_entropy)(logits, lists),
    }
