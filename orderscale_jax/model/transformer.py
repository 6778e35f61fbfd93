"""The masked attention-only transformer, written as the journey digits -> SEP -> outputs.

The mask is the architecture: a layer is three reads, one per station (digits from digits, SEP
from digits, outputs from SEP and earlier outputs). A station that does not depend on the list yet
has batch size 1 and is broadcast only when a digit reaches it.

Dimensions: B lists, T = 2n+1 positions, L layers, H heads, D model, C head, V vocabulary.
"""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model.config import ModelConfig
from orderscale_jax.model.interventions import Interventions, Pass, checked
from orderscale_jax.model.numerics import einsum, matmul

LAYER_NORM_EPSILON = 1e-5


class ListTransformer(nnx.Module):
    """Digits [B, n] in, logits [B, n, V] at the output positions out.

    Raises:
      UserError: `config` is no ModelConfig, or the model is too large for this machine.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        check_kind("config", config, ModelConfig)
        config.check_size()
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
          lists: digits, integer [B, n], each below the size of the alphabet (outside `jit` checked).
          interventions: what to change on the way; see `Interventions`.
          trace: also return every residual, score and pattern. Otherwise only what an output can
            still see is computed.

        Returns:
          Logits [B, n, V] of the output positions, or (logits, Trace).

        Raises:
          UserError: lists or interventions that do not fit the model.
        """
        lists = self.config.check_lists(lists)
        if interventions is not None:
            interventions = checked(interventions, self.config, len(lists))
        run = Pass(interventions, n_lists=len(lists), trace=trace)
        *_, outputs = self.layers(self.stations(lists), run)
        logits = jnp.broadcast_to(self.logits(outputs), (*lists.shape, self.config.d_vocab))
        return (logits, run.trace()) if trace else logits

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(np.isfinite(array).all() for array in jax.tree.leaves(nnx.state(self, nnx.Param)))

    def layers(self, stations, run: Pass, *, first: int = 0, last: int | None = None):
        """Stations carried into layer `first`, taken through layers `first` … `last` - 1.

        With the default `last` the final residuals come back, patched where the pass says so.
        """
        for layer, block in enumerate(self.blocks[first:last], start=first):
            stations = block(run.enter(layer, stations), run)
        return run.enter(self.config.n_layers, stations) if last is None else stations

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
        logits = matmul(residual, self.unembed.W_U[...])
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

    def __call__(self, stations, run: Pass):
        """Stations (digits [B|1, n, D], SEP [B|1, 1, D], outputs [B|1, n, D]) one layer on."""
        n, layers_left = self.config.list_len, self.config.n_layers - self.layer - 1
        readable = self.config.graph.readable(self.layer)
        digits, sep, outputs = (self.ln1(x) for x in stations) if self.ln1 else stations
        at_digits, at_sep, at_outputs = slice(0, n), slice(n, n + 1), slice(n + 1, None)

        def read(queries, sources, rows, columns):
            can_read = readable[rows, columns]
            use = functools.partial(run.read, self.layer, rows, columns, can_read)
            return self.attn(queries, sources, can_read, use)

        # A digit's update is seen two layers later at the earliest (through SEP), SEP's one later.
        messages = [
            read(digits, (digits,), at_digits, at_digits) if run.traces or layers_left > 1 else None,
            read(sep, (digits,), at_sep, at_digits) if run.traces or layers_left > 0 else None,
            read(outputs, (sep, outputs), at_outputs, slice(n, None))
            if self.layer > 0
            else self.attn.silence(),
        ]
        if run.traces and self.layer == 0:
            run.silence(self.layer, self.config.graph.outputs, self.attn.own_scores(outputs))
        messages = [
            run.receive(self.layer, rows, message)
            for rows, message in zip((at_digits, at_sep, at_outputs), messages, strict=True)
        ]
        return tuple(
            station if message is None else self.feed_forward(station + message)
            for station, message in zip(stations, messages, strict=True)
        )

    def feed_forward(self, x):
        """A residual [..., D] after what follows attention: the MLP, if there is one."""
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

    def __call__(self, queries, sources, readable, use):
        """What `queries` [B|1, Q, D] read from `sources`, a tuple of [B|1, K_i, D]; [B|1, Q, D].

        `readable` [Q, K] is the mask; `use(scores, pattern)` [B|1, H, Q, K] gives the pattern to use.
        """
        q = self.project(queries, "Q")
        scores = _concatenate(
            [einsum("...qhc,...khc->...hqk", q, self.project(x, "K")) for x in sources], axis=-1
        )
        scores = jnp.where(readable, scores / np.sqrt(self.config.d_head), -jnp.inf)
        pattern = use(scores, jax.nn.softmax(scores))
        start, mixed = 0, 0.0
        for x in sources:
            share = pattern[..., start : start + x.shape[-2]]
            mixed = mixed + einsum("...hqk,...khc->...qhc", share, self.values(x))
            start += x.shape[-2]
        return self.write(mixed) + self.silence()

    def silence(self):
        """What a station that reads nothing receives: the output bias [1, 1, D], or zero."""
        return self.b_O[...][None, None] if self.config.bias else 0.0

    def own_scores(self, queries):
        """Scores [B|1, H, Q] of queries [B|1, Q, D] for themselves."""
        scores = einsum("...qhc,...qhc->...hq", self.project(queries, "Q"), self.project(queries, "K"))
        return scores / np.sqrt(self.config.d_head)

    def project(self, x, name):
        """Queries or keys [..., H, C] of x [..., D]."""
        projected = einsum("...d,hdc->...hc", x, getattr(self, f"W_{name}")[...])
        if not self.config.bias:
            return projected
        bias = getattr(self, f"b_{name}")[...]
        # b_K adds the same to a whole row of scores and the softmax does not see it: its gradient is
        # zero, and the rounding that would stand in its place is what AdamW amplifies.
        return projected + (jax.lax.stop_gradient(bias) if name == "K" else bias)

    def values(self, x):
        """Values [..., H, C] of x [..., D]."""
        heads, d_head = self.config.n_heads, self.config.d_head
        if self.config.learn_wv:
            values = einsum("...d,hdc->...hc", x, self.W_V[...])
        elif self.config.frozen_heads == "block":
            values = x.reshape(*x.shape[:-1], heads, d_head)
        else:
            values = jnp.broadcast_to(x[..., None, :d_head], (*x.shape[:-1], heads, d_head))
        return values + self.b_V[...] if self.config.bias else values

    def write(self, mixed):
        """What mixed values [..., H, C] add to the residual stream [..., D], without the output bias."""
        if self.config.learn_wo:
            return einsum("...hc,hcd->...d", mixed, self.W_O[...])
        if self.config.frozen_heads == "block":
            return mixed.reshape(*mixed.shape[:-2], self.config.d_model)
        padding = [(0, 0)] * (mixed.ndim - 2) + [(0, self.config.d_model - self.config.d_head)]
        return jnp.pad(mixed.sum(-2), padding)


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
        hidden = matmul(x, self.W_in[...])
        hidden = jax.nn.gelu(hidden + self.b_in[...] if self.config.bias else hidden, approximate=False)
        out = matmul(hidden, self.W_out[...])
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


@functools.cache
def graphdef(config: ModelConfig):
    """The static part of a model, to be merged with its parameters."""
    model = nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)[0]


def bind(config: ModelConfig, params) -> ListTransformer:
    """The model with these parameters."""
    return nnx.merge(graphdef(config), params)


def init_params(config: ModelConfig, key):
    """Fresh parameters (Normal(0, 0.8/sqrt(d_model)); biases 0) from a typed random key."""
    return nnx.state(ListTransformer(config, rngs=nnx.Rngs(params=key)), nnx.Param)


@functools.cache
def array_names(config: ModelConfig) -> tuple[str, ...]:
    """The published names of the trainable arrays, in the order of the leaves of `init_params`."""
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return tuple(".".join(map(str, path)) for path, _ in nnx.to_flat_state(params))


def matching_arrays(config: ModelConfig, pattern: str) -> tuple[str, ...]:
    """The arrays whose whole name matches the regular expression `pattern`.

    A pattern with `blocks.-` counts layers from the end: `blocks.-1.attn.W_Q` is that of the last one.

    Raises:
      UserError: `pattern` is not a regular expression, or there is no such array.
    """
    names = array_names(config)
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{pattern[:80]!r} is not a regular expression: {error}") from None

    def from_the_end(name):
        return re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) - config.n_layers}", name)

    backwards = "blocks.-" in pattern.replace("\\", "")
    found = tuple(n for n in names if expression.fullmatch(from_the_end(n) if backwards else n))
    if not found:
        raise UserError(f"the pattern {pattern!r} names no array of this model; there are {', '.join(names)}")
    return found


def frozen_projections(config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """The frozen W_V [H, D, C] and W_O [H, C, D] that slicing stands for."""
    identity = np.eye(config.d_model, dtype=np.float32)
    starts = [h * config.d_head if config.frozen_heads == "block" else 0 for h in range(config.n_heads)]
    W_V = np.stack([identity[:, s : s + config.d_head] for s in starts])
    return W_V, W_V.transpose(0, 2, 1)


def _concatenate(arrays, axis):
    """Concatenates arrays whose leading (batch) axes are equal or 1."""
    batch = next((array.shape[0] for array in arrays if array.shape[0] != 1), 1)
    return jnp.concatenate([jnp.broadcast_to(a, (batch, *a.shape[1:])) for a in arrays], axis)


def _weight(rngs: nnx.Rngs, d_model: int, *shape: int) -> nnx.Param:
    """A weight matrix drawn from Normal(0, 0.8 / sqrt(d_model))."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) * (0.8 / np.sqrt(d_model)))


def _zeros(*shape: int) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape))
