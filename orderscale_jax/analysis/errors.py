"""Which lists does a model get wrong, and what does it say instead?"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from orderscale_jax.analysis.observation import Outcome
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, count, percent
from orderscale_jax.printing import Printable
from orderscale_jax.task import check_lists

N_FREQUENT = 10
N_EXAMPLES = 5
CELLS = 4  # the (d_i, d_j) plane is cut into 4 x 4 cells to look for structure
FEWEST_EXPECTED = 5  # wrong lists per cell, below which the chi-squared test means nothing


@dataclasses.dataclass(frozen=True, repr=False)
class ListErrors(Printable):
    """The W lists with an output wrong.

    Attributes:
      lists: [W, n]; for n = 2 the points of the (d1, d2) plane.
      predictions: [W, n], what the model answered.
      n_lists: how many lists there were.
    """

    lists: np.ndarray
    predictions: np.ndarray
    n_lists: int

    def table(self) -> str:
        """How many lists are wrong, and the first of them with their answers."""
        examples = zip(self.lists[:N_EXAMPLES].tolist(), self.predictions[:N_EXAMPLES].tolist(), strict=True)
        rows = [(f"{len(self.lists):,} of {self.n_lists:,} lists wrong", "answer")]
        return columns([*rows, *((_spaced(wrong), _spaced(said)) for wrong, said in examples)])


def list_errors(lists: np.ndarray, outcome: Outcome) -> ListErrors:
    """The lists [B, n] that `outcome` got wrong.

    Raises:
      UserError: `outcome` is not an Outcome, or is of other lists.
    """
    lists = _of_outcome(lists, outcome)
    wrong = ~outcome.list_correct
    return ListErrors(lists[wrong], outcome.predictions[wrong], len(lists))


def structure_p_value(lists: np.ndarray, wrong: np.ndarray, n_digits: int) -> float:
    """Probability that wrong lists are as unevenly spread over the plane of two digits by chance.

    A chi-squared test on 4 x 4 cells of each pair of digits; the smallest of them, times the number
    of pairs. NaN if there are no pairs, or too few wrong (or right) lists to tell.

    Args:
      lists: [B, n].
      wrong: bool [B], which of them came out wrong.
      n_digits: size of the alphabet.

    Raises:
      UserError: `wrong` does not say of each list whether it is, or a digit is none of the alphabet.
    """
    from scipy import special

    lists = check_lists(lists, None, n_digits)
    if np.shape(wrong) != (len(lists),) or np.asarray(wrong).dtype != bool:
        raise UserError(f"wrong must say of each of {count(len(lists), 'list')} whether it is, true or false")
    cell, values = lists * CELLS // n_digits, []
    for i, j in itertools.combinations(range(lists.shape[1]), 2):
        place = cell[:, i] * CELLS + cell[:, j]
        counts = np.stack([np.bincount(place[of], minlength=CELLS**2) for of in (wrong, ~wrong)])
        counts = counts[:, counts.sum(0) > 0]
        expected = counts.sum(1, keepdims=True) * counts.sum(0) / len(lists)
        if expected.min(initial=math.inf) < FEWEST_EXPECTED or counts.shape[1] < 2:
            return math.nan
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        values.append(special.chdtrc(counts.shape[1] - 1, chi_squared))
    return min(1.0, len(values) * min(values)) if values else math.nan


@dataclasses.dataclass(frozen=True, repr=False)
class OutputErrors(Printable):
    """What one output says where it is wrong.

    All fractions are of this output's errors, one per position 1 … n, and NaN without errors.

    Attributes:
      output: which one, counted from 0 (o2 is 1).
      n_lists, n_wrong: lists, and those for which this output is wrong.
      equals_prediction: [n], the wrong token is what o_k was predicted to be (1 for itself).
      equals_digit: [n], the wrong token is the list's digit d_k.
      others_correct: [n], o_k is right nevertheless (0 for itself).
      frequent: the most frequent wrong tokens with their counts, most frequent first.
      example_lists, example_predictions: the first few wrong lists [<=5, n] and their answers.
    """

    output: int
    n_lists: int
    n_wrong: int
    equals_prediction: np.ndarray
    equals_digit: np.ndarray
    others_correct: np.ndarray
    frequent: tuple[tuple[int, int], ...]
    example_lists: np.ndarray
    example_predictions: np.ndarray

    def table(self) -> str:
        """What this output says where it is wrong, as fractions of its errors."""
        name, others = f"o{self.output + 1}", range(1, 1 + len(self.equals_digit))
        rows = [(f"{name} wrong", f"{self.n_wrong:,} of {self.n_lists:,}")]
        for k, said, digit, right in zip(
            others, self.equals_prediction, self.equals_digit, self.others_correct, strict=True
        ):
            if k != self.output + 1:
                rows += [(f"  says what o{k} says", percent(said)), (f"  says d{k}", percent(digit))]
                rows.append((f"  o{k} is right", percent(right)))
        tokens = ", ".join(f"{token} ({times:,})" for token, times in self.frequent)
        return columns(rows) + (f"\n  most frequent: {tokens}" if tokens else "")


def output_errors(lists: np.ndarray, outcome: Outcome) -> tuple[OutputErrors, ...]:
    """The errors of every output over `lists` [B, n]; for n = 2 the second is the o2 error analysis.

    Raises:
      UserError: `outcome` is not an Outcome, or is of other lists.
    """
    lists = _of_outcome(lists, outcome)
    return tuple(_errors_of(output, lists, outcome) for output in range(lists.shape[1]))


def _of_outcome(lists, outcome: Outcome) -> np.ndarray:
    """Lists as an array; UserError unless they have the shape of those of an outcome."""
    check_kind("outcome", outcome, Outcome)
    if (shape := np.shape(lists)) != outcome.correct.shape:
        raise UserError(
            f"lists must be those of the outcome, {list(outcome.correct.shape)}; got {list(shape)}"
        )
    return np.asarray(lists)


def _spaced(tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


def _errors_of(output: int, lists: np.ndarray, outcome: Outcome) -> OutputErrors:
    wrong = ~outcome.correct[:, output]
    digits, said, right = lists[wrong], outcome.predictions[wrong], outcome.correct[wrong]
    token = said[:, [output]]
    tokens, counts = np.unique(token, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:N_FREQUENT]

    def fraction(hits):
        return hits.mean(0) if len(hits) else np.full(hits.shape[1], np.nan)

    return OutputErrors(
        output=output,
        n_lists=len(lists),
        n_wrong=int(wrong.sum()),
        equals_prediction=fraction(token == said),
        equals_digit=fraction(token == digits),
        others_correct=fraction(right),
        frequent=tuple((int(tokens[i]), int(counts[i])) for i in order),
        example_lists=digits[:N_EXAMPLES],
        example_predictions=said[:N_EXAMPLES],
    )
