"""The same forward pass as a list of scales.

With one head and frozen identity projections a residual never leaves the span of the source
vectors X_s = E[token_s] + P_s: it is one scale per source, and attention only mixes scales.
Scores and logits are scales times entries of small tables over (position, token), so the network
runs per list on a few numbers and touches d_model only when the tables are made. It is exact; the
residual form in `model` is the definition.

A position's residual is a dict {source position: scale}; a scale is a Python number where it is
structurally constant, an array [] where it is the same for every list, else an array [B].
Sources that are structurally zero are absent.

Dimensions: B lists, N digits, D model, V vocabulary (padded: W).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax.errors import UserError
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model.config import ModelConfig
from orderscale_jax.model.interventions import rescaled
from orderscale_jax.model.numerics import matmul
from orderscale_jax.model.readout import column, readout_loss
from orderscale_jax.model.tables import lookup
from orderscale_jax.model.transformer import ListTransformer

LANES = 16  # float32 numbers in the widest CPU vector; rows of a multiple of it vectorise whole
MOST_TERMS = 108  # three digits in four layers, two in thirteen
IMPOSSIBLE = -1e30  # logit of a padding column

Scale = jax.Array | float
ScoreRule = Callable[[list[Scale]], list[Scale]]


def is_faster(config: ModelConfig) -> bool:
    """Whether this form applies and is the faster one; past these sizes compilation takes too long.

    Two digits in four layers take a tenth of the other form's time a step, and 10 s more to compile.
    """
    return not config.variants and config.n_layers * config.list_len**3 <= MOST_TERMS


def check_plain(config: ModelConfig):
    """UserError unless this form applies to the model."""
    if config.variants:
        raise UserError(
            "the scale form needs one head, frozen projections and attention alone; this model has "
            + ", ".join(config.variants)
        )


def logits(model: ListTransformer, lists, rule: ScoreRule | None = None) -> jax.Array:
    """Logits [B, n, V], equal to `model(lists)` where there is no `rule`."""
    form = Scales(model, lists, rule=rule)
    lists, table = form.lists, LogitTable(model)
    rows = table.rows(lists)
    outputs = [form.final(position) for position in model.config.graph.outputs]
    columns = [jnp.broadcast_to(table.logits(o, rows), (len(lists), table.width)) for o in outputs]
    return jnp.stack(columns, axis=1)[..., : model.config.d_vocab]


def loss(model: ListTransformer, lists, rule: ScoreRule | None = None) -> jax.Array:
    """Mean cross-entropy over lists and outputs, with a gradient made in the forward pass."""
    form = Scales(model, lists, rule=rule)
    lists, table = form.lists, LogitTable(model)
    outputs = [form.final(position) for position in model.config.graph.outputs]
    varying = tuple({s: c for s, c in o.items() if not isinstance(c, float)} for o in outputs)
    constant = tuple(tuple((s, c) for s, c in o.items() if isinstance(c, float)) for o in outputs)
    return readout_loss(constant, table.digits, table.shared, varying, lists)


class Mixing:
    """Residuals in scales, each computed once, from scores that are given.

    `score(layer, query, key)` is X_query W_Q W_K' X_key' / sqrt(d) for every list, or a number that all
    share. Attention to an edge in `keep` is multiplied by its weight, a number or an array []; with
    `renormalize` the row is then rescaled to sum 1 (a row without any attention left stays 0). `rule`
    changes the scores with which an output of the last layer chooses between several keys, SEP first.
    """

    def __init__(
        self,
        graph: Graph,
        score: Callable[[int, int, int], jax.Array],
        keep: Mapping[Edge | str, Scale] | None = None,
        renormalize: bool = True,
        rule: ScoreRule | None = None,
    ):
        keep = keep or {}
        self.graph, self.score = graph, score
        self.keep = dict(zip(graph.check(keep), keep.values(), strict=True))
        self.renormalize, self.rule = renormalize, rule
        self.attended: dict[tuple[int, int], list[Scale]] = {}  # by layer and query, as far as was asked
        self._residuals = {}

    def final(self, position: int) -> dict[int, Scale]:
        """Scales of the final residual at `position`."""
        return self.residual(self.graph.n_layers, position)

    def residual(self, layer: int, position: int) -> dict[int, Scale]:
        """Scales of the residual that `position` carries into `layer`."""
        if (layer, position) not in self._residuals:
            found = {position: 1.0} if layer == 0 else self._read(layer - 1, position)
            self._residuals[layer, position] = found
        return self._residuals[layer, position]

    def _read(self, layer: int, query: int) -> dict[int, Scale]:
        """The residual after `query` has read its keys in `layer`."""
        own, edges = self.residual(layer, query), self.graph.reads(layer, query)
        if not edges:
            return own
        carried = [self.residual(layer, edge.key) for edge in edges]
        weights = self.attention(layer, own, carried)
        if any(edge in self.keep for edge in edges):
            kept = [w * self.keep.get(edge, 1.0) for w, edge in zip(weights, edges, strict=True)]
            if self.renormalize:
                lost = sum(weight - left for weight, left in zip(weights, kept, strict=True))
                left = sum(kept)
                kept = [rescaled(weight, left, lost) for weight in kept]
            weights = kept
        self.attended[layer, query] = weights
        out = dict(own)
        for weight, residual in zip(weights, carried, strict=True):
            for source, scale in residual.items():
                out[source] = out.get(source, 0.0) + weight * scale
        return out

    def attention(self, layer: int, query: dict[int, Scale], keys: list[dict[int, Scale]]) -> list[Scale]:
        """Attention weights of one query over its keys, each residual in scales."""
        if len(keys) == 1:
            return [1.0]
        scores = [
            sum(cq * ck * self.score(layer, q, k) for q, cq in query.items() for k, ck in key.items())
            for key in keys
        ]
        if self.rule is not None and layer > 0 and layer == self.graph.n_layers - 1:
            scores = self.rule(scores)
        # Not a logistic function for two keys: compilers write it with tanh, whose small values are noise,
        # and rescaling a cut row divides by them.
        top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, scores))
        weights = [jnp.exp(score - top) for score in scores]
        total = sum(weights)
        return [weight / total for weight in weights]


class Scales(Mixing):
    """Residuals of `lists` [B, n] in scales; `keep`, `renormalize` and `rule` are as for `Mixing`.

    All methods trace into the surrounding computation.
    """

    def __init__(
        self,
        model: ListTransformer,
        lists,
        keep: Mapping[Edge | str, Scale] | None = None,
        renormalize: bool = True,
        rule: ScoreRule | None = None,
    ):
        config = model.config
        check_plain(config)
        super().__init__(config.graph, self._score, keep, renormalize, rule)
        self.model, self.lists = model, config.check_lists(lists)
        self.sources = _sources(model)
        self._scores, self._queries = {}, {}

    def _score(self, layer: int, query: int, key: int) -> jax.Array:
        """X_query W_Q W_K' X_key' / sqrt(d) for every list: [B], or [] between non-digits."""
        if (layer, query, key) not in self._scores:
            n = self.graph.list_len
            table = matmul(self._query(layer, query), self.sources[key].T)  # [N, N], [N] or []
            digits = [self.lists[:, source] for source in (query, key) if source < n]
            self._scores[layer, query, key] = lookup(table, *digits) if digits else table
        return self._scores[layer, query, key]

    def _query(self, layer: int, source: int):
        """X_source W_Q W_K' / sqrt(d), [N, D] or [D]: what a key is compared with."""
        if (layer, source) not in self._queries:
            attn = self.model.blocks[layer].attn
            query = matmul(self.sources[source], attn.W_Q[0]) / np.sqrt(self.model.config.d_head)
            self._queries[layer, source] = matmul(query, attn.W_K[0].T)
        return self._queries[layer, source]


class LogitTable:
    """What every source writes to the logits: rows of X U.

    Attributes:
      width: W, the vocabulary padded to whole vectors.
      digits: n arrays [N, W], the rows of the digits at each position of the list.
      shared: [1+n, W], the rows of SEP and the outputs, impossible in the padding columns.
    """

    def __init__(self, model: ListTransformer):
        n = model.config.list_len
        padding = -model.config.d_vocab % LANES
        W_U = jnp.pad(model.unembed.W_U[...], ((0, 0), (0, padding)))
        sources = _sources(model)
        self.width = model.config.d_vocab + padding
        self.digits = tuple(matmul(source, W_U) for source in sources[:n])
        shared = matmul(jnp.stack(sources[n:]), W_U)
        # Every output holds its own source, so one impossible column there rules padding out.
        self.shared = jnp.where(np.arange(self.width) < model.config.d_vocab, shared, IMPOSSIBLE)

    def rows(self, lists) -> tuple[jax.Array, ...]:
        """The rows of the digits of lists [B, n]: n arrays [B, W]."""
        return tuple(lookup(table, lists[:, i]) for i, table in enumerate(self.digits))

    def logits(self, scales: dict[int, Scale], rows) -> jax.Array:
        """Logits [B|1, W] of an output's residual given in scales, for the `rows` of some lists."""
        n = len(rows)
        return sum(column(c) * (rows[s] if s < n else self.shared[s - n]) for s, c in scales.items())


def _sources(model: ListTransformer) -> list[jax.Array]:
    """Source vectors by position: [N, D] for a digit, [D] for SEP and the outputs."""
    config, n = model.config, model.config.list_len
    W_E, W_pos = model.embed.W_E[...], model.pos_embed.W_pos[...]
    digits = [W_E[: config.n_digits] + W_pos[i] for i in range(n)]
    outputs = [W_E[config.mask_token] + W_pos[o] for o in config.graph.outputs]
    return [*digits, W_E[config.sep_token] + W_pos[n], *outputs]
