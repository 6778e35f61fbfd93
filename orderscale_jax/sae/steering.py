"""At which scales of a vector in SEP do the outputs come out reversed? Solved, not searched.

Steering puts `base + s v` in SEP's place, one base and one v per list, and moves s. o1 reads SEP alone, so
its logits are straight lines in s. o2 weighs SEP, by a sigmoid of a straight line, against o1, which does
not move: with z = SEP . key + offset, the gap between its logits of two tokens has the sign of

    a + b s + c exp(-z(s)),

which bends one way only and so crosses zero at most twice. So where an output says a given digit is a set of
intervals, whose ends are roots; no grid of scales is tried, and nothing is fitted.

A special latent is steered by v = h W_dec[latent], order itself by v = P_1 - P_2.

Dimensions: B lists, D model, V vocabulary, J competitors (V tokens), C crossings.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import numpy as np
from scipy.special import expit

from orderscale_jax import task
from orderscale_jax.circuits.checks import check_seed, real_numbers, whole_number
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, percent
from orderscale_jax.options import shown
from orderscale_jax.printing import Printable
from orderscale_jax.sae.dictionary import known_vectors
from orderscale_jax.sae.fidelity import Answers, Encoded, judge
from orderscale_jax.sae.views import Readout, SepView

LOW, HIGH = 0.0, 10.0  # scales of a latent, as published
STEP = 0.05  # of the published grid of scales
ON_GRID = 1e-9  # of a step: as near counts as on it
FARTHEST = 20.0  # where the published analysis believes a crossing of o1 no more
PARALLEL = 1e-5  # gap of slopes below which it takes two lines for parallel
ROUNDS = 60  # of bisection: it ends at the last bit
CHUNK = 2000  # lists at once
N_MARKS = 2  # tokens that are no digits: MASK and SEP
REASONS = {  # what becomes of a list, by the published words, in their order of asking
    "success": f"reversed at a scale of the grid, by {STEP}",
    "feat_zero": "latent off: nothing to scale",
    "d1_eq_d2": "two equal digits",
    "unresponsive": "in o1 the logits of d1 and d2 move alike",
    "o1_extrapolated": f"in o1 the logits of d1 and d2 cross beyond scale {FARTHEST:g}",
    "no_o2_crossover": "in o2 the logits of d1 and d2 cross at no scale",
    "no_o2_crossover_in_bounds": "in o2 they cross only where d1 is ahead of d2 in o1",
    "o1_never_predicts_d2": "o1 says d2 at no scale",
    "o2_never_predicts_d1": "o2 says d1 at no scale",
    "no_overlapping_dominance": "o1 says d2 at some scales and o2 says d1 at others",
}


@dataclasses.dataclass(frozen=True, repr=False)
class Regions(Printable):
    """Where both outputs of every list come out reversed.

    Attributes:
      low, high: between which scales.
      starts, ends [B, C]: the intervals of scales of each list, ascending; NaN where there are fewer.
      on_grid: bool [B], whether an interval holds a multiple of 0.05, as the published grid of scales.
    """

    low: float
    high: float
    starts: np.ndarray
    ends: np.ndarray
    on_grid: np.ndarray

    @property
    def exists(self) -> np.ndarray:
        """bool [B], whether a list is reversed at any scale."""
        return np.isfinite(self.starts).any(1)

    @property
    def width(self) -> np.ndarray:
        """Scales at which a list is reversed, as a length [B]."""
        return np.nansum(self.ends - self.starts, axis=1)


ALWAYS = ("success", "feat_zero", "d1_eq_d2")  # are told of even if there is no such list


def reversal_regions(readout: Readout, lists, base, vector, low: float = LOW, high: float = HIGH) -> Regions:
    """The scales s from `low` to `high` at which `base + s vector` in SEP's place reverses a list.

    Args:
      readout: of the model.
      lists: digits [B, 2].
      base, vector: [B, D] or [1, D].
      low, high: finite, ascending.

    Raises:
      UserError: the shapes do not fit, a digit is not the model's, or a number is not finite.
    """
    check_kind("readout", readout, Readout)
    lists = task.check_lists(lists, 2, readout.W_U.shape[1] - N_MARKS)
    base, vector = (real_numbers(name, x) for name, x in (("base", base), ("vector", vector)))
    shape = len(lists), len(readout.first)
    for name, x in (("base", base), ("vector", vector)):
        if x.ndim != 2 or x.shape[1] != shape[1] or x.shape[0] not in (1, shape[0]):
            raise UserError(f"{name} must have shape {[*shape]} or {[1, shape[1]]}, got {list(x.shape)}")
    are_numbers = all(isinstance(x, numbers.Real) for x in (low, high))
    if not (are_numbers and np.isfinite([low, high]).all() and low < high):
        raise UserError(f"scales go from low to high, both finite; got {shown(low)} and {shown(high)}")
    base, vector = np.broadcast_to(base, shape), np.broadcast_to(vector, shape)
    parts = [
        _regions(readout, lists[i : i + CHUNK], base[i : i + CHUNK], vector[i : i + CHUNK], low, high)
        for i in range(0, max(1, len(lists)), CHUNK)
    ]
    most = max([1, *(starts.shape[1] for starts, _ in parts)])

    def joined(arrays):
        return np.concatenate(
            [np.pad(x, ((0, 0), (0, most - x.shape[1])), constant_values=np.nan) for x in arrays]
        )

    starts, ends = joined([p[0] for p in parts]), joined([p[1] for p in parts])
    return Regions(low, high, starts, ends, _holds_grid(starts, ends))


def _regions(readout: Readout, lists, base, vector, low, high):
    """(starts, ends) [B, C] of a chunk: what is left of [low, high] when every competitor has taken its
    part."""
    differs = lists[:, 0] != lists[:, 1]
    first = _gaps_o1(readout, base, vector, lists[:, 1])
    # o1 decides first: most lists are out, and what is left is a single interval.
    start, end = _line_interval(*first, low, high)
    alive = np.flatnonzero(differs & (start < end))
    if not len(alive):
        return np.full((len(lists), 1), np.nan), np.full((len(lists), 1), np.nan)
    holes = _gate_holes(readout, base[alive], vector[alive], lists[alive, 0], start[alive], end[alive])
    starts, ends = _uncovered(*holes, start[alive], end[alive])
    found = np.full((2, len(lists), starts.shape[1]), np.nan)
    found[0, alive], found[1, alive] = starts, ends
    return found[0], found[1]


def _gaps_o1(readout: Readout, base, vector, target):
    """(intercept, slope) [B, V] of the gap between o1's logit of `target` [B] and that of every token; of
    the target itself (1, 0)."""
    return _against((base + readout.first) @ readout.W_U, target, 1.0), _against(
        vector @ readout.W_U, target, 0.0
    )


def _against(logits, target, own: float):
    """The logit of a target [B] less all logits [B, V]; `own` in the target's place."""
    gap = np.take_along_axis(logits, target[:, None], 1) - logits
    np.put_along_axis(gap, target[:, None], own, 1)
    return gap


def _line_interval(intercept, slope, low, high):
    """The interval (start, end) [B] of scales in [low, high] where every line [B, J] is positive; empty where
    start >= end."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -intercept / slope
    start = np.where(slope > 0, crossing, -np.inf).max(1)
    end = np.where(slope < 0, crossing, np.inf).min(1)
    never = ((slope == 0) & (intercept <= 0)).any(1)
    return np.maximum(start, low), np.where(never, -np.inf, np.minimum(end, high))


@dataclasses.dataclass(frozen=True)
class _Gap:
    """o2's gaps to its competitors, up to a positive factor a + b s + c exp(-z), z = z0 + z1 s.

    a, b, c [B, J], z0, z1 [B, 1].
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    z0: np.ndarray
    z1: np.ndarray

    def __call__(self, s):
        """The gaps themselves, times nothing but sigmoid(z), at scales that broadcast to [B, J]."""
        gate = expit(self.z0 + self.z1 * s)
        return gate * (self.a + self.b * s) + (1 - gate) * self.c

    def turn(self):
        """The scale [B, J] at which each bends back; NaN where it never does."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.b / (self.c * self.z1)
            return np.where(ratio > 0, (-np.log(ratio) - self.z0) / self.z1, np.nan)

    def take(self, rows, tokens) -> _Gap:
        pairs = (x[rows, tokens] for x in (self.a, self.b, self.c))
        return _Gap(*pairs, self.z0[rows, 0], self.z1[rows, 0])


def _gate_gaps(readout: Readout, base, vector, target) -> _Gap:
    """o2's gaps between `target` [B] and every token."""
    own = readout.second @ readout.W_U
    of_o1 = np.broadcast_to(own + readout.first @ readout.W_U, (len(base), len(own)))
    return _Gap(
        a=_against(base @ readout.W_U + own, target, 1.0),
        b=_against(vector @ readout.W_U, target, 0.0),
        c=_against(of_o1, target, 1.0),
        z0=(base @ readout.key + readout.offset)[:, None],
        z1=(vector @ readout.key)[:, None],
    )


def _gate_holes(readout: Readout, base, vector, target, start, end):
    """The parts (starts, ends) [B, C] of [start, end] in which o2 does not say `target` [B]; NaN for none.

    Between the ends and the one turn each gap goes one way, so signs at three points tell of every
    crossing.
    """
    gap = _gate_gaps(readout, base, vector, target)
    low, high = np.broadcast_to(start[:, None], gap.a.shape), np.broadcast_to(end[:, None], gap.a.shape)
    turn = gap.turn()
    turn = np.where((turn > low) & (turn < high), turn, high)
    at_low, at_turn, at_high = gap(low), gap(turn), gap(high)
    first, second = _root(gap, low, turn, at_low, at_turn), _root(gap, turn, high, at_turn, at_high)
    bad_low, bad_turn, bad_high = at_low <= 0, at_turn <= 0, at_high <= 0
    # Before the turn and after it at most one part of each is bad; where both touch the turn they join.
    starts = np.stack([np.where(bad_low, low, np.where(bad_turn, first, np.nan)),
                       np.where(bad_turn, turn, np.where(bad_high, second, np.nan))])  # fmt: skip
    ends = np.stack([np.where(bad_turn, turn, np.where(bad_low, first, np.nan)),
                     np.where(bad_high, high, np.where(bad_turn, second, np.nan))])  # fmt: skip
    return np.concatenate(list(starts), 1), np.concatenate(list(ends), 1)


def _root(gap: _Gap, low, high, at_low, at_high):
    """Where a gap [B, J] crosses zero between two scales at which its signs differ; NaN elsewhere."""
    rows, tokens = np.nonzero((at_low > 0) != (at_high > 0))
    some = gap.take(rows, tokens)
    left, right, is_up = low[rows, tokens], high[rows, tokens], at_high[rows, tokens] > 0
    for _ in range(ROUNDS):
        middle = (left + right) / 2
        is_before = (some(middle) > 0) != is_up
        left, right = np.where(is_before, middle, left), np.where(is_before, right, middle)
    found = np.full(low.shape, np.nan)
    found[rows, tokens] = (left + right) / 2
    return found


def _uncovered(hole_starts, hole_ends, start, end):
    """The parts (starts, ends) [B, C] of [start, end] that no hole [B, J] covers; NaN where there are
    fewer."""
    order = np.argsort(hole_starts, axis=1)  # NaN last
    n_most = max(1, int(np.isfinite(hole_starts).sum(1).max()))
    begins = np.take_along_axis(hole_starts, order, 1)[:, :n_most]
    stops = np.take_along_axis(hole_ends, order, 1)[:, :n_most]
    reached = np.maximum.accumulate(np.where(np.isfinite(stops), stops, -np.inf), axis=1)
    starts = np.concatenate([start[:, None], np.maximum(reached, start[:, None])], 1)
    ends = np.concatenate([begins, np.full((len(start), 1), np.inf)], 1)
    ends = np.minimum(np.where(np.isfinite(ends), ends, end[:, None]), end[:, None])
    # After the last hole every further column repeats the last gap: only the first of equals counts.
    is_gap = ends > starts
    is_gap[:, 1:] &= ~((starts[:, 1:] == starts[:, :-1]) & (ends[:, 1:] == ends[:, :-1]))
    most = max(1, int(is_gap.sum(1).max()))
    order = np.argsort(~is_gap, axis=1, kind="stable")[:, :most]
    kept = np.take_along_axis(is_gap, order, 1)
    return tuple(np.where(kept, np.take_along_axis(x, order, 1), np.nan) for x in (starts, ends))


@dataclasses.dataclass(frozen=True, repr=False)
class Steering(Printable):
    """What scaling latents does to all lists.

    Attributes:
      latents: which, scaled together.
      regions: where lists come out reversed.
      active: bool [B], lists of two different digits in which any of the latents is on.
      before: what the outputs say of the reconstruction, unsteered: the baseline.
      reasons: lists by what becomes of them, as published (`REASONS`): `success`, some scale of the grid
        reverses the list; or why none does.
      differs: lists of two different digits.
    """

    latents: tuple[int, ...]
    regions: Regions
    active: np.ndarray
    before: Answers
    reasons: dict[str, int]
    differs: int

    @property
    def n_reversed(self) -> int:
        """Lists of two different digits reversed at some scale, those among them in which the latents are off
        and the reconstruction alone reverses them."""
        return int(self.regions.exists.sum())

    @property
    def success(self) -> float:
        """Their share of all lists of two different digits."""
        return self.n_reversed / self.differs

    @property
    def success_where_active(self) -> float:
        """Their share of those in which a latent is on; NaN if there are none."""
        n_active = int(self.active.sum())
        return float(self.regions.exists[self.active].sum() / n_active) if n_active else float("nan")

    def table(self) -> str:
        """How many lists are reversed at some scale, and why others are not."""
        rows = [("lists", "", "")]
        rows += [(REASONS[name], f"{n:,}", percent(n / len(self.active))) for name, n in self.reasons.items()]
        rows.append(("reversed without steering", "", percent(self.before.reversed)))
        return columns(rows)


def steer(encoded: Encoded, latents, low: float = LOW, high: float = HIGH) -> Steering:
    """Scales one latent, or several by the same factor, in all lists.

    Raises:
      UserError: there is no such latent, or one is there twice; or as `reversal_regions` does.
    """
    check_kind("encoded", encoded, Encoded)
    chosen = check_latents(encoded, latents)
    view = encoded.view
    vector = encoded.latents[:, chosen] @ encoded.decoder[chosen]
    base = encoded.reconstruction - vector
    regions = reversal_regions(view.readout, view.lists, base, vector, low, high)
    differs = view.lists[:, 0] != view.lists[:, 1]
    active = (encoded.latents[:, chosen] > 0).any(1)
    reasons = why_not(view, base, vector, regions, active)
    before = judge(view.readout.answers(encoded.reconstruction), view.lists)
    return Steering(tuple(chosen), regions, active & differs, before, reasons, int(differs.sum()))


def check_latents(encoded: Encoded, latents) -> list[int]:
    """Indices of latents as a list; UserError unless each exists and is there once."""
    n_latents = encoded.latents.shape[1]
    try:
        found = np.atleast_1d(np.asarray(latents))
    except ValueError:  # rows of different lengths
        found = np.zeros(0)
    fits = found.ndim == 1 and found.size and found.dtype.kind in "iu"
    if not fits or found.min() < 0 or found.max() >= n_latents or len(set(found.tolist())) < found.size:
        raise UserError(f"latents are indices from 0 to {n_latents - 1}, each once; got {shown(latents)}")
    return [int(i) for i in found]


def why_not(view: SepView, base, vector, regions: Regions, active) -> dict[str, int]:
    """Counts of lists by the published reasons, in the published order of asking; `success` is what is left.

    As published, o2 is looked at on a grid of scales; o1's crossing is exact, where a line was fitted.
    """
    lists, readout, reason = view.lists, view.readout, np.full(len(view.lists), "success", object)
    reason[lists[:, 0] == lists[:, 1]] = "d1_eq_d2"
    reason[~active] = "feat_zero"
    failed = np.flatnonzero((reason == "success") & ~regions.on_grid)
    lists, base, vector = lists[failed], base[failed], vector[failed]
    d1, d2 = lists.T
    rows, ends = np.arange(len(lists)), [np.full(len(lists), x) for x in (regions.low, regions.high)]
    intercept, slope = _gaps_o1(readout, base, vector, d2)
    o1_wins = _line_interval(intercept, slope, regions.low, regions.high)
    gap, rise = intercept[rows, d1], slope[rows, d1]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -gap / rise
    bounds = (
        np.where(rise > 0, np.maximum(regions.low, crossing), regions.low),
        np.where(rise > 0, regions.high, np.minimum(regions.high, crossing)),
    )
    crossings = _pair_roots(_gate_gaps(readout, base, vector, d1).take(rows, d2), *ends)
    in_bounds = ((crossings >= bounds[0]) & (crossings <= bounds[1])).any(0)
    in_window = _says(readout, base, vector, d1, *bounds)
    conditions: dict[str, Any] = {
        "unresponsive": np.abs(rise) < PARALLEL,
        "o1_extrapolated": crossing > FARTHEST,
        "no_o2_crossover": ~np.isfinite(crossings).any(0) & ~in_window,
        "no_o2_crossover_in_bounds": ~in_bounds & ~in_window,
        "o1_never_predicts_d2": ~_holds_grid(o1_wins[0][:, None], o1_wins[1][:, None]),
        "o2_never_predicts_d1": ~_says(readout, base, vector, d1, *ends),
        "no_overlapping_dominance": np.ones(len(lists), bool),
    }
    found = np.full(len(lists), "", object)
    for name, holds in conditions.items():
        found[(found == "") & holds] = name
    reason[failed] = found
    counts = {name: int((reason == name).sum()) for name in REASONS}
    return {name: n for name, n in counts.items() if n or name in ALWAYS}


def _holds_grid(starts, ends) -> np.ndarray:
    """bool [B], whether any interval [B, C] holds a scale of the published grid."""
    with np.errstate(invalid="ignore"):
        first = np.ceil(starts / STEP - ON_GRID) * STEP
        return ((first <= ends + ON_GRID * STEP) & (starts < ends)).any(1)


def _pair_roots(gap: _Gap, low, high) -> np.ndarray:
    """The crossings [2, B] of one gap per list between two scales; NaN for none."""
    one = _Gap(*(x[:, None] for x in (gap.a, gap.b, gap.c, gap.z0, gap.z1)))
    low, high = low[:, None], high[:, None]
    turn = one.turn()
    turn = np.where((turn > low) & (turn < high), turn, high)
    at = [one(x) for x in (low, turn, high)]
    return np.stack([_root(one, low, turn, *at[:2])[:, 0], _root(one, turn, high, *at[1:])[:, 0]])


def _says(readout: Readout, base, vector, target, low, high) -> np.ndarray:
    """bool [B], whether o2 says `target` at any scale of the grid in [low, high] [B]."""
    found = np.zeros(len(base), bool)
    some = np.flatnonzero(low < high)
    for i in range(0, len(some), CHUNK):
        at = some[i : i + CHUNK]
        holes = _gate_holes(readout, base[at], vector[at], target[at], low[at], high[at])
        found[at] = _holds_grid(*_uncovered(*holes, low[at], high[at]))
    return found


@dataclasses.dataclass(frozen=True, repr=False)
class SteeringStudy(Printable):
    """How many lists of two different digits are reversed at some scale, as shares, by what is scaled.

    Attributes:
      before: no scaling: the SAE's reconstruction alone, the baseline of all others.
      alone: the first of the special latents. together: all of them by the same factor; None for one.
      another: the first one, and with it one other latent that is on, by 0, 1/2, 1.5, 2, 3 or 5.
      other_latent: control: the largest other latent of each list.
      random_direction: control: a random vector as long as what the special latent adds, means of the draws.
      along_positions: P_1 - P_2, added to the reconstruction, by -2 to 2.
      along_random: control: random vectors as long as P_1 - P_2 instead.
      steering: of `alone`, in detail.
    """

    before: float
    alone: float
    together: float | None
    another: float
    other_latent: float
    random_direction: float
    along_positions: float
    along_random: float
    steering: Steering

    def table(self) -> str:
        """A line for each kind of steering."""
        rows = [("scaled", "reversed")]
        for name, words in WORDS.items():
            if (share := getattr(self, name)) is not None:
                rows.append((words, percent(share)))
        return columns(rows)


WORDS = {
    "before": "nothing: the reconstruction",
    "alone": "the special latent, 0 to 10",
    "together": "all special latents by one factor, 0 to 10",
    "another": "the special latent, and one other by 0 to 5",
    "other_latent": "control: the largest other latent, 0 to 10",
    "random_direction": "control: a random vector of that length, 0 to 10",
    "along_positions": "P_1 - P_2 added, -2 to 2",
    "along_random": "control: random vectors of its length, -2 to 2",
}
FACTORS = (0.0, 0.5, 1.5, 2.0, 3.0, 5.0)  # of another latent
DOSES = -2.0, 2.0  # of P_1 - P_2: alpha_1 and alpha_2 differ by at most 1


def study_steering(encoded: Encoded, latents, *, n_draws: int = 3, seed: int = 0) -> SteeringStudy:
    """What scaling does to all lists, with controls.

    Args:
      encoded: the SAE and the lists.
      latents: the special ones, the most special first.
      n_draws: of random directions.
      seed: of these.

    Raises:
      UserError: there is no such latent, or a number is wrong.
    """
    check_kind("encoded", encoded, Encoded)
    chosen, n_draws = check_latents(encoded, latents), whole_number("n_draws", n_draws, 1, 1000)
    generator = np.random.default_rng(check_seed(seed))
    view, graded, first = encoded.view, encoded.reconstruction, chosen[0]
    differs = view.lists[:, 0] != view.lists[:, 1]

    def share(base, vector, *scales) -> float:
        return float(
            reversal_regions(view.readout, view.lists, base, vector, *scales).exists.sum() / differs.sum()
        )

    def unit(*shape):
        drawn = generator.normal(size=(*shape, graded.shape[1]))
        return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)

    alone = steer(encoded, first)
    vector = encoded.latents[:, [first]] * encoded.decoder[first]
    others = np.where(np.arange(encoded.latents.shape[1]) == first, 0, encoded.latents)
    largest = others.argmax(1)
    of_largest = others[np.arange(len(others)), largest, None] * encoded.decoder[largest]
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    _, order = known_vectors(view)
    random = [length * unit(len(graded)) for _ in range(n_draws)]
    along = [np.linalg.norm(order) * unit(1) for _ in range(n_draws)]
    return SteeringStudy(
        before=alone.before.reversed,
        alone=alone.success,
        together=steer(encoded, chosen).success if len(chosen) > 1 else None,
        another=float((alone.regions.exists | _with_another(encoded, first, alone)).sum() / differs.sum()),
        other_latent=share(graded - of_largest, of_largest),
        random_direction=float(np.mean([share(graded - x, x) for x in random])),
        along_positions=share(graded, order[None], *DOSES),
        along_random=float(np.mean([share(graded, x, *DOSES) for x in along])),
        steering=alone,
    )


def _with_another(encoded: Encoded, latent: int, alone: Steering) -> np.ndarray:
    """bool [B], lists that `latent` reverses only while one other latent that is on is scaled, too."""
    view, found = encoded.view, np.zeros(len(encoded.latents), bool)
    left = alone.active & ~alone.regions.exists
    for other in np.flatnonzero((encoded.latents[left] > 0).any(0)):
        at = np.flatnonzero(left & ~found & (encoded.latents[:, other] > 0))
        if other == latent or not len(at):
            continue
        vector = encoded.latents[at][:, [latent]] * encoded.decoder[latent]
        more = encoded.latents[at][:, [other]] * encoded.decoder[other]
        base = encoded.decode(encoded.latents[at]) - vector
        for factor in FACTORS:
            moved = reversal_regions(view.readout, view.lists[at], base + (factor - 1) * more, vector)
            found[at] |= moved.exists
    return found
