"""What it means to cut an edge: what its query receives in place of the message that the edge carried.

- `renormalize`: nothing, and the rest of the row of attention is rescaled to the sum it had (as published).
- `zero`: nothing, and the rest of the row stays as it was (as published).
- `mean`: the mean message of the edge over the lists; the rest of the row stays as it was.
- `resample`: the message that the edge carries for another of the lists, drawn at random.

Messages are those of the intact model.

Dimensions: E live edges, B lists, L layers, H heads, T positions, D model.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax.errors import UserError
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model.config import ModelConfig
from orderscale_jax.model.interventions import Interventions, check_head, check_mode
from orderscale_jax.model.transformer import ListTransformer

CHUNK = 2048  # lists whose traces are alive at once


def replacements(model: ListTransformer, lists, mode: str, *, seed: int = 0, head: int | None = None):
    """The messages [E, B|1, D] that replace those of cut live edges; None where nothing does.

    Args:
      model: any model.
      lists: digits [B, n], over which `mean` takes its mean and from which `resample` draws: every list
        gets the messages of one other, and every list is drawn once.
      mode: one of `CUTS`.
      seed: of the drawing.
      head: the head in which edges are cut; None for all.

    Raises:
      UserError: a mode or head that does not exist, or fewer than two lists to draw from.
    """
    check_mode(mode)
    check_head(model.config, head)
    if mode not in ("mean", "resample"):
        return None
    lists = np.asarray(model.config.check_lists(lists))
    if mode == "resample" and len(lists) < 2:
        raise UserError("resample draws the message of another list, so it needs at least two lists")
    if not model.config.graph.live_edges:
        return np.zeros((0, 1, model.config.d_model), np.float32)
    graphdef, params = nnx.split(model)
    size = min(CHUNK, len(lists))
    parts = []
    for start in range(0, len(lists), size):
        part = lists[np.minimum(np.arange(start, start + size), len(lists) - 1)]
        parts.append(np.asarray(_messages(graphdef, params, part, head))[:, : len(lists) - start])
    messages = np.concatenate(parts, axis=1)
    if mode == "mean":
        return messages.mean(1, keepdims=True, dtype=np.float64).astype(messages.dtype)
    return messages[:, donors(len(lists), seed)]


def donors(n_lists: int, seed: int) -> np.ndarray:
    """For every list the index of the one whose messages it gets: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(n_lists)
    chosen = np.empty(n_lists, int)
    chosen[order] = np.roll(order, 1)
    return chosen


def cutting(
    config: ModelConfig, keep, renormalize, replaced=None, *, head: int | None = None
) -> Interventions:
    """The intervention in which live edge e weighs `keep[e]` and its replacement the rest.

    Differentiable in `keep`, an array [E]: 1 leaves an edge as it is, 0 cuts it.

    Args:
      config: of the model.
      keep: [E], in the order of `graph.live_edges`.
      renormalize: scalar bool, rescale the rows.
      replaced: [E, B|1, D] of `replacements`.
      head: in this head only; None for all.
    """
    layers, queries, keys = np.array(config.graph.live_edges, int).reshape(-1, 3).T
    L, T, D = config.n_layers, config.n_positions, config.d_model
    heads = slice(None) if head is None else head
    weights = jnp.ones((L, 1 if head is None else config.n_heads, T, T), keep.dtype)
    weights = weights.at[layers, heads, queries, keys].set(keep[:, None] if head is None else keep)
    if replaced is None:
        return Interventions(keep=weights, renormalize=renormalize)
    replaced = jnp.asarray(replaced)
    added = jnp.zeros((L, T, replaced.shape[1], D), replaced.dtype)
    added = added.at[layers, queries].add((1 - keep)[:, None, None] * replaced)
    return Interventions(keep=weights, renormalize=renormalize, added=added.swapaxes(1, 2))


def keep_vector(graph: Graph, edges: tuple[Edge, ...]) -> np.ndarray:
    """Keep-weights [E] of the live edges with the given ones cut; dead ones among them change nothing."""
    return np.array([edge not in edges for edge in graph.live_edges], np.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _messages(graphdef, params, lists, head: int | None):
    """What every live edge brings its query, [E, B, D]."""
    model = nnx.merge(graphdef, params)
    _, trace = model(lists, trace=True)
    found = []
    for layer, query, key in model.config.graph.live_edges:
        block = model.blocks[layer]
        residual = trace.residuals[layer, :, key]
        values = block.attn.values(block.ln1(residual) if block.ln1 else residual)  # [B, H, C]
        mixed = trace.patterns[layer, :, :, query, key, None] * values
        if head is not None:
            mixed = mixed * (np.arange(model.config.n_heads) == head)[:, None]
        found.append(block.attn.write(mixed))
    return jnp.stack(found)
