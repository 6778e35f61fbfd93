"""How good a ranking of edges is, told exactly: what its circuits of every size are worth in a game.

A game is an array [2^E] as in `circuits.games`, larger is better. The ranking's circuit of size k is its
first k edges. CPR and CMD are the marks of the Mechanistic Interpretability Benchmark (arXiv 2504.13151).

Dimensions: E live edges.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.stats import rankdata

from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.circuits.games import as_game, count_edges, shapley_values
from orderscale_jax.errors import UserError
from orderscale_jax.printing import Printable


@dataclasses.dataclass(frozen=True, repr=False)
class Marks(Printable):
    """How good one ranking is.

    Attributes:
      cpr: area under faithfulness over the fraction of edges kept; larger is better. NaN in a game in which
        all edges are worth as much as none.
      cmd: area of |1 - faithfulness| with edges ranked by the size of their scores; smaller is better.
      auroc: that scores tell edges of minimal circuits from others; None where all or no edges are in one.
      spearman: rank correlation with the exact Shapley values; None where either are all equal.
      regret: by size 0 … E, the most that a circuit of the size is worth less what the ranking's is, [E+1].
    """

    cpr: float
    cmd: float
    auroc: float | None
    spearman: float | None
    regret: np.ndarray

    @property
    def mean_regret(self) -> float:
        """Over all sizes."""
        return float(self.regret.mean())

    @property
    def max_regret(self) -> float:
        return float(self.regret.max())


def ranking(scores: np.ndarray) -> np.ndarray:
    """Indices [E] of edges from the largest score [E] to the smallest; of equals the first comes first."""
    return np.argsort(-np.asarray(scores, float), kind="stable")


def nested_circuits(scores: np.ndarray) -> np.ndarray:
    """The ranking's circuits of size 0 … E, as indices of a game, int [E+1]."""
    return np.concatenate([[0], np.cumsum(1 << ranking(scores))])


def faithfulness(values: np.ndarray) -> np.ndarray:
    """What each set is worth [2^E], on a scale on which no edges are worth 0 and all are worth 1.

    NaN where these two are worth the same.
    """
    values = as_game(values)
    span = values[-1] - values[0]
    return (values - values[0]) / span if span else np.full(len(values), np.nan)


def mark_ranking(scores: np.ndarray, values: np.ndarray, members: np.ndarray) -> Marks:
    """The marks of scores [E] in a game [2^E].

    Args:
      scores: larger is more important.
      values: of the game.
      members: bool [E], whether an edge is in a minimal circuit (`in_minimal`).

    Raises:
      UserError: there is not a finite score or a truth value for each edge, or the game is not valid.
    """
    values = as_game(values)
    shapley = shapley_values(values)
    scores, members = check_scores(scores, len(shapley)), _check_members(members, len(shapley))
    faithful, circuits = faithfulness(values), nested_circuits(scores)
    return Marks(
        cpr=_area(faithful[circuits]),
        cmd=_area(np.abs(1 - faithful[nested_circuits(np.abs(scores))])),
        auroc=auroc(scores, members),
        spearman=spearman(scores, shapley),
        regret=_by_size(values, np.max) - values[circuits],
    )


def random_marks(values: np.ndarray, members: np.ndarray) -> Marks:
    """What a ranking drawn at random has on average, exactly: its circuit of a size is any of that size.

    `max_regret` is the largest of the average regrets.
    """
    values = as_game(values)
    faithful, members = faithfulness(values), _check_members(members, count_edges(values))
    one_sided = len(set(members.tolist())) < 2
    return Marks(
        cpr=_area(_by_size(faithful, np.mean)),
        cmd=_area(_by_size(np.abs(1 - faithful), np.mean)),
        auroc=None if one_sided else 0.5,
        spearman=None if np.ptp(shapley_values(values)) == 0 else 0.0,
        regret=_by_size(values, np.max) - _by_size(values, np.mean),
    )


def best_marks(values: np.ndarray) -> Marks:
    """The best that sets of each size have, nested or not: no ranking does better."""
    values = as_game(values)
    faithful = faithfulness(values)
    return Marks(
        cpr=_area(_by_size(faithful, np.max)),
        cmd=_area(_by_size(np.abs(1 - faithful), np.min)),
        auroc=None,
        spearman=None,
        regret=np.zeros(count_edges(values) + 1),
    )


def in_minimal(minimal: tuple[int, ...], n_edges: int) -> np.ndarray:
    """bool [E], which edges are in any of the sets, given as indices (`Circuits.minimal`)."""
    union = int(np.bitwise_or.reduce(np.array([0, *minimal])))
    return (union >> np.arange(n_edges) & 1).astype(bool)


def auroc(scores: np.ndarray, members: np.ndarray) -> float | None:
    """The chance that a member has a larger score than another edge, equal scores counting one half.

    None where there are no members or no others.
    """
    scores, members = np.asarray(scores, float), np.asarray(members, bool)
    n_members = int(members.sum())
    n_others = len(members) - n_members
    if not n_members or not n_others:
        return None
    wins = rankdata(scores)[members].sum() - n_members * (n_members + 1) / 2
    return float(wins / (n_members * n_others))


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation, equal numbers sharing their ranks; None where all of either are equal."""
    ranks = [rankdata(x) for x in (first, second)]
    if any(len(x) == 0 or np.ptp(x) == 0 for x in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def check_scores(scores, n_edges: int) -> np.ndarray:
    """Scores as float64 [E]; UserError unless there is a finite number for each edge."""
    found = real_numbers("scores", scores)
    if found.shape != (n_edges,):
        raise UserError(
            f"scores must be {n_edges} finite numbers, one for each live edge; got {list(found.shape)}"
        )
    return found


def _check_members(members, n_edges: int) -> np.ndarray:
    found = real_numbers("members", members) != 0
    if found.shape != (n_edges,):
        raise UserError(f"members must be {n_edges} truth values, one for each edge; got {list(found.shape)}")
    return found


def _area(by_size: np.ndarray) -> float:
    """Area under a curve [E+1] over the fraction of edges kept, by the trapezoidal rule."""
    return float(np.trapezoid(by_size, np.linspace(0, 1, len(by_size))))


def _by_size(values: np.ndarray, what) -> np.ndarray:
    """`what` (a function of an array) of the values of all sets of each size 0 … E, [E+1]."""
    sizes = np.bitwise_count(np.arange(len(values)))
    return np.array([what(values[sizes == k]) for k in range(int(sizes[-1]) + 1)])
