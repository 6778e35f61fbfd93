"""Does the model read order from the scale of the digits? Exchange the alphas and see.

If order is kept in the relative magnitude of the digits inside SEP, then exchanging alpha_i and
alpha_j must make the outputs come out reversed (paper, section 4).
"""

from __future__ import annotations

import dataclasses
import numbers

import numpy as np

from orderscale_jax.analysis.circuit import circuits
from orderscale_jax.analysis.difference import with_alpha
from orderscale_jax.analysis.observation import Observation, intervene
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, percent
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True, repr=False)
class Exchange(Printable):
    """Fractions of the lists with d_i != d_j, after alpha_i and alpha_j were exchanged.

    Attributes:
      first, second: i and j, counted from 0.
      n_lists: lists with d_i != d_j; the fractions are NaN if there are none.
      first_is_second_digit: o_i says d_j.
      first_is_first_digit: o_i says d_i.
      second_is_first_digit: o_j says d_i.
      second_is_second_digit: o_j says d_j.
      both_reversed: o_i says d_j and o_j says d_i.
    """

    first: int
    second: int
    n_lists: int
    first_is_second_digit: float
    first_is_first_digit: float
    second_is_first_digit: float
    second_is_second_digit: float
    both_reversed: float

    def table(self) -> str:
        """What the two outputs say, as fractions of the lists."""
        i, j = self.first + 1, self.second + 1
        rows = [
            (f"alpha_{i} and alpha_{j} exchanged", f"of {self.n_lists:,} lists"),
            (f"o{i} says d{j}", percent(self.first_is_second_digit)),
            (f"o{i} says d{i}", percent(self.first_is_first_digit)),
            (f"o{j} says d{i}", percent(self.second_is_first_digit)),
            (f"o{j} says d{j}", percent(self.second_is_second_digit)),
            ("both reversed", percent(self.both_reversed)),
        ]
        return columns(rows)


def exchange_in_closed_form(observation: Observation) -> Exchange:
    """Exchanges alpha_1 and alpha_2 in the two equations; the betas of layer 1 stay.

    Raises:
      UserError: the model is not of the kind that the equations describe (see `circuit.misfits`).
    """
    check_kind("observation", observation, Observation)
    predictions = []
    for circuit in circuits(observation):
        exchanged = with_alpha(circuit, circuit.alpha_2, circuit.alpha_1)
        logits = np.stack([exchanged.o1_logits(), exchanged.o2_logits()], 1)
        predictions.append(logits.argmax(-1))
    return _count(observation.lists, np.concatenate(predictions), 0, 1)


def exchange_in_model(observation: Observation, first: int = 0, second: int = 1) -> Exchange:
    """Exchanges alpha_i and alpha_j in the running model, of any kind; all that follows is recomputed.

    SEP's pattern in layer 0 is replaced, in every head.

    Raises:
      UserError: the list does not have two such digits.
    """
    check_kind("observation", observation, Observation)
    n, (L, _, _, T, _) = observation.graph.list_len, observation.patterns.shape
    whole = all(isinstance(digit, numbers.Integral) for digit in (first, second))
    if not (whole and 0 <= first < n and 0 <= second < n and first != second):
        raise UserError(f"cannot exchange digits {first} and {second}: two different ones of 0 … {n - 1}")
    at_sep = np.zeros((L, T, T), bool)
    at_sep[0, n, :n] = True
    patterns = exchange_reads(observation.patterns, n, first, second)
    outcome = intervene(observation, patterns=patterns, patterns_at=at_sep)
    return _count(observation.lists, outcome.predictions, first, second)


def exchange_reads(patterns: np.ndarray, query: int, first: int, second: int) -> np.ndarray:
    """Patterns [L, B, H, T, T] with `query`'s weights of `first` and `second` in layer 0 exchanged."""
    exchanged = patterns.copy()
    exchanged[0, :, :, query, [first, second]] = patterns[0, :, :, query, [second, first]]
    return exchanged


def _count(lists: np.ndarray, predictions: np.ndarray, first: int, second: int) -> Exchange:
    differ = lists[:, first] != lists[:, second]
    (d_i, d_j), (o_i, o_j) = (x[differ][:, [first, second]].T for x in (lists, predictions))
    hits = (o_i == d_j, o_i == d_i, o_j == d_i, o_j == d_j, (o_i == d_j) & (o_j == d_i))
    return Exchange(
        first, second, int(differ.sum()), *(float(x.mean()) if len(x) else float("nan") for x in hits)
    )
