"""What in SEP tells the outputs the order of the digits? Parts of SEP exchanged, one at a time.

After layer 0 SEP holds S + alpha_1 (E[d1] + P_1) + alpha_2 (E[d2] + P_2) (paper, section 4). The paper says
that order is kept by the relative size of alpha_1 and alpha_2. They weigh two things at once: the digits'
embeddings and the vectors of their positions. Here the weights of each are changed alone, in the running
model: a vector is added to SEP, and everything that follows is computed anew.

Dimensions: B lists, N digits, D model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.special import expit

from orderscale_jax.analysis.ablation import ROUNDING
from orderscale_jax.analysis.circuit import why_no_equations
from orderscale_jax.analysis.observation import Observation, Outcome, intervene, observe
from orderscale_jax.circuits.checks import check_seed
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.files import plain
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.model import patch
from orderscale_jax.printing import Printable

DOSES = tuple(np.round(np.arange(0, 1.51, 0.125), 3).tolist())
SCALES = tuple(np.round(np.arange(-1, 2.01, 0.25), 2).tolist())
GAPS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST_LISTS = 20_000  # of which all that there are are tried
REFERENCE = 0.5  # of lists that SEP of the reversed list must reverse; with less there is nothing to explain
MOST, FEW = Fraction(2, 3), Fraction(1, 10)  # of what it reverses: what carries order, and what does not
EXCHANGES = {  # what is changed, in words that stand alone
    "reversed_list": "SEP of the reversed list",
    "positions_of_reversed": "P₁, P₂ weighted as in the reversed list",
    "embeddings_of_reversed": "E[d1], E[d2] weighted as in the reversed list",
    "alphas": "α₁, α₂ exchanged",
    "positions": "weights of P₁, P₂ exchanged",
    "embeddings": "weights of E[d1], E[d2] exchanged",
    "even_positions": "P₁, P₂ weighted equally",
    "even_embeddings": "E[d1], E[d2] weighted equally",
    "positions_even_embeddings": "P₁, P₂ exchanged, E[d1], E[d2] equal",
    "same_larger": "P₁, P₂ of another list, same α larger",
    "other_larger": "P₁, P₂ of another list, other α larger",
    "other_digits": "control: vectors of two other digits",
    "other_positions": "control: vectors of two other positions",
}


@dataclasses.dataclass(frozen=True)
class Effect:
    """What becomes of the lists with d1 != d2, as fractions of them.

    Attributes:
      reversed: o1 says d2 and o2 says d1.
      right: o1 says d1 and o2 says d2.
      unchanged: both outputs say what they said before.
      repeated: both outputs say the same.
      length: mean length of the vector that was added to SEP; NaN where SEP was replaced.
    """

    reversed: float
    right: float
    unchanged: float
    repeated: float
    length: float


@dataclasses.dataclass(frozen=True, repr=False)
class Order(Printable):
    """What carries order.

    Attributes:
      n_lists: lists with d1 != d2, of which the effects are fractions.
      g, c: [N] and a number with alpha_1 = sigmoid(g[d1] - g[d2] + c), read off the weights; the mean of g
        is 0.
      fit_error: the largest difference between that and alpha_1 as it was observed.
      same_digit_larger: fraction of the pairs of digits of which the same one has the larger alpha in both
        orders.
      intact: without any intervention.
      exchange: by what is changed in SEP (`EXCHANGES`):
        `reversed_list`, SEP of the reversed list instead, the reference. It is the sum of two changes:
        `positions_of_reversed`, P_1 and P_2 weighted as there, the digits as before, and
        `embeddings_of_reversed`, the digits weighted as there, P_1 and P_2 as before.
        `alphas`, `positions` and `embeddings` exchange the two weights of both, of P_1 and P_2, and of E[d1]
        and E[d2]. `even_positions` and `even_embeddings` give the two the same weight,
        `positions_even_embeddings` does so to E[d1] and E[d2] and exchanges the weights of P_1 and P_2.
        `same_larger` and `other_larger` weigh P_1 and P_2 as in another list, drawn at random from those in
        which the same alpha is the larger one, and the other (lists without such another stay as they are).
        `other_digits` and `other_positions` are vectors as long as that of `positions` with the directions of
        E[d1 + 1] - E[d2 + 1] and of P_SEP - P_o1.
      random_vectors: the same with random vectors of the same lengths; not of `reversed_list`.
      steering: dose t to (along, random): t (P_1 - P_2) added to SEP, towards the weights of the reversed
        list, and a random vector of that length.
      scaling: factor s to (along, random): s times the vector of `positions` (0 is intact, 1 the exchange),
        and a random vector of that length.
      gaps: edges of the bins of |alpha_1 - alpha_2|.
      gap_lists, gap_accuracy: lists in each bin, and the fraction of them entirely right, of those observed.
      all_lists, all_accuracy: the same of all N^2 lists, those of the training among them; None if they are
        more than MOST_LISTS.
    """

    n_lists: int
    g: np.ndarray
    c: float
    fit_error: float
    same_digit_larger: float
    intact: Effect
    exchange: dict[str, Effect]
    random_vectors: dict[str, Effect]
    steering: dict[float, tuple[Effect, Effect]]
    scaling: dict[float, tuple[Effect, Effect]]
    gaps: tuple[float, ...]
    gap_lists: np.ndarray
    gap_accuracy: np.ndarray
    all_lists: np.ndarray | None
    all_accuracy: np.ndarray | None

    def table(self) -> str:
        """What each exchange does, then accuracy by the gap of the two alphas."""
        rows = [
            ("changed in SEP", f"reversed, of {self.n_lists:,}", "right", "unchanged", "repeated", "length",
             "random: reversed", "right")
        ]  # fmt: skip
        for name, effect in {"nothing": self.intact, **self.exchange}.items():
            shares = (effect.reversed, effect.right, effect.unchanged, effect.repeated)
            control = self.random_vectors.get(name)
            random = () if control is None else (percent(control.reversed), percent(control.right))
            said = EXCHANGES.get(name, name)
            rows.append((said, *map(percent, shares), number(effect.length), *random))
        gaps = [("|alpha_1 - alpha_2|", "lists", "lists right", "of all lists", "right")]
        for row in self.by_gap():
            every = () if row["all"] is None else (f"{row['all']:,}", percent(row["all_right"]))
            own = (f"{row['lists']:,}", percent(row["lists_right"]))
            gaps.append((f"{row['from']:g} to {row['to']:g}", *own, *every))
        same = f"{percent(self.same_digit_larger)} of the pairs of digits"
        return "\n".join(
            [columns(rows), columns(gaps), f"the same digit has the larger alpha in both orders in {same}"]
        )

    def by_gap(self) -> list[dict[str, Any]]:
        """A dictionary for each bin of |alpha_1 - alpha_2|, as in `results.json`."""
        nothing = [None] * len(self.gap_lists)
        every = (nothing, nothing) if self.all_lists is None else (self.all_lists, self.all_accuracy)
        names = ("from", "to", "lists", "lists_right", "all", "all_right")
        bins = zip(self.gaps[:-1], self.gaps[1:], self.gap_lists, self.gap_accuracy, *every, strict=True)
        return [dict(zip(names, row, strict=True)) for row in bins]


def what_carries_order(observation: Observation, *, seed: int = 0) -> Order:
    """Exchanges what SEP holds of the two digits, part by part, in the running model.

    Args:
      observation: of a model that the two equations describe (`circuit.misfits`).
      seed: of the controls.

    Raises:
      UserError: the model is of another kind, no list has two different digits, or the seed is none.
    """
    check_kind("observation", observation, Observation)
    model, lists, seed = observation.model, observation.lists, check_seed(seed)
    if reason := why_no_equations(model.config):
        raise UserError(reason)
    differ = lists[:, 0] != lists[:, 1]
    if not differ.any():
        raise UserError("order can be exchanged in lists of two different digits only, and there is none")
    E, P = (np.asarray(x[...], np.float64) for x in (model.embed.W_E, model.pos_embed.W_pos))
    digits, places = E[lists], P[None, :2]  # [B, 2, D] and [1, 2, D]
    alpha = _alphas(observation)
    weights = _weights(alpha, _alphas(observe(model, lists[:, ::-1])), seed)
    directions = random_units(len(EXCHANGES), len(lists), P.shape[1], seed)

    def change(of_digits, of_places):
        """The vectors [B, D] that give SEP these weights [B, 2] instead of alpha."""
        return ((of_digits - alpha)[..., None] * digits + (of_places - alpha)[..., None] * places).sum(1)

    def effect(outcome: Outcome, vectors) -> Effect:
        said, was, wanted = (x[differ] for x in (outcome.predictions, observation.predictions, lists))
        return Effect(
            reversed=float((said == wanted[:, ::-1]).all(1).mean()),
            right=float((said == wanted).all(1).mean()),
            unchanged=float((said == was).all(1).mean()),
            repeated=float((said[:, 0] == said[:, 1]).mean()),
            length=float("nan")
            if vectors is None
            else float(np.linalg.norm(vectors[differ], axis=-1).mean()),
        )

    def add(vectors) -> Effect:
        """The effect of vectors [B, D] added to what SEP reads in layer 0."""
        added = np.zeros((2, *observation.lists.shape[:1], P.shape[0], P.shape[1]), np.float32)
        added[0, :, observation.graph.sep] = vectors
        return effect(intervene(observation, added=added), vectors)

    def as_long_as(vectors, directions):
        return np.linalg.norm(vectors, axis=-1, keepdims=True) * directions

    def doses(vectors) -> tuple[Effect, Effect]:
        return add(vectors), add(as_long_as(vectors, directions[0]))

    donor = patch(model, lists[:, ::-1], layer=1, position="SEP")
    replaced = intervene(observation, residuals=donor.residuals, residuals_at=donor.residuals_at)
    vectors = {name: change(*given) for name, given in weights.items()}
    sign = np.sign(alpha[:, 1:] - alpha[:, :1])  # of P_1 - P_2, towards the weights of the reversed list
    above, sep = (lists + 1) % model.config.n_digits, observation.graph.sep
    vectors["other_digits"] = as_long_as(vectors["positions"], _units(E[above[:, 0]] - E[above[:, 1]]))
    vectors["other_positions"] = as_long_as(vectors["positions"], sign * _units(P[sep] - P[sep + 1]))
    towards = sign * (P[0] - P[1])
    g, c = digit_scores(model)
    gap_lists, gap_accuracy = _by_gap(observation)
    all_lists, all_accuracy = None, None
    if (n_digits := model.config.n_digits) ** 2 <= MOST_LISTS:
        every = np.indices((n_digits, n_digits), np.int32).reshape(2, -1).T
        all_lists, all_accuracy = _by_gap(observe(model, every))
    larger = np.abs(g[:, None] - g)[np.triu_indices(len(g), 1)] > abs(c)
    return Order(
        n_lists=int(differ.sum()),
        g=g,
        c=c,
        fit_error=float(np.abs(alpha[:, 0] - expit(g[lists[:, 0]] - g[lists[:, 1]] + c)).max()),
        same_digit_larger=float(larger.mean()),
        intact=effect(observation, np.zeros_like(towards)),
        exchange={"reversed_list": effect(replaced, None)} | {name: add(x) for name, x in vectors.items()},
        random_vectors={
            name: add(as_long_as(x, direction))
            for (name, x), direction in zip(vectors.items(), directions[1:], strict=True)
        },
        steering={t: doses(t * towards) for t in DOSES},
        scaling={s: doses(s * vectors["positions"]) for s in SCALES},
        gaps=GAPS,
        gap_lists=gap_lists,
        gap_accuracy=gap_accuracy,
        all_lists=all_lists,
        all_accuracy=all_accuracy,
    )


def is_in_positions(order: Mapping[str, Any]) -> bool:
    """Whether the weights of P_1 and P_2 reverse a list, by what `tabulate_order` gives; a rule chosen here.

    SEP of the reversed list must reverse at least `REFERENCE` (half) of the lists; otherwise there is nothing
    to explain. P_1 and P_2 changed alone, exchanged as well as weighted as in the reversed list, must reverse
    both outputs in at least `MOST` (two thirds) as many lists. The digits' weights changed alone, in both
    ways, and vectors as long as the exchange in random directions, those of other digits and of other
    positions may do so in at most `FEW` (a tenth) as many.
    """
    positions, others, reference = reversed_by(order)
    enough, most = reference >= REFERENCE - ROUNDING, positions >= MOST * reference - ROUNDING
    return enough and most and others <= FEW * reference + ROUNDING


def reversed_by(order: Mapping[str, Any]) -> tuple[float, float, float]:
    """What `is_in_positions` weighs, each as the fraction of lists with both outputs reversed.

    The least of the two changes of P_1 and P_2, the most of everything else, and SEP of the reversed list.

    Raises:
      UserError: `order` is not what `tabulate_order` gives.
    """
    try:
        share = {name: effect["reversed"] for name, effect in order["exchange"].items()}
        random = order["random_vectors"]["positions"]["reversed"]
        positions = min(share["positions"], share["positions_of_reversed"])
        names = ("embeddings", "embeddings_of_reversed", "other_digits", "other_positions")
        return positions, max(random, *(share[name] for name in names)), share["reversed_list"]
    except (KeyError, TypeError, AttributeError):
        raise UserError("order must be what tabulate_order gives") from None


def random_units(n: int, n_lists: int, d_model: int, seed: int) -> np.ndarray:
    """Random directions for each list, [n, B, D]."""
    return _units(np.random.default_rng([seed, 1]).normal(size=(n, n_lists, d_model)))


def digit_scores(model) -> tuple[np.ndarray, float]:
    """g [N] and c with alpha_1 = sigmoid(g[d1] - g[d2] + c), for a model that the equations describe.

    SEP scores d_i in layer 0 by q (E[d_i] + P_i), with one vector q for all lists, so that its softmax over
    the two is a logistic function of a difference.
    """
    config, attn = model.config, model.blocks[0].attn
    E, P, W_Q, W_K = (
        np.asarray(x[...], np.float64) for x in (model.embed.W_E, model.pos_embed.W_pos, attn.W_Q, attn.W_K)
    )
    q = (E[config.sep_token] + P[config.list_len]) @ W_Q[0] @ W_K[0].T / np.sqrt(config.d_head)
    g = E[: config.n_digits] @ q
    return g - g.mean(), float((P[0] - P[1]) @ q)


def tabulate_order(found: Order) -> dict[str, Any]:
    """`order` of `results.json`."""
    check_kind("found", found, Order)
    return plain(
        {
            "n_lists": found.n_lists,
            "g": found.g,
            "c": found.c,
            "fit_error": found.fit_error,
            "same_digit_larger": found.same_digit_larger,
            "intact": vars(found.intact),
            "exchange": {name: vars(effect) for name, effect in found.exchange.items()},
            "random_vectors": {name: vars(effect) for name, effect in found.random_vectors.items()},
            "steering": [
                {"dose": t, "along": vars(along), "random": vars(random)}
                for t, (along, random) in found.steering.items()
            ],
            "scaling": [
                {"factor": s, "along": vars(along), "random": vars(random)}
                for s, (along, random) in found.scaling.items()
            ],
            "accuracy_by_alpha_gap": found.by_gap(),
        }
    )


def _units(vectors: np.ndarray) -> np.ndarray:
    """The vectors [..., D] with the length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _alphas(observation: Observation) -> np.ndarray:
    """alpha_1 and alpha_2 of each list, [B, 2]."""
    return observation.sep_reads[0, :, 0].astype(np.float64)


def _weights(
    alpha: np.ndarray, of_reversed: np.ndarray, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By what is changed, the weights [B, 2] of E[d1] and E[d2], and those of P_1 and P_2, instead of alpha.

    `of_reversed` are the alphas of the reversed lists.
    """
    swapped, even = alpha[:, ::-1], np.full_like(alpha, 0.5)
    first_larger, random = alpha[:, 0] > alpha[:, 1], np.random.default_rng(seed)

    def of_another(wanted: np.ndarray) -> np.ndarray:
        """The alphas of another list in which alpha_1 is the larger one, where that is wanted, or is not."""
        chosen = np.arange(len(alpha))
        for value in (True, False):
            pool = np.flatnonzero(first_larger == value)
            for i in np.flatnonzero(wanted == value):
                if len(others := pool[pool != i]):
                    chosen[i] = random.choice(others)
        return alpha[chosen]

    return {
        "positions_of_reversed": (alpha, of_reversed),
        "embeddings_of_reversed": (of_reversed[:, ::-1], alpha),
        "alphas": (swapped, swapped),
        "positions": (alpha, swapped),
        "embeddings": (swapped, alpha),
        "even_positions": (alpha, even),
        "even_embeddings": (even, alpha),
        "positions_even_embeddings": (even, swapped),
        "same_larger": (alpha, of_another(first_larger)),
        "other_larger": (alpha, of_another(~first_larger)),
    }


def _by_gap(observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Lists in each bin of |alpha_1 - alpha_2|, and the fraction entirely right; NaN in an empty bin."""
    alpha = _alphas(observation)
    place = np.clip(
        np.searchsorted(GAPS, np.abs(alpha[:, 0] - alpha[:, 1]), side="right") - 1, 0, len(GAPS) - 2
    )
    counts = np.bincount(place, minlength=len(GAPS) - 1)
    right = np.bincount(place, observation.list_correct, minlength=len(GAPS) - 1)
    return counts, np.where(counts > 0, right / np.maximum(counts, 1), np.nan)
