"""The masked attention-only transformer, written as the journey digits -> SEP -> outputs.

The mask is the architecture: a layer is three reads, one per station (digits from digits, SEP
from digits, outputs from SEP and earlier outputs). A station that does not depend on the list yet
has batch size 1 and is broadcast only when a digit reaches it.

Dimensions: B lists, T = 2n+1 positions, L layers, H heads, D model, C head, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.graph import Edge, Graph

LAYER_NORM_EPSILON = 1e-5
SMALLEST_ROW_SUM = 1e-12  # of a cut pattern row before it is rescaled; an emptied row stays 0
FROZEN_HEADS = ("shared", "block")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and variants of a model (paper, section 3 and appendix).

    Attributes:
      n_layers, n_heads, d_model: as usual; heads have `d_model // n_heads` dimensions.
      list_len, n_digits: of the lists it reads.
      layer_norm: LayerNorm before attention, before the MLP and before the unembedding.
      bias: learn b_Q, b_K, b_V, b_O, b_U (and the MLP's).
      learn_wv, learn_wo: learn the value or the output projection instead of freezing it.
      mlp: a GELU MLP of width 4 d_model after attention.
      frozen_heads: what several frozen heads project to. `shared`, as published: every head the
        first d_head dimensions. `block`: head h its own block, so that their sum is the identity.
    """

    n_layers: int = 2
    n_heads: int = 1
    d_model: int = 64
    list_len: int = 2
    n_digits: int = 100
    layer_norm: bool = False
    bias: bool = False
    learn_wv: bool = False
    learn_wo: bool = False
    mlp: bool = False
    frozen_heads: str = "shared"

    def __post_init__(self):
        for name in ("n_layers", "n_heads", "d_model", "list_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.n_digits < 2:
            raise ValueError(f"n_digits must be at least 2, got {self.n_digits}")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"model.n_heads must divide model.d_model: {self.d_model} is not a multiple of {self.n_heads}"
            )
        if self.frozen_heads not in FROZEN_HEADS:
            raise ValueError(f"model.frozen_heads must be 'shared' or 'block', got {self.frozen_heads!r}")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def d_vocab(self) -> int:
        """Digits, then MASK, then SEP."""
        return self.n_digits + 2

    @property
    def mask_token(self) -> int:
        return self.n_digits

    @property
    def sep_token(self) -> int:
        return self.n_digits + 1

    @property
    def n_positions(self) -> int:
        return 2 * self.list_len + 1

    @functools.cached_property
    def graph(self) -> Graph:
        return Graph(self.list_len, self.n_layers)


class ListTransformer(nnx.Module):
    """Digits [B, n] in, logits [B, n, V] at the output positions out."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        weight = functools.partial(_weight, rngs, config.d_model)
        self.config = config
        self.embed = Table(W_E=weight(config.d_vocab, config.d_model))
        self.pos_embed = Table(W_pos=weight(config.n_positions, config.d_model))
        self.blocks = nnx.List([Block(config, layer, rngs=rngs) for layer in range(config.n_layers)])
        self.ln_final = LayerNorm(config.d_model) if config.layer_norm else None
        self.unembed = Table(
            W_U=weight(config.d_model, config.d_vocab),
            **({"b_U": _zeros(config.d_vocab)} if config.bias else {}),
        )

    def __call__(self, lists, interventions: Interventions | None = None, *, trace: bool = False):
        """Runs the model.

        Args:
          lists: digits, integer [B, n], each below the size of the alphabet (inside a compiled function
            that cannot be checked; `task.check_lists` does outside).
          interventions: what to change on the way; see `Interventions`.
          trace: also return every residual, score and pattern. Otherwise only what an output can
            still see is computed.

        Returns:
          Logits [B, n, V] of the output positions, or (logits, Trace).

        Raises:
          ValueError: lists of another shape.
        """
        if lists.ndim != 2 or lists.shape[1] != self.config.list_len:
            raise ValueError(f"lists must have shape [B, {self.config.list_len}], got {list(lists.shape)}")
        with jax.default_matmul_precision("highest"):
            log = _TraceLog(lists.shape[0]) if trace else None
            stations = self.layers(self.stations(lists), interventions, log=log)
            _, _, outputs = stations
            logits = jnp.broadcast_to(self.logits(outputs), (*lists.shape, self.config.d_vocab))
            return (logits, log.finish(stations)) if trace else logits

    def layers(self, stations, interventions: Interventions | None = None, *, first=0, last=None, log=None):
        """Stations carried into layer `first`, taken through layers `first` … `last` - 1.

        With the default `last` the final residuals come back, patched where the intervention says.
        """
        for layer, block in enumerate(self.blocks[first:last], start=first):
            stations = block(_patch(stations, interventions, layer), interventions, log)
        return _patch(stations, interventions, self.config.n_layers) if last is None else stations

    def stations(self, lists):
        """Embedded stations: digits [B, n, D], SEP [1, 1, D], outputs [1, n, D]."""
        n = self.config.list_len
        W_E, W_pos = self.embed.W_E[...], self.pos_embed.W_pos[...]
        digits = W_E[lists] + W_pos[:n]
        sep = (W_E[self.config.sep_token] + W_pos[n])[None, None]
        outputs = (W_E[self.config.mask_token] + W_pos[n + 1 :])[None]
        return digits, sep, outputs

    def logits(self, residual):
        """Unembeds final residuals [..., D] to logits [..., V]."""
        if self.ln_final is not None:
            residual = self.ln_final(residual)
        logits = residual @ self.unembed.W_U[...]
        return logits + self.unembed.b_U[...] if self.config.bias else logits


class Block(nnx.Module):
    """One layer: every station reads, then (optionally) passes through an MLP."""

    def __init__(self, config: ModelConfig, layer: int, *, rngs: nnx.Rngs):
        self.config = config
        self.layer = layer
        self.ln1 = LayerNorm(config.d_model) if config.layer_norm else None
        self.attn = Attention(config, rngs=rngs)
        self.ln2 = LayerNorm(config.d_model) if config.layer_norm and config.mlp else None
        self.mlp = MLP(config, rngs=rngs) if config.mlp else None

    def __call__(self, stations, interventions: Interventions | None, log: _TraceLog | None):
        """Stations (digits [B|1, n, D], SEP [B|1, 1, D], outputs [B|1, n, D]) one layer on."""
        n, layers_left = self.config.list_len, self.config.n_layers - self.layer - 1
        readable = self.config.graph.readable(self.layer)
        digits, sep, outputs = (self.ln1(x) for x in stations) if self.ln1 else stations
        at_digits, at_sep, at_outputs = slice(0, n), slice(n, n + 1), slice(n + 1, None)

        def read(queries, sources, rows, columns):
            return self.attn(
                queries, sources, readable[rows, columns], interventions, (self.layer, rows, columns), log
            )

        # A digit's update is seen two layers later at the earliest (through SEP), SEP's one later.
        messages = [
            read(digits, (digits,), at_digits, at_digits) if log or layers_left > 1 else None,
            read(sep, (digits,), at_sep, at_digits) if log or layers_left > 0 else None,
            read(outputs, (sep, outputs), at_outputs, slice(n, None))
            if self.layer > 0
            else self.attn.silence(outputs, log),
        ]
        if log:
            log.layer(stations)
        return tuple(
            station if message is None else self._feed_forward(station + message)
            for station, message in zip(stations, messages, strict=True)
        )

    def _feed_forward(self, x):
        if self.mlp is None:
            return x
        return x + self.mlp(self.ln2(x) if self.ln2 else x)


class Attention(nnx.Module):
    """Heads that read; frozen projections are slices and cost nothing when they are the identity."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
        weight = functools.partial(_weight, rngs, d_model)
        self.config = config
        self.W_Q = weight(heads, d_model, d_head)
        self.W_K = weight(heads, d_model, d_head)
        if config.learn_wv:
            self.W_V = weight(heads, d_model, d_head)
        if config.learn_wo:
            self.W_O = weight(heads, d_head, d_model)
        if config.bias:
            self.b_Q, self.b_K, self.b_V = (_zeros(heads, d_head) for _ in range(3))
            self.b_O = _zeros(d_model)

    def __call__(self, queries, sources, readable, interventions, place, log):
        """What `queries` [B|1, Q, D] read from `sources`, a tuple of [B|1, K_i, D]; [B|1, Q, D].

        `readable` [Q, K] is the mask, `place` = (layer, rows, columns) where it lies in [L, T, T].
        """
        q = self._project(queries, "Q")
        scores = _concatenate(
            [jnp.einsum("...qhc,...khc->...hqk", q, self._project(x, "K")) for x in sources], axis=-1
        )
        scores = jnp.where(readable, scores / np.sqrt(self.config.d_head), -jnp.inf)
        pattern = _edit(jax.nn.softmax(scores), readable, interventions, place)
        if log:
            log.read(place, scores, pattern)
        start, mixed = 0, 0.0
        for x in sources:
            share = pattern[..., start : start + x.shape[-2]]
            mixed = mixed + jnp.einsum("...hqk,...khc->...qhc", share, self._values(x))
            start += x.shape[-2]
        return self._output(mixed)

    def silence(self, queries, log):
        """What a station that reads nothing receives: the output bias [1, 1, D], or zero."""
        if log:  # published models score the outputs' self-edges of layer 0, then discard them
            scores = jnp.einsum(
                "...qhc,...qhc->...hq", self._project(queries, "Q"), self._project(queries, "K")
            )
            log.silent(scores / np.sqrt(self.config.d_head))
        return self.b_O[...][None, None] if self.config.bias else 0.0

    def _project(self, x, name):
        """Queries or keys [..., H, C] of x [..., D]."""
        projected = jnp.einsum("...d,hdc->...hc", x, getattr(self, f"W_{name}")[...])
        if not self.config.bias:
            return projected
        bias = getattr(self, f"b_{name}")[...]
        # b_K adds the same to a whole row of scores and the softmax does not see it: its gradient is
        # zero, and the rounding that would stand in its place is what AdamW amplifies.
        return projected + (jax.lax.stop_gradient(bias) if name == "K" else bias)

    def _values(self, x):
        """Values [..., H, C] of x [..., D]."""
        heads, d_head = self.config.n_heads, self.config.d_head
        if self.config.learn_wv:
            values = jnp.einsum("...d,hdc->...hc", x, self.W_V[...])
        elif self.config.frozen_heads == "block":
            values = x.reshape(*x.shape[:-1], heads, d_head)
        else:
            values = jnp.broadcast_to(x[..., None, :d_head], (*x.shape[:-1], heads, d_head))
        return values + self.b_V[...] if self.config.bias else values

    def _output(self, mixed):
        """Writes mixed values [..., H, C] to the residual stream [..., D]."""
        if self.config.learn_wo:
            message = jnp.einsum("...hc,hcd->...d", mixed, self.W_O[...])
        elif self.config.frozen_heads == "block":
            message = mixed.reshape(*mixed.shape[:-2], self.config.d_model)
        else:
            padding = [(0, 0)] * (mixed.ndim - 2) + [(0, self.config.d_model - self.config.d_head)]
            message = jnp.pad(mixed.sum(-2), padding)
        return message + self.b_O[...] if self.config.bias else message


class MLP(nnx.Module):
    """GELU MLP of width 4 D."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        weight = functools.partial(_weight, rngs, config.d_model)
        self.config = config
        self.W_in = weight(config.d_model, 4 * config.d_model)
        self.W_out = weight(4 * config.d_model, config.d_model)
        if config.bias:
            self.b_in, self.b_out = _zeros(4 * config.d_model), _zeros(config.d_model)

    def __call__(self, x):
        hidden = x @ self.W_in[...]
        hidden = jax.nn.gelu(hidden + self.b_in[...] if self.config.bias else hidden, approximate=False)
        out = hidden @ self.W_out[...]
        return out + self.b_out[...] if self.config.bias else out


class LayerNorm(nnx.Module):
    """Normalises the last axis [..., D], then scales by `w` and shifts by `b`."""

    def __init__(self, d_model: int):
        self.w = nnx.Param(jnp.ones(d_model))
        self.b = _zeros(d_model)

    def __call__(self, x):
        x = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
        return x * scale * self.w[...] + self.b[...]


class Table(nnx.Module):
    """A named set of trainable arrays with no forward pass of its own."""

    def __init__(self, **arrays: nnx.Param):
        for name, array in arrays.items():
            setattr(self, name, array)


def frozen_projections(config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """The frozen W_V [H, D, C] and W_O [H, C, D] that slicing stands for."""
    identity = np.eye(config.d_model, dtype=np.float32)
    starts = [h * config.d_head if config.frozen_heads == "block" else 0 for h in range(config.n_heads)]
    W_V = np.stack([identity[:, s : s + config.d_head] for s in starts])
    return W_V, W_V.transpose(0, 2, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interventions:
    """What to change in a forward pass; arrays, so that `vmap` and `grad` go through them.

    Attributes:
      keep: weights [L, H|1, T, T] that multiply the patterns: 1 leaves an edge, 0 cuts it.
      renormalize: scalar bool; rescale a row that `keep` changed so that it sums to 1 again
        (an emptied row stays 0).
      patterns: patterns [L, B|1, H|1, T, T] to use instead of the computed ones, before `keep`.
      patterns_at: bool [L, T, T], the edges at which `patterns` replace; None means everywhere.
      residuals: residuals [L+1, B|1, T, D] to use instead of those entering layer 0 … L-1 and
        of the final ones (index L).
      residuals_at: bool [L+1, T], the positions at which `residuals` replace; needed with them.
    """

    keep: jax.Array | None = None
    renormalize: jax.Array | bool = True
    patterns: jax.Array | None = None
    patterns_at: jax.Array | None = None
    residuals: jax.Array | None = None
    residuals_at: jax.Array | None = None

    def __post_init__(self):
        if (self.residuals is None) != (self.residuals_at is None):
            raise ValueError("residuals and residuals_at must be given together: what to put, and where")


def cut(
    config: ModelConfig, edges: Iterable[Edge], *, head: int | None = None, renormalize: bool = True
) -> Interventions:
    """The intervention that cuts `edges` in every head, or in one.

    Raises:
      ValueError: an edge or the head does not exist.
    """
    return Interventions(keep=jnp.asarray(keep_weights(config, edges, head=head)), renormalize=renormalize)


def keep_weights(config: ModelConfig, edges: Iterable[Edge], *, head: int | None = None) -> np.ndarray:
    """Keep-weights [L, H, T, T] (H = 1 for all heads alike) with the given edges cut."""
    heads = 1 if head is None else config.n_heads
    if head is not None and not 0 <= head < config.n_heads:
        raise ValueError(f"head {head} does not exist: the model has heads 0 … {config.n_heads - 1}")
    keep = np.ones((config.n_layers, heads, config.n_positions, config.n_positions), np.float32)
    for layer, query, key in config.graph.check(edges):
        keep[layer, 0 if head is None else head, query, key] = 0.0
    return keep


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


class _TraceLog:
    """Gathers a Trace while the layers run."""

    def __init__(self, n_lists: int):
        self.n_lists = n_lists
        self.residuals, self.scores, self.patterns, self._reads, self._silent = [], [], [], [], None

    def read(self, place, scores, pattern):
        self._reads.append((place, scores, pattern))

    def silent(self, scores):
        self._silent = scores

    def layer(self, stations):
        self.residuals.append(self._whole(stations))
        n_heads, positions = self._reads[0][1].shape[-3], self.residuals[-1].shape[-2]
        shape = (self.n_lists, n_heads, positions, positions)
        all_scores, all_patterns = jnp.full(shape, -jnp.inf), jnp.zeros(shape)
        for (_, rows, columns), scores, pattern in self._reads:
            all_scores = all_scores.at[:, :, rows, columns].set(scores)
            all_patterns = all_patterns.at[:, :, rows, columns].set(pattern)
        if self._silent is not None:
            outputs = np.arange(positions // 2 + 1, positions)
            all_scores = all_scores.at[:, :, outputs, outputs].set(self._silent)
        self.scores.append(all_scores)
        self.patterns.append(all_patterns)
        self._reads, self._silent = [], None

    def finish(self, stations) -> Trace:
        residuals = [*self.residuals, self._whole(stations)]
        return Trace(jnp.stack(residuals), jnp.stack(self.scores), jnp.stack(self.patterns))

    def _whole(self, stations):
        return jnp.concatenate([jnp.broadcast_to(x, (self.n_lists, *x.shape[1:])) for x in stations], axis=1)


def _edit(pattern, readable, interventions: Interventions | None, place):
    """Applies pattern replacements and keep-weights to the pattern [B|1, H, Q, K] at `place`."""
    if interventions is None:
        return pattern
    layer, rows, columns = place
    if interventions.patterns is not None:
        given = interventions.patterns[layer][..., rows, columns] * readable
        where = True if interventions.patterns_at is None else interventions.patterns_at[layer][rows, columns]
        pattern = jnp.where(where, given, pattern)
    if interventions.keep is not None:
        keep = interventions.keep[layer][:, rows, columns]
        kept = pattern * keep
        is_cut = (keep != 1).any(-1, keepdims=True)
        rescaled = kept / jnp.maximum(kept.sum(-1, keepdims=True), SMALLEST_ROW_SUM)
        pattern = jnp.where(is_cut & interventions.renormalize, rescaled, kept)
    return pattern


def _patch(stations, interventions: Interventions | None, layer: int):
    """Replaces residuals entering `layer` where the intervention says so."""
    if interventions is None or interventions.residuals is None:
        return stations
    given, where, start, patched = interventions.residuals[layer], interventions.residuals_at[layer], 0, []
    for station in stations:
        rows = slice(start, start + station.shape[1])
        patched.append(jnp.where(where[rows, None], given[:, rows], station))
        start = rows.stop
    return tuple(patched)


def _concatenate(arrays, axis):
    """Concatenates arrays whose leading (batch) axes are equal or 1."""
    batch = max(array.shape[0] for array in arrays)
    return jnp.concatenate([jnp.broadcast_to(a, (batch, *a.shape[1:])) for a in arrays], axis)


def _weight(rngs: nnx.Rngs, d_model: int, *shape: int) -> nnx.Param:
    """A weight matrix drawn from Normal(0, 0.8 / sqrt(d_model))."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) * (0.8 / np.sqrt(d_model)))


def _zeros(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape))
