"""What may be changed in a forward pass, and what can be seen of it.

An intervention is arrays, so `vmap` runs many side by side and `grad` tells what each would do. Shapes
are known while tracing and always checked; values are checked where they are known, outside `jit`.

Dimensions: B lists, T = 2n+1 positions, L layers, H heads, D model.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.errors import UserError
from orderscale_jax.graph import Edge
from orderscale_jax.model.config import ModelConfig

MODES = ("renormalize", "zero")  # what becomes of the rest of a row in which an edge is cut, as published
CUTS = (*MODES, "mean", "resample")  # every meaning of a cut, see `model.cuts`
SMALLEST_ROW_SUM = 1e-12  # as published: a cut row with less left than this counts as nearly emptied


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interventions:
    """What to change in a forward pass. `cut` and `patch` make the most frequent ones.

    Attributes:
      keep: weights [L, H|1, T, T] that multiply the patterns: 1 leaves an edge, 0 cuts it.
      renormalize: scalar bool; rescale the rows that `keep` changes to the sum they had, which is 1
        (an emptied row stays 0).
      patterns: patterns [L, B|1, H|1, T, T] to use instead of the computed ones, before `keep`.
      patterns_at: bool [L, T, T], the edges at which `patterns` replace; None means everywhere.
      residuals: residuals [L+1, B|1, T, D] to use instead of those entering layer 0 … L-1 and
        of the final ones (index L).
      residuals_at: bool [L+1, T], the positions at which `residuals` replace; needed with them.
      added: vectors [L, B|1, T, D] added to what a position reads in layer 0 … L-1: a direction to steer
        along, or the messages that replace those of cut edges.
    """

    keep: jax.Array | None = None
    renormalize: jax.Array | bool = True
    patterns: jax.Array | None = None
    patterns_at: jax.Array | None = None
    residuals: jax.Array | None = None
    residuals_at: jax.Array | None = None
    added: jax.Array | None = None


def cut(
    config: ModelConfig, edges: Iterable[Edge | str], *, head: int | None = None, renormalize: bool = True
) -> Interventions:
    """The intervention that cuts `edges`, (layer, query, key) or `L1 o2<-o1`, in every head or in one.

    Raises:
      UserError: an edge or the head does not exist.
    """
    return Interventions(keep=jnp.asarray(keep_weights(config, edges, head=head)), renormalize=renormalize)


def keep_weights(config: ModelConfig, edges: Iterable[Edge | str], *, head: int | None = None) -> np.ndarray:
    """Keep-weights [L, H, T, T] (H = 1 for all heads alike) with the given edges cut."""
    if not isinstance(config, ModelConfig):
        raise UserError(f"edges are cut by model.config and not by a {type(config).__name__}")
    check_head(config, head)
    heads = 1 if head is None else config.n_heads
    keep = np.ones((config.n_layers, heads, config.n_positions, config.n_positions), np.float32)
    for layer, query, key in config.graph.check(edges):
        keep[layer, 0 if head is None else head, query, key] = 0.0
    return keep


def patch(model: nnx.Module, donors, layer: int, position: int | str) -> Interventions:
    """The intervention that replaces a list's residual at one position and layer by that of another list.

    Args:
      model: the ListTransformer that will be run.
      donors: lists [B, n], one for each list that will be run, or [1, n] for all of them.
      layer: the residual that enters this layer; `n_layers` is the final one.
      position: index 0 … T-1, or a name: `d1`, `SEP`, `o2`.

    Raises:
      UserError: lists that do not fit the model, or a layer or position that does not exist.
    """
    if isinstance(model, ModelConfig):
        raise UserError("patch runs the model, so it needs the model and not its configuration")
    config = model.config
    position = config.graph.position(position)
    layer = check_index("layer", layer, config.n_layers + 1)
    at = np.zeros((config.n_layers + 1, config.n_positions), bool)
    at[layer, position] = True
    lists = config.check_lists(donors)
    return Interventions(residuals=_residuals(*nnx.split(model), lists), residuals_at=jnp.asarray(at))


@functools.partial(jax.jit, static_argnums=0)
def _residuals(graphdef, state, lists):
    return nnx.merge(graphdef, state)(lists, trace=True)[1].residuals


def check_head(config: ModelConfig, head: int | None):
    """UserError unless the model has this head; None stands for all of them."""
    if head is not None:
        check_index("head", head, config.n_heads)


def check_mode(mode: str):
    """UserError unless `mode` is one of CUTS."""
    if not isinstance(mode, str) or mode not in CUTS:
        raise UserError(f"mode must be one of {', '.join(CUTS)}; got {mode!r}")


def check_index(what: str, value: Any, count: int) -> int:
    """`value` as an index; UserError unless the model has so many of what it counts, and this one."""
    try:
        index = operator.index(value)
    except TypeError:
        index = None
    if index is None or isinstance(value, bool):
        raise UserError(f"{what} must be a whole number, got {value!r}")
    if not 0 <= index < count:
        raise UserError(f"{what} {index} does not exist: the model has {what}s 0 … {count - 1}")
    return index


def checked(interventions: Interventions, config: ModelConfig, n_lists: int) -> Interventions:
    """`interventions` with arrays throughout, if they fit a model and so many lists.

    Raises:
      UserError: a shape or type is not as `Interventions` says; outside `jit` also where a number is
        not finite or a weight of an edge is negative.
    """
    if not isinstance(interventions, Interventions):
        raise UserError(
            f"interventions must be given as Interventions, as cut() and patch() make them; got "
            f"{type(interventions).__name__}"
        )
    L, H, T, D = config.n_layers, config.n_heads, config.n_positions, config.d_model
    shapes = {
        "keep": (L, {1, H}, T, T),
        "renormalize": (),
        "patterns": (L, {1, n_lists}, {1, H}, T, T),
        "patterns_at": (L, T, T),
        "residuals": (L + 1, {1, n_lists}, T, D),
        "residuals_at": (L + 1, T),
        "added": (L, {1, n_lists}, T, D),
    }
    arrays = {}
    for name, shape in shapes.items():
        value = getattr(interventions, name)
        if value is None and name != "renormalize":
            continue
        arrays[name] = _checked_array(name, value, shape)
    for what, where, required in (
        ("residuals", "residuals_at", True),
        ("patterns", "patterns_at", False),
    ):
        if (where in arrays and what not in arrays) or (required and what in arrays and where not in arrays):
            raise UserError(f"{what} and {where} must be given together: what to put, and where")
    return Interventions(**arrays)


def _checked_array(name: str, value: Any, shape: tuple[int | set[int], ...]):
    """`value` as an array of this shape, each length a number or a set of them."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        try:
            array = np.asarray(value)
        except ValueError:  # a ragged list
            array = np.asarray(None)
        if array.dtype == object:
            raise UserError(f"{name} must be an array of numbers, got {type(value).__name__}")
        value = array.astype(np.float32) if array.dtype == np.float64 else array
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise UserError(f"{name} must hold numbers, got {value.dtype}")
    fits = len(value.shape) == len(shape) and all(
        length in (allowed if isinstance(allowed, set) else {allowed})
        for length, allowed in zip(value.shape, shape, strict=True)
    )
    if not fits:
        lengths = (" or ".join(map(str, sorted(x))) if isinstance(x, set) else str(x) for x in shape)
        raise UserError(f"{name} must have shape [{', '.join(lengths)}], got {list(value.shape)}")
    is_mask = name == "renormalize" or name.endswith("_at")
    if is_mask and value.dtype != bool:
        raise UserError(f"{name} must hold truth values, got {value.dtype}")
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise UserError(f"{name} must hold real numbers, got {value.dtype}")
    if not is_mask and not isinstance(value, jax.core.Tracer):
        numbers = np.asarray(value)
        if not np.isfinite(numbers).all() or (name == "keep" and (numbers < 0).any()):
            raise UserError(f"{name} must hold finite numbers{', none below 0' * (name == 'keep')}")
    return value


def rescaled(kept, left, lost):
    """A row of attention of which some was cut, scaled back to the sum it had before.

    At keep-weights of 1 nothing is lost, so the row stays bit for bit as it was, and the gradient is
    that of a rescaled row all the same.

    Args:
      kept: what is left of the row, or of one edge of it.
      left, lost: sums over the row of what is left of it and of what was taken away.
    """
    return kept * jnp.where(left > 0, 1.0 + lost / jnp.maximum(left, SMALLEST_ROW_SUM), 0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """Everything a forward pass computed, at every position.

    Attributes:
      residuals: [L+1, B, T, D]; index l enters layer l, index L is final.
      scores: [L, B, H, T, T] before the softmax, -inf where the mask forbids.
      patterns: [L, B, H, T, T] as used, after any intervention.
    """

    residuals: jax.Array
    scores: jax.Array
    patterns: jax.Array


class Pass:
    """One forward pass: changes on the way what its interventions say, and keeps what is to be seen.

    The model calls it in four places: with the stations that enter a layer, with the pattern of every
    read, where a station reads nothing, and with what each has read.
    """

    def __init__(self, interventions: Interventions | None = None, *, n_lists: int = 0, trace: bool = False):
        """`interventions` must have been `checked`; `n_lists` is needed for a trace."""
        self.interventions, self.n_lists, self.traces = interventions, n_lists, trace
        self._residuals, self._scores, self._patterns = [], [], []

    def enter(self, layer: int, stations):
        """The stations (arrays [B|1, positions, D]) with which `layer` begins; L means the end."""
        given = self.interventions
        if given is not None and given.residuals is not None:
            residuals, where, start, patched = given.residuals[layer], given.residuals_at[layer], 0, []
            for station in stations:
                rows = slice(start, start + station.shape[1])
                patched.append(jnp.where(where[rows, None], residuals[:, rows], station))
                start = rows.stop
            stations = tuple(patched)
        if self.traces:
            whole = [jnp.broadcast_to(x, (self.n_lists, *x.shape[1:])) for x in stations]
            self._residuals.append(jnp.concatenate(whole, axis=1))
        return stations

    def read(self, layer: int, rows: slice, columns: slice, readable, scores, pattern):
        """The pattern to use at [rows, columns] of `layer`; scores and pattern are [B|1, H, Q, K]."""
        given = self.interventions
        if given is not None and given.patterns is not None:
            replacing = given.patterns[layer][..., rows, columns] * readable
            where = True if given.patterns_at is None else given.patterns_at[layer][rows, columns]
            pattern = jnp.where(where, replacing, pattern)
        if given is not None and given.keep is not None:
            kept = pattern * given.keep[layer][:, rows, columns]
            left, lost = (x.sum(-1, keepdims=True) for x in (kept, pattern - kept))
            pattern = jnp.where(given.renormalize, rescaled(kept, left, lost), kept)
        if self.traces:
            self._put(self._scores, layer, -jnp.inf, scores, (rows, columns))
            self._put(self._patterns, layer, 0.0, pattern, (rows, columns))
        return pattern

    def receive(self, layer: int, rows: slice, message):
        """What the stations at `rows` get where `message` [B|1, positions, D] is what they read."""
        given = self.interventions
        if message is None or given is None or given.added is None:
            return message
        return message + given.added[layer][:, rows]

    def silence(self, layer: int, positions, scores):
        """Scores [B|1, H, Q] of positions for themselves, which published models compute and discard."""
        positions = np.asarray(positions)
        self._put(self._scores, layer, -jnp.inf, scores, (positions, positions))

    def trace(self) -> Trace:
        """What was seen, after the last layer."""
        return Trace(jnp.stack(self._residuals), jnp.stack(self._scores), jnp.stack(self._patterns))

    def _put(self, seen: list, layer: int, blank: float, values, place):
        """Writes values at a place of a layer's [B, H, T, T], made with `blank` when it is first seen."""
        if len(seen) == layer:
            positions = self._residuals[-1].shape[1]
            seen.append(jnp.full((self.n_lists, values.shape[1], positions, positions), blank))
        seen[layer] = seen[layer].at[:, :, *place].set(values)
