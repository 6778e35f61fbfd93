"""The explorer: a page in which a reader turns the knobs of a two-layer model and watches its outputs.

The page carries small tables, not the model: the closed form (paper, section 4) says that every logit
is attention weights times rows of `X U`, and every score a lookup. So the browser computes exactly
what the model would, offline. Dimensions: N digits, V = N+2 vocabulary.
"""

from __future__ import annotations

import base64
import json
import string
from importlib import resources

import numpy as np

from orderscale_jax.analysis import why_no_equations
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model import ListTransformer
from orderscale_jax.task import check_lists


def explorer_html(model: ListTransformer, *, examples=None) -> str:
    """One self-contained HTML `<section>`: style, script and data inside, nothing fetched.

    Its script defines `window.orderscaleExplorer.compute(state)`, the function behind the page.

    Args:
      model: one that the two equations describe (`analysis.misfits`).
      examples: a few lists [B, 2] that the reader can jump to; the page opens with the first.

    Raises:
      UserError: there is no explorer for this model (`why_no_explorer`), or an example is no list of it.
    """
    check_kind("model", model, ListTransformer)
    if reason := why_no_explorer(model):
        raise UserError(reason)
    config = model.config
    if examples is None:
        examples = [[config.n_digits // 2, config.n_digits // 5]]
    examples = check_lists(examples, config.list_len, config.n_digits)
    data = {
        "n_digits": config.n_digits,
        "examples": examples.tolist(),
        "tables": {name: _base64(table) for name, table in _tables(model).items()},
    }
    names = ("explorer.css", "circuit.js", "flow.js", "explorer.js")
    parts = {name.replace(".", "_"): _resource(name) for name in names}
    page = string.Template(_resource("explorer.html"))
    return page.substitute(parts, data=json.dumps(data), largest_digit=config.n_digits - 1)


def why_no_explorer(model: ListTransformer) -> str | None:
    """Why the page cannot compute what `model` would, as a sentence's end; None if it can."""
    check_kind("model", model, ListTransformer)
    if reason := why_no_equations(model.config):
        return f"the explorer computes with the closed form, and {reason}"
    if not all(np.isfinite(table).all() for table in _tables(model).values()):
        return "the explorer cannot show this model: some of its weights are not finite numbers"
    return None


def _tables(model: ListTransformer) -> dict[str, np.ndarray]:
    """The tables that the page computes with.

    Returns:
      embedding_logits [V, V] and position_logits [5, V]: `E U` and `P U`; a source vector's logits
        are the sum of a row of each.
      sep_scores [2, N]: layer 0, SEP's score for d1 and for d2, by digit.
      o2_digit_scores [2, N] and o2_scores [2]: layer 1, o2's score for SEP is alpha times the first
        plus o2_scores[0] (scores are linear in the residual read); its score for o1 is o2_scores[1].
    """
    config = model.config
    E, P, U = (
        np.asarray(array[...], np.float64)
        for array in (model.embed.W_E, model.pos_embed.W_pos, model.unembed.W_U)
    )

    def scores(layer: int, query, keys):
        attention = model.blocks[layer].attn
        W_Q, W_K = (np.asarray(W[0], np.float64) for W in (attention.W_Q, attention.W_K))
        return (query @ W_Q) @ (keys @ W_K).T / np.sqrt(config.d_head)

    digits = E[: config.n_digits] + P[:2, None]  # [2, N, D]
    sep = E[config.sep_token] + P[2]
    o1, o2 = E[config.mask_token] + P[3:]
    return {
        "embedding_logits": E @ U,
        "position_logits": P @ U,
        "sep_scores": np.stack([scores(0, sep, x) for x in digits]),
        "o2_digit_scores": np.stack([scores(1, o2, x) for x in digits]),
        "o2_scores": scores(1, o2, np.stack([sep, o1])),
    }


def _base64(table: np.ndarray) -> str:
    """Little-endian float32 in row-major order, as base64."""
    return base64.b64encode(np.ascontiguousarray(table, "<f4").tobytes()).decode("ascii")


def _resource(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")
