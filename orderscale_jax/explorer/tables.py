"""A model as the few tables of which its logits and scores are sums.

With one head and frozen identity projections every residual is a sum of the vectors with which the list
enters: the embeddings of its digits, the two vectors of their positions, and what SEP, o1 and o2 start with.
These are the *atoms*. Logits are linear in a residual and scores in the two that meet, so tables by atom are
the whole model, and a page can compute with them what the model does. So it is with a sparse autoencoder
(SAE) on SEP: what it reads is a sum by atom, and what it writes a sum by latent.

Dimensions: N digits, A = N+5 atoms, V = N+2 vocabulary, L layers, R rows, F latents.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from orderscale_jax.checkpoint import from_named_arrays
from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import count, enumerate_words
from orderscale_jax.graph import Graph
from orderscale_jax.model import ListTransformer, ModelConfig
from orderscale_jax.sae import SparseAutoencoder, encode_lists, view_sep
from orderscale_jax.sae.autoencoder import named_arrays
from orderscale_jax.sae.config import BY_BATCH
from orderscale_jax.sae.dictionary import PEELED, SELECTIVE, detection
from orderscale_jax.task import TaskConfig

PLACES = ("P1", "P2", "SEP", "o1", "o2")  # the atoms after the digits, in this order
LAYERS = (2, 3)  # of models that are shown
MOST_DIGITS = 128  # so that all N^2 lists fit a map


@dataclasses.dataclass(frozen=True)
class Tables:
    """What a model of lists of two digits computes with.

    Attributes:
      n_digits: N.
      logits: [A, V], what each atom adds to the logits.
      scores: by layer, [R, A]: what an atom of the query and one of the key add to their score (divided by
        the square root of d_head).
      rows: by layer, the atoms of queries that `scores` has, [R]; of others no score is ever needed.
    """

    n_digits: int
    logits: np.ndarray
    scores: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]

    @property
    def n_layers(self) -> int:
        return len(self.scores)


@dataclasses.dataclass(frozen=True)
class SAETables:
    """What a page computes the latents of a list with, and what they add to the logits.

    Attributes:
      encoder: [N+3, F], what the atoms in SEP (digits, P1, P2, SEP) add to the preactivations; SEP's, which
        is always there once, has all that is constant.
      thresholds: [F], above which a latent is on.
      n_kept: only so many of the largest are on; None if the threshold alone decides.
      is_binary: whether a latent that is on is 1.
      decoder: [F+1, V], what a latent of 1 adds to the logits; last what is constant.
      keys: [F+1], the same of the score of SEP for o2 in the last layer.
      correlations: [F], of each latent with alpha_1 - alpha_2 over all lists.
      special: the latents that go with order, the most special first.
      digits: by latent, the digits that it detects: it is on in at least half of the lists with them, and in
        less than half of all lists.
    """

    encoder: np.ndarray
    thresholds: np.ndarray
    n_kept: int | None
    is_binary: bool
    decoder: np.ndarray
    keys: np.ndarray
    correlations: np.ndarray
    special: np.ndarray
    digits: tuple[tuple[int, ...], ...]


def why_not_shown(config: ModelConfig) -> str | None:
    """Why the explorer does not show a model of this kind, as a sentence's end; None if it does."""
    found = [*config.variants]
    if config.list_len != 2:
        found.insert(0, f"lists of {count(config.list_len, 'digit')}")
    if config.n_layers not in LAYERS:
        found.insert(0, count(config.n_layers, "layer"))
    if config.n_digits > MOST_DIGITS:
        found.append(f"{config.n_digits} digits")
    if not found:
        return None
    return (
        "the explorer shows models of two or three layers, lists of 2 digits and one head, with frozen "
        f"projections, no LayerNorm, bias or MLP, and at most {MOST_DIGITS} digits; this model has "
        f"{enumerate_words(found)}"
    )


def why_no_explorer(model: ListTransformer) -> str | None:
    """Why the page cannot show a model, as a sentence's end; None if it can."""
    check_kind("model", model, ListTransformer)
    if reason := why_not_shown(model.config):
        return reason
    if not model.is_finite():
        return "the explorer cannot show this model: some of its weights are not finite numbers"
    return None


def tables_of(model: ListTransformer) -> Tables:
    """The tables of a model with two digits, one head, frozen projections, and no LayerNorm, bias or MLP."""
    config = model.config
    E, P, U = (
        np.asarray(x[...], np.float64) for x in (model.embed.W_E, model.pos_embed.W_pos, model.unembed.W_U)
    )
    n = config.n_digits
    atoms = np.concatenate([E[:n], P[:2], E[config.sep_token] + P[2:3], E[config.mask_token] + P[3:]])
    rows = tuple(atoms_that_choose(config.graph, n, layer) for layer in range(config.n_layers))
    scores = []
    for block, queries in zip(model.blocks, rows, strict=True):
        W_Q, W_K = (np.asarray(W[0], np.float64) for W in (block.attn.W_Q, block.attn.W_K))
        scores.append((atoms[queries] @ W_Q) @ (atoms @ W_K).T / np.sqrt(config.d_head))
    return Tables(n, atoms @ U, tuple(scores), rows)


def sae_tables(model: ListTransformer, sae: SparseAutoencoder) -> SAETables:
    """The tables of an SAE on SEP of a plain two-layer model.

    Raises:
      UserError: the model is of another kind, or the SAE of another width.
    """
    check_kind("sae", sae, SparseAutoencoder)
    config, family = model.config, sae.config.family
    encoded = encode_lists(sae, view_sep(model, TaskConfig(n_digits=config.n_digits)))
    view, readout = encoded.view, encoded.view.readout
    arrays = {name: array.astype(np.float64) for name, array in named_arrays(sae).items()}
    E, P = (np.asarray(x[...], np.float64) for x in (model.embed.W_E, model.pos_embed.W_pos))
    start = E[config.sep_token] + P[2] - encoded.constant
    encoder = np.concatenate([view.embeddings, view.positions, start[None]]) @ arrays["W_enc"]
    encoder[-1] += arrays["b_enc"]
    threshold = arrays["threshold"] if family in (*BY_BATCH, "jumprelu") else 0.0
    decoder = np.concatenate([encoded.decoder, encoded.constant[None]])
    share, _ = detection(view, encoded.latents)
    is_on = (share >= PEELED) & (encoded.firing < SELECTIVE)
    return SAETables(
        encoder=encoder,
        thresholds=np.broadcast_to(np.maximum(threshold, 0), encoder.shape[1:]),
        n_kept=sae.config.k if family == "topk" else None,
        is_binary=family == "binary",
        decoder=decoder @ readout.W_U,
        keys=decoder @ readout.key,
        correlations=encoded.correlations,
        special=encoded.special(),
        digits=tuple(tuple(np.flatnonzero(of).tolist()) for of in is_on.T),
    )


def atoms_that_choose(graph: Graph, n_digits: int, layer: int) -> np.ndarray:
    """The atoms of the queries that choose between live edges in `layer`, as indices."""
    held = [_atoms_at(graph, n_digits, layer, query) for at, query, _ in choices(graph) if at == layer]
    return np.flatnonzero(np.any(held, axis=0))


def choices(graph: Graph) -> list[tuple[int, int, list[int]]]:
    """The rows of attention that choose between live edges: layer, query and keys."""
    rows: dict[tuple[int, int], list[int]] = {}
    for edge in graph.live_edges:
        rows.setdefault((edge.layer, edge.query), []).append(edge.key)
    return [(*row, keys) for row, keys in rows.items() if len(keys) > 1]


def model_of(tables: Tables) -> ListTransformer:
    """A model as wide as there are atoms that computes what the tables say.

    Each atom has a direction of its own; it is not the model the tables were made of, but agrees with it in
    every pattern and logit that can matter.
    """
    n, width = tables.n_digits, len(tables.logits)
    config = ModelConfig(n_digits=n, n_layers=tables.n_layers, d_model=width)
    one, nothing = np.eye(width, dtype=np.float32), np.zeros((2, width), np.float32)
    arrays = {
        "embed.W_E": np.concatenate([one[:n], nothing]),
        "pos_embed.W_pos": one[n:],
        "unembed.W_U": tables.logits,
    }
    for layer, (scores, rows) in enumerate(zip(tables.scores, tables.rows, strict=True)):
        square = np.zeros((width, width))
        square[rows] = scores * np.sqrt(width)
        arrays |= {f"blocks.{layer}.attn.W_Q": one[None], f"blocks.{layer}.attn.W_K": square.T[None]}
    return from_named_arrays(config, {name: np.asarray(x, np.float32) for name, x in arrays.items()})


def _atoms_at(graph: Graph, n_digits: int, layer: int, position: int) -> np.ndarray:
    """Which atoms the residual of `position` may hold before `layer`, bool [A]."""
    held = np.zeros((graph.n_positions, n_digits + len(PLACES)), bool)
    held[:2, :n_digits] = True
    held[np.arange(graph.n_positions), n_digits + np.arange(graph.n_positions)] = True
    for below in range(layer):
        before = held.copy()
        for edge in graph.live_edges:
            if edge.layer == below:
                held[edge.query] |= before[edge.key]
    return held[position]
