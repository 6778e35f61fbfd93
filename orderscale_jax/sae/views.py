"""What SEP holds in every list, and what the outputs make of it, in float64.

In a plain two-layer model o1 reads SEP alone and o2 weighs SEP against o1, so logits follow from SEP by two
lines (paper, section 4). They are computed here for all lists at once; `tests/test_sae.py` compares them
with the model.

Dimensions: B lists, D model, N digits, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import expit, log_softmax

from orderscale_jax import task
from orderscale_jax.analysis.circuit import why_no_equations
from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import count
from orderscale_jax.model import ListTransformer
from orderscale_jax.printing import Printable
from orderscale_jax.task import TaskConfig

MOST_DIGITS = 200  # of which all lists, 40,000, are looked at
GROUPS = ("all", "training", "validation")


@dataclasses.dataclass(frozen=True, repr=False)
class Readout(Printable):
    """How the outputs read SEP in the last layer.

    Attributes:
      first, second [D]: residuals of o1 and o2 before they read.
      key [D], offset: o2's attention to SEP is sigmoid(SEP . key + offset), and the rest goes to o1.
      W_U [D, V]: the unembedding.
    """

    first: np.ndarray
    second: np.ndarray
    key: np.ndarray
    offset: float
    W_U: np.ndarray

    def gate(self, sep) -> np.ndarray:
        """o2's attention to SEP [B] for SEP [B, D]."""
        return expit(rows_of("sep", sep, len(self.key)) @ self.key + self.offset)

    def logits(self, sep) -> np.ndarray:
        """Logits [B, 2, V] of both outputs for SEP [B, D]."""
        sep = rows_of("sep", sep, len(self.key))
        gate = self.gate(sep)[:, None]
        second = self.second + gate * sep + (1 - gate) * self.first
        return np.stack([(self.first + sep) @ self.W_U, second @ self.W_U], 1)

    def answers(self, sep) -> np.ndarray:
        """What both outputs say, tokens [B, 2], for SEP [B, D]."""
        return self.logits(sep).argmax(-1)


@dataclasses.dataclass(frozen=True, repr=False)
class SepView(Printable):
    """Every list of a model, and SEP in it after layer 0.

    Attributes:
      lists: digits [B, 2], all N^2 lists in lexicographic order, or the given ones.
      is_validation: bool [B], lists that validate the model.
      sep [B, D]: SEP's residual after layer 0.
      alphas [B, 2]: SEP's attention to d1 and d2.
      embeddings [N, D]: E_d. positions [2, D]: P_1, P_2.
      readout: what the outputs make of SEP.
      answers: what they say, tokens [B, 2].
    """

    lists: np.ndarray
    is_validation: np.ndarray
    sep: np.ndarray
    alphas: np.ndarray
    embeddings: np.ndarray
    positions: np.ndarray
    readout: Readout
    answers: np.ndarray

    def group(self, name: str) -> np.ndarray:
        """bool [B], the lists of a group: all, training or validation."""
        if name not in GROUPS:
            raise UserError(f"there is no group {name!r} of lists; there are {', '.join(GROUPS)}")
        if name == "all":
            return np.ones(len(self.lists), bool)
        return self.is_validation == (name == "validation")


def view_sep(model: ListTransformer, config: TaskConfig) -> SepView:
    """SEP in every list of a plain two-layer model for lists of two digits.

    Args:
      model: the model.
      config: its task, which says which lists validate.

    Raises:
      UserError: the model is of another kind, has too many digits or weights that are not finite, or the
        task is another's.
    """
    check_kind("model", model, ListTransformer)
    check_kind("config", config, TaskConfig)
    if reason := why_no_model(model):
        raise UserError(reason)
    if (config.n_digits, config.list_len) != (model.config.n_digits, model.config.list_len):
        raise UserError(
            f"the task has lists of {config.list_len} of {config.n_digits} digits, and the model has "
            f"{model.config.list_len} of {model.config.n_digits}: give the task of the model"
        )
    split = task.make_split(config)
    known = [split.validation] if split.train is None else [split.train, split.validation]
    lists = np.concatenate(known)
    is_validation = np.arange(len(lists)) >= len(lists) - len(split.validation)
    order = np.lexsort((lists[:, 1], lists[:, 0]))
    lists, is_validation = lists[order], is_validation[order]
    arrays = model.embed.W_E, model.pos_embed.W_pos, model.unembed.W_U
    E, P, U = (np.asarray(array[...], np.float64) for array in arrays)
    queries, keys = ([_weights(block.attn, name) for block in model.blocks] for name in ("W_Q", "W_K"))
    size = np.sqrt(model.config.d_head)
    sep, mask = E[model.config.sep_token] + P[2], E[model.config.mask_token]
    digits = E[lists] + P[:2]
    alphas = np.exp(log_softmax(digits @ keys[0] @ (sep @ queries[0]) / size, axis=-1))
    held = sep + (alphas[..., None] * digits).sum(1)
    first, second = mask + P[3], mask + P[4]
    key = keys[1] @ (second @ queries[1]) / size
    readout = Readout(first, second, key, -float(first @ key), U)
    return SepView(
        lists, is_validation, held, alphas, E[: config.n_digits], P[:2], readout, readout.answers(held)
    )


def why_no_model(model: ListTransformer) -> str | None:
    """Why SAEs are not studied on this model, in a sentence; None if they are."""
    if reason := why_no_equations(model.config):
        return f"sparse autoencoders are studied where two equations describe the model: {reason}"
    if model.config.n_digits > MOST_DIGITS:
        return (
            f"sparse autoencoders are studied on all lists, at most those of {MOST_DIGITS} digits; this "
            f"model has {count(model.config.n_digits, 'digit')}"
        )
    return None if model.is_finite() else "some weights of this model are not finite numbers"


def rows_of(name: str, rows, width: int) -> np.ndarray:
    """The argument `name` as an array [B, width]; UserError if it has another shape."""
    rows = rows if isinstance(rows, np.ndarray) else real_numbers(name, rows)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise UserError(f"{name} must have shape [B, {width}], got {list(rows.shape)}")
    return rows


def _weights(attention, name: str) -> np.ndarray:
    """W_Q or W_K [D, C] of the only head."""
    return np.asarray(getattr(attention, name)[...], np.float64)[0]
