"""What in SEP tells the outputs the order of the digits? Parts of SEP exchanged, one at a time.

After layer 0 SEP holds S + alpha_1 (E[d1] + P_1) + alpha_2 (E[d2] + P_2) (paper, section 4). The paper says
that order is kept by the relative size of alpha_1 and alpha_2. They weigh two things at once: the digits'
embeddings and the vectors of their positions. Here each is exchanged alone, in the running model: a vector is
added to SEP, and everything that follows is computed anew.

Dimensions: B lists, N digits, D model.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from orderscale_jax.analysis.circuit import why_no_equations
from orderscale_jax.analysis.observation import Observation, Outcome, intervene, observe
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.files import plain
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.model import patch
from orderscale_jax.printing import Printable

DOSES = tuple(np.round(np.arange(0, 1.51, 0.125), 3).tolist())
SCALES = tuple(np.round(np.arange(-1, 2.01, 0.25), 2).tolist())
GAPS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST_LISTS = 20_000  # of which all that there are are tried


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
      exchange: by what is exchanged between d1 and d2: `alphas`, both weights as a whole; `positions`, the
        weights of P_1 and P_2 alone; `embeddings`, those of E[d1] and E[d2] alone; `reversed_list`, SEP of
        the reversed list instead, which is the most that can be had. Controls: `random_weights`, P_1 and P_2
        weighted as in another list drawn at random; `random_directions`, a random vector as long as that of
        `positions`, and `random_directions_embeddings` as long as that of `embeddings`.
      steering: dose t to (along, random): t (P_1 - P_2) added to SEP, towards the weights of the reversed
        list, and a random vector of that length.
      scaling: factor s to (along, random): s times the vector of `positions` (0 is intact, 1 the exchange),
        and a random vector of that length.
      gaps: edges of the bins of |alpha_1 - alpha_2|.
      gap_lists, gap_accuracy: lists in each bin, and the fraction of them entirely right; of all N^2 lists,
        if they are MOST_LISTS at most, otherwise of those observed.
    """

    n_lists: int
    g: np.ndarray
    c: float
    fit_error: float
    same_digit_larger: float
    intact: Effect
    exchange: dict[str, Effect]
    steering: dict[float, tuple[Effect, Effect]]
    scaling: dict[float, tuple[Effect, Effect]]
    gaps: tuple[float, ...]
    gap_lists: np.ndarray
    gap_accuracy: np.ndarray

    def table(self) -> str:
        """What each exchange does, then accuracy by the gap of the two alphas."""
        rows = [
            ("exchanged in SEP", f"reversed, of {self.n_lists:,}", "right", "unchanged", "repeated", "length")
        ]
        for name, effect in {"nothing": self.intact, **self.exchange}.items():
            shares = (effect.reversed, effect.right, effect.unchanged, effect.repeated)
            rows.append((name.replace("_", " "), *map(percent, shares), number(effect.length)))
        gaps = [("|alpha_1 - alpha_2|", "lists", "lists right")]
        bins = itertools.pairwise(self.gaps)
        for (low, high), count, right in zip(bins, self.gap_lists, self.gap_accuracy, strict=True):
            gaps.append((f"{low:g} to {high:g}", f"{count:,}", percent(right)))
        same = f"{percent(self.same_digit_larger)} of the pairs of digits"
        return "\n".join(
            [columns(rows), columns(gaps), f"the same digit has the larger alpha in both orders in {same}"]
        )


def what_carries_order(observation: Observation, *, seed: int = 0) -> Order:
    """Exchanges what SEP holds of the two digits, part by part, in the running model.

    Args:
      observation: of a model that the two equations describe (`circuit.misfits`).
      seed: of the controls.

    Raises:
      UserError: the model is of another kind, or no list has two different digits.
    """
    check_kind("observation", observation, Observation)
    model, lists = observation.model, observation.lists
    if reason := why_no_equations(model.config):
        raise UserError(reason)
    differ = lists[:, 0] != lists[:, 1]
    if not differ.any():
        raise UserError("order can be exchanged in lists of two different digits only, and there is none")
    E, P = (np.asarray(x[...], np.float64) for x in (model.embed.W_E, model.pos_embed.W_pos))
    alpha = observation.sep_reads[0, :, 0].astype(np.float64)  # [B, 2]
    delta = (alpha[:, 1] - alpha[:, 0])[:, None]  # [B, 1]
    positions, embeddings = P[0] - P[1], E[lists[:, 0]] - E[lists[:, 1]]
    random = random_units(len(lists), P.shape[1], seed)
    others = alpha[np.random.default_rng(seed).permutation(len(lists))] - alpha

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

    donor = patch(model, lists[:, ::-1], layer=1, position="SEP")
    replaced = intervene(observation, residuals=donor.residuals, residuals_at=donor.residuals_at)
    exchange = {
        "alphas": add(delta * (positions + embeddings)),
        "positions": add(delta * positions),
        "embeddings": add(delta * embeddings),
        "reversed_list": effect(replaced, None),
        "random_weights": add(others @ P[:2]),
        "random_directions": add(as_long_as(delta * positions, random[0])),
        "random_directions_embeddings": add(as_long_as(delta * embeddings, random[1])),
    }
    towards = np.sign(delta) * positions
    g, c = digit_scores(model)
    gap_lists, gap_accuracy = _by_gap(observation)
    larger = np.abs(g[:, None] - g)[np.triu_indices(len(g), 1)] > abs(c)
    return Order(
        n_lists=int(differ.sum()),
        g=g,
        c=c,
        fit_error=float(np.abs(alpha[:, 0] - _sigmoid(g[lists[:, 0]] - g[lists[:, 1]] + c)).max()),
        same_digit_larger=float(larger.mean()),
        intact=effect(observation, np.zeros_like(towards)),
        exchange=exchange,
        steering={t: (add(t * towards), add(as_long_as(t * towards, random[2]))) for t in DOSES},
        scaling={
            s: (add(s * delta * positions), add(as_long_as(s * delta * positions, random[2]))) for s in SCALES
        },
        gaps=GAPS,
        gap_lists=gap_lists,
        gap_accuracy=gap_accuracy,
    )


def is_in_positions(exchange: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the weights of the position vectors carry the order, by `exchange` of `tabulate_order`.

    Exchanged alone they must reverse both outputs in at least two thirds as many lists as SEP of the reversed
    list, and neither the embeddings' weights nor random vectors as long in more than a tenth as many.
    """
    share = {name: effect["reversed"] for name, effect in exchange.items()}
    most, others = share["reversed_list"], max(share["embeddings"], share["random_directions"])
    return share["positions"] >= most * 2 / 3 and others <= most / 10


def random_units(n_lists: int, d_model: int, seed: int) -> np.ndarray:
    """Three random directions for each list, [3, B, D]: for positions, for embeddings, and for doses."""
    drawn = np.random.default_rng([seed, 1]).normal(size=(3, n_lists, d_model))
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


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
    return plain(
        {
            "n_lists": found.n_lists,
            "g": found.g,
            "c": found.c,
            "fit_error": found.fit_error,
            "same_digit_larger": found.same_digit_larger,
            "intact": vars(found.intact),
            "exchange": {name: vars(effect) for name, effect in found.exchange.items()},
            "steering": [
                {"dose": t, "along": vars(along), "random": vars(random)}
                for t, (along, random) in found.steering.items()
            ],
            "scaling": [
                {"factor": s, "along": vars(along), "random": vars(random)}
                for s, (along, random) in found.scaling.items()
            ],
            "accuracy_by_alpha_gap": [
                {"from": low, "to": high, "lists": count, "lists_right": right}
                for (low, high), count, right in zip(
                    itertools.pairwise(found.gaps), found.gap_lists, found.gap_accuracy, strict=True
                )
            ],
        }
    )


def _by_gap(observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Lists in each bin of |alpha_1 - alpha_2|, and the fraction entirely right; NaN in an empty bin."""
    n_digits = observation.model.config.n_digits
    if n_digits**2 <= MOST_LISTS:
        every = np.indices((n_digits, n_digits), np.int32).reshape(2, -1).T
        observation = observe(observation.model, every)
    alpha = observation.sep_reads[0, :, 0].astype(np.float64)
    place = np.clip(
        np.searchsorted(GAPS, np.abs(alpha[:, 0] - alpha[:, 1]), side="right") - 1, 0, len(GAPS) - 2
    )
    counts = np.bincount(place, minlength=len(GAPS) - 1)
    right = np.bincount(place, observation.list_correct, minlength=len(GAPS) - 1)
    return counts, np.where(counts > 0, right / np.maximum(counts, 1), np.nan)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
