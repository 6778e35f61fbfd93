"""Is it how much a latent is on, or only that it is on, that tells the outputs the order?

Activations are replaced by fewer different values: by their mean while active (on or off), or by the means
of 2, 3, 5 bins with equally many lists each. What is lost of the order (a list comes out reversed), and what
of the digits?

Controls: latents of digits that are on as often together as the special latent is, treated alike; and the
same change of SEP, of the same size in the same lists, along a random direction.

Dimensions: B lists, F latents, D model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from orderscale_jax.circuits.checks import check_seed, real_numbers, whole_number
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, percent
from orderscale_jax.options import shown
from orderscale_jax.printing import Printable
from orderscale_jax.sae.dictionary import peel
from orderscale_jax.sae.fidelity import Answers, Encoded, judge
from orderscale_jax.sae.steering import check_latents

BINS = (1, 2, 3, 5)
DRAWS = 10


@dataclasses.dataclass(frozen=True, repr=False)
class Grading(Printable):
    """What the outputs say when latents have few values, in all lists.

    Attributes:
      latents: the special ones, of which it is asked.
      graded: with all activations as they are.
      special, every: by the number of bins, 1 for on or off: the special latents alone, and all.
      digits, direction: the same of the controls, means over draws of each share.
      extremes: by control and bins, the least and the largest share of lists right in any draw.
      digit_latents: how many detectors of digits a draw of that control has, on average; with 0 it controls
        nothing.
    """

    latents: tuple[int, ...]
    graded: Answers
    special: dict[int, Answers]
    every: dict[int, Answers]
    digits: dict[int, Answers]
    direction: dict[int, Answers]
    extremes: dict[str, dict[int, tuple[float, float]]]
    digit_latents: float

    def table(self) -> str:
        """What is right, and what is reversed, by how many values are left."""
        rows = [("", "values", "lists right", "reversed", "pair right")]
        rows.append(("graded", "", *_cells(self.graded)))
        for name in ("special", "digits", "direction", "every"):
            for bins, answers in getattr(self, name).items():
                rows.append((_words(name, self.latents), f"{bins}", *_cells(answers)))
        return columns(rows)


def _cells(answers: Answers) -> tuple[str, ...]:
    return tuple(map(percent, (answers.lists_right, answers.reversed, answers.pair_right)))


def _words(name: str, latents: Sequence[int]) -> str:
    return {
        "special": f"latent {', '.join(map(str, latents))}",
        "digits": "control: latents of digits",
        "direction": "control: random direction",
        "every": "all latents",
    }[name]


def grade(
    encoded: Encoded,
    latents,
    *,
    bins: Sequence[int] = BINS,
    n_draws: int = DRAWS,
    seed: int = 0,
) -> Grading:
    """What it costs to give latents few values.

    Args:
      encoded: the SAE and the lists.
      latents: the special ones.
      bins: numbers of values, each from 1 on.
      n_draws: of each control.
      seed: of what is drawn.

    Raises:
      UserError: there is no such latent, or a number is wrong.
    """
    check_kind("encoded", encoded, Encoded)
    chosen = check_latents(encoded, latents)
    if not isinstance(bins, Sequence) or isinstance(bins, str) or not bins:
        raise UserError(f"bins must be several numbers of values, such as (1, 5); got {shown(bins)}")
    bins = [whole_number("bins", n, 1, 1000) for n in bins]
    n_draws = whole_number("n_draws", n_draws, 1, 10_000)
    view, generator = encoded.view, np.random.default_rng(check_seed(seed))
    graded = encoded.reconstruction

    def outcome(sep) -> Answers:
        return judge(view.readout.answers(sep), view.lists)

    found: dict[str, dict[int, Answers]] = {name: {} for name in ("special", "every", "digits", "direction")}
    extremes: dict[str, dict[int, tuple[float, float]]] = {"digits": {}, "direction": {}}
    detectors, n_drawn = _detectors(encoded, chosen), []
    for n in bins:
        change = in_bins(encoded.latents, n) - encoded.latents
        of_special = change[:, chosen] @ encoded.decoder[chosen]
        found["special"][n] = outcome(graded + of_special)
        found["every"][n] = outcome(graded + change @ encoded.decoder)
        # As long as the change is, with its sign along the largest one, which with one latent is its own.
        length = np.linalg.norm(of_special, axis=1, keepdims=True)
        length = length * np.sign(of_special @ of_special[length.argmax()])[:, None]
        draws: dict[str, list[Answers]] = {"digits": [], "direction": []}
        for _ in range(n_draws):
            others = _as_often(encoded, chosen, generator.permutation(detectors))
            n_drawn.append(len(others))
            draws["digits"].append(outcome(graded + change[:, others] @ encoded.decoder[others]))
            direction = generator.normal(size=graded.shape[1])
            direction /= np.linalg.norm(direction)
            draws["direction"].append(outcome(graded + length * direction))
        for name, all_of_them in draws.items():
            found[name][n] = _mean(all_of_them)
            right = [answers.lists_right for answers in all_of_them]
            extremes[name][n] = min(right), max(right)
    return Grading(
        tuple(chosen), outcome(graded), **found, extremes=extremes, digit_latents=float(np.mean(n_drawn))
    )


def in_bins(latents, n: int) -> np.ndarray:
    """Latents [B, F] of which each has at most n different values where it is on: the means of n bins of
    its activations, with equally many lists each.

    Raises:
      UserError: the latents are no such array, or n is not positive.
    """
    latents, n = real_numbers("latents", latents), whole_number("n", n, 1)
    if latents.ndim != 2:
        raise UserError(f"latents must have shape [B, F], got {list(latents.shape)}")
    found = np.zeros_like(latents)
    for i in np.flatnonzero((latents > 0).any(0)):
        at = np.flatnonzero(latents[:, i] > 0)
        order = at[np.argsort(latents[at, i], kind="stable")]
        for part in np.array_split(order, min(n, len(order))):
            found[part, i] = latents[part, i].mean()
    return found


def _detectors(encoded: Encoded, chosen: Sequence[int]) -> np.ndarray:
    """Indices of the latents, none of the chosen ones, that detect at least one digit and are on in fewer
    lists than the chosen."""
    symbols, _ = peel(encoded.view, encoded.latents)
    is_one = (symbols > 0) & (encoded.firing < encoded.firing[list(chosen)].max())
    return np.setdiff1d(np.flatnonzero(is_one), chosen)


def _as_often(encoded: Encoded, chosen: Sequence[int], others: np.ndarray) -> np.ndarray:
    """The first of other latents, as many as together are on no more often than the chosen ones."""
    return others[np.cumsum(encoded.firing[others]) <= encoded.firing[list(chosen)].sum()]


def _mean(answers: Sequence[Answers]) -> Answers:
    names = [field.name for field in dataclasses.fields(Answers)]
    return Answers(**{name: float(np.mean([getattr(a, name) for a in answers])) for name in names})
