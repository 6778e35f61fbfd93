"""How does attention differ from list to list, and does the difference matter?"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from orderscale_jax.analysis.observation import Observation, intervene
from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model.interventions import check_index
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True, repr=False)
class AttentionStatistics(Printable):
    """Attention patterns over the lists (B lists, n list length, H heads, L layers, T positions).

    Attributes:
      mean_pattern: [L, H, T, T], the mean over lists.
      mean_pattern_accuracy: output accuracy when every pattern is replaced by its mean.
      alpha: SEP <- d1 … dn in layer 0, [B, H, n].
      beta: last output <- SEP, o1 … o(n-1) in the last layer, [B, H, n].
    """

    mean_pattern: np.ndarray
    mean_pattern_accuracy: float
    alpha: np.ndarray
    beta: np.ndarray

    @property
    def reads(self) -> dict[Edge, np.ndarray]:
        """Every alpha, then every beta: [B, H] by edge."""
        n, last = self.alpha.shape[-1], len(self.mean_pattern) - 1
        alphas = {Edge(0, n, i): self.alpha[..., i] for i in range(n)}
        return alphas | {Edge(last, 2 * n, n + i): self.beta[..., i] for i in range(n)}

    def table(self) -> str:
        """Mean and standard deviation of every alpha and beta, and the accuracy with mean patterns."""
        graph = Graph(self.alpha.shape[-1], len(self.mean_pattern))
        rows = [("attention, over lists and heads", "mean", "deviation")]
        rows += [(graph.label(e), number(x.mean(), 4), number(x.std(), 4)) for e, x in self.reads.items()]
        return columns([*rows, ("outputs right with mean patterns", percent(self.mean_pattern_accuracy))])


def attention_statistics(observation: Observation) -> AttentionStatistics:
    """Mean patterns, the accuracy with them, and the alphas and betas of every list (section 4)."""
    check_kind("observation", observation, Observation)
    mean = observation.patterns.mean(1, dtype=np.float64).astype(np.float32)
    return AttentionStatistics(
        mean_pattern=mean,
        mean_pattern_accuracy=intervene(observation, patterns=mean[:, None]).accuracy,
        alpha=observation.sep_reads[0],
        beta=observation.output_reads[-1, :, :, -1],
    )


@dataclasses.dataclass(frozen=True, repr=False)
class SepAttention(Printable):
    """Are lists wrong where SEP attends to two digits nearly alike? (P pairs of digits)

    Attributes:
      layer: where SEP reads.
      scores: SEP <- d1 … dn before the softmax, [B, H, n].
      correct: bool [B], whether the whole list is right.
      pairs: the P = n(n-1)/2 pairs of digits, counted from 0.
      gap_correct, gap_incorrect: mean |score_i - score_j| over right and over wrong lists, [P, H];
        NaN where there is no such list.
    """

    layer: int
    scores: np.ndarray
    correct: np.ndarray
    pairs: tuple[tuple[int, int], ...]
    gap_correct: np.ndarray
    gap_incorrect: np.ndarray

    def table(self) -> str:
        """The gaps of every pair of digits and head, of right and of wrong lists."""
        gaps = zip(self.gap_correct, self.gap_incorrect, strict=True)
        rows = [
            ("gap of SEP's scores", f"right ({self.correct.sum():,})", f"wrong ({(~self.correct).sum():,})")
        ]
        for (i, j), of_pair in zip(self.pairs, gaps, strict=True):
            for head, of_head in enumerate(zip(*of_pair, strict=True)):
                rows.append((f"d{i + 1}, d{j + 1}, head {head}", *(number(gap, 3) for gap in of_head)))
        return columns(rows)


def sep_attention(observation: Observation, layer: int = 0) -> SepAttention:
    """SEP's scores in `layer` against correctness (section 4, the figure of SEP attention).

    Raises:
      UserError: the layer does not exist.
    """
    check_kind("observation", observation, Observation)
    layer = check_index("layer", layer, observation.graph.n_layers)
    scores, correct = observation.sep_scores[layer], observation.list_correct
    pairs = tuple(itertools.combinations(range(scores.shape[-1]), 2))
    first, second = np.array(pairs, int).reshape(-1, 2).T
    gaps = np.abs(scores[..., first] - scores[..., second])  # [B, H, P]
    return SepAttention(layer, scores, correct, pairs, _mean(gaps[correct]).T, _mean(gaps[~correct]).T)


def _mean(values):
    """Mean over the first axis; NaN, without a warning, over nothing."""
    return values.mean(0, dtype=np.float64) if len(values) else np.full(values.shape[1:], np.nan)
