"""Which lists does a model get wrong, and what does it say instead?"""

from __future__ import annotations

import dataclasses

import numpy as np

from orderscale_jax.analysis.observation import Outcome

N_FREQUENT = 10
N_EXAMPLES = 5


@dataclasses.dataclass(frozen=True)
class ListErrors:
    """The W lists with an output wrong.

    Attributes:
      lists: [W, n]; for n = 2 the points of the (d1, d2) plane.
      predictions: [W, n], what the model answered.
      n_lists: how many lists there were.
    """

    lists: np.ndarray
    predictions: np.ndarray
    n_lists: int


def list_errors(lists: np.ndarray, outcome: Outcome) -> ListErrors:
    """The lists [B, n] that `outcome` got wrong."""
    wrong = ~outcome.list_correct
    return ListErrors(np.asarray(lists)[wrong], outcome.predictions[wrong], len(lists))


@dataclasses.dataclass(frozen=True)
class OutputErrors:
    """What one output says where it is wrong.

    All fractions are of this output's errors, one per position 1 … n, and NaN without errors.

    Attributes:
      output: which one, counted from 0 (o2 is 1).
      n_lists, n_wrong: lists, and those for which this output is wrong.
      equals_prediction: [n], the wrong token is what o_k was predicted to be (1 for itself).
      equals_digit: [n], the wrong token is the list's digit d_k.
      others_correct: [n], o_k is right all the same (0 for itself).
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


def output_errors(lists: np.ndarray, outcome: Outcome) -> tuple[OutputErrors, ...]:
    """The errors of every output over `lists` [B, n]; for n = 2 the second is the o2 error analysis."""
    return tuple(_errors_of(output, np.asarray(lists), outcome) for output in range(lists.shape[1]))


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
