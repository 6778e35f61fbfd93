"""Did the SAE find the dictionary that SEP is made of? It is known: digits' embeddings, and P_1 - P_2.

After layer 0 SEP is S + alpha_1 (E_d1 + P_1) + alpha_2 (E_d2 + P_2), and the two alphas sum to 1. So about
its mean it moves along the embeddings E_d of the digits and along P_1 - P_2 alone.

Dimensions: B lists, D model, F latents, N digits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import columns, number
from orderscale_jax.printing import Printable
from orderscale_jax.sae.fidelity import Encoded
from orderscale_jax.sae.views import SepView

SELECTIVE = 0.5  # share of all lists from which a latent is on in too many to be a digit's detector
DETECTS = 0.5  # F1 above which a latent counts as a detector of its digit
PEELED = 0.5  # share of the lists with a digit in which a latent must be on for it to count as its detector


@dataclasses.dataclass(frozen=True, repr=False)
class Match(Printable):
    """How near the latents of an SAE are to the known dictionary.

    A mean of matched cosines is the mean correlation coefficient (MCC) of its known vectors with the latents
    that a one-to-one matching gives them; a vector without a latent counts as 0.

    Attributes:
      mcc: of the N vectors E_d less their mean, and of P_1 - P_2 (whose sign is free), about which SEP moves.
      cosines [N]: of each E_d less their mean, matched alone; mcc_digits is their mean.
      mcc_positions: MCC of the 2N vectors E_d + P_i, less their mean.
      order_cosine: cosine of P_1 - P_2 and the latent nearest to it, with its sign. order_latent: that one.
      f1 [N]: of each digit's detector, a one-to-one matching of digits and latents: how well being on tells
        whether the digit is in the list. mean_f1: their mean.
      detectors [N]: these latents, -1 where there is none.
      order_in_digits: median |cosine| with P_1 - P_2 of the detectors whose F1 is above 0.5: how much the
        digits' latents hold of the order; NaN where there are none.
      unique: share of the digits for which exactly one latent is on in at least half of the lists with it.
      symbols [F]: of how many digits each latent is the detector, by peeling; 0 of one that is on in no list.
      leftover [F]: share of the lists in which it is on that its digits do not explain.
    """

    mcc: float
    cosines: np.ndarray
    mcc_positions: float
    order_cosine: float
    order_latent: int
    f1: np.ndarray
    detectors: np.ndarray
    order_in_digits: float
    unique: float
    symbols: np.ndarray
    leftover: np.ndarray

    @property
    def mcc_digits(self) -> float:
        return float(self.cosines.mean())

    @property
    def mean_f1(self) -> float:
        return float(self.f1.mean())

    def table(self) -> str:
        """The numbers, and how many latents stand for how many digits."""
        rows = [
            ("MCC with E_d and P_1 - P_2", number(self.mcc, 4)),
            ("MCC with E_d", number(self.mcc_digits, 4)),
            ("MCC with E_d + P_i", number(self.mcc_positions, 4)),
            (f"cosine of P_1 - P_2 and latent {self.order_latent}", number(self.order_cosine, 4)),
            ("F1 of the digits' detectors, mean", number(self.mean_f1, 4)),
            ("|cosine| of these detectors with P_1 - P_2, median", number(self.order_in_digits, 4)),
            ("digits with exactly one detector", number(self.unique, 4)),
        ]
        counts = {n: int((self.symbols == n).sum()) for n in sorted(set(self.symbols.tolist()))}
        rows += [(f"latents that detect {n} digits", str(amount)) for n, amount in counts.items()]
        return columns(rows)


def match_dictionary(encoded: Encoded) -> Match:
    """How near an SAE is to the dictionary that is known."""
    check_kind("encoded", encoded, Encoded)
    view, is_live = encoded.view, (encoded.latents > 0).any(0)
    decoder = np.where(is_live[:, None], encoded.decoder, 0)
    digits, order = known_vectors(view)
    both = np.concatenate([digits, order[None]])
    cosines = cosine(both, decoder)
    cosines[-1] = np.abs(cosines[-1])
    placed = (view.embeddings[:, None] + view.positions).reshape(-1, view.sep.shape[1])
    to_order = cosine(order[None], decoder)[0]
    nearest = int(np.abs(to_order).argmax())
    overlap, f1 = detection(view, encoded.latents)
    detectors, matched = _matched(f1)
    detectors = np.where(matched > 0, detectors, -1)  # a dead latent detects nothing
    symbols, leftover = peel(view, encoded.latents)
    mixed = np.abs(to_order[detectors[matched > DETECTS]])
    return Match(
        mcc=float(_matched(cosines)[1].mean()),
        cosines=_matched(cosine(digits, decoder))[1],
        mcc_positions=float(_matched(cosine(placed - placed.mean(0), decoder))[1].mean()),
        order_cosine=float(to_order[nearest]),
        order_latent=nearest,
        f1=matched,
        detectors=detectors,
        order_in_digits=float(np.median(mixed)) if len(mixed) else float("nan"),
        unique=float((((overlap >= PEELED) & (encoded.firing < SELECTIVE)).sum(1) == 1).mean()),
        symbols=symbols,
        leftover=leftover,
    )


def known_vectors(view: SepView) -> tuple[np.ndarray, np.ndarray]:
    """E_d less their mean [N, D], and P_1 - P_2 [D]."""
    return view.embeddings - view.embeddings.mean(0), view.positions[0] - view.positions[1]


def cosine(a, b) -> np.ndarray:
    """Cosines [A, B] of the rows of two matrices; 0 for a row of zeros."""
    lengths = [np.linalg.norm(x, axis=1) for x in (a, b)]
    products = a @ b.T
    scale = np.outer(*lengths)
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def _matched(scores) -> tuple[np.ndarray, np.ndarray]:
    """The column of each row [A] in the one-to-one matching with the largest sum, and the score there; -1 and
    0 for rows that are left over."""
    rows, chosen = linear_sum_assignment(scores, maximize=True)
    columns_, found = np.full(len(scores), -1), np.zeros(len(scores))
    columns_[rows], found[rows] = chosen, scores[rows, chosen]
    return columns_, found


def detection(view: SepView, latents) -> tuple[np.ndarray, np.ndarray]:
    """(share of the lists with a digit in which a latent is on, F1 of being on as its detector), [N, F]."""
    on = (np.asarray(latents) > 0).astype(float)
    has = _contains(view).astype(float)
    both, n_has, n_on = has.T @ on, has.sum(0)[:, None], on.sum(0)
    with np.errstate(invalid="ignore"):
        f1 = np.where(n_has + n_on > 0, 2 * both / (n_has + n_on), 0.0)
        return np.where(n_has > 0, both / n_has, 0.0), f1


def peel(view: SepView, latents) -> tuple[np.ndarray, np.ndarray]:
    """Of how many digits each latent is a detector, and what that leaves unexplained ("greedy symbol
    peeling"): (symbols [F], leftover [F]).

    The digit of whose lists it is on in the largest share is taken first; then, of the lists without it, the
    next, as long as that share is at least a half. A detector of k digits is on in
    k (2N - 1) - k (k - 1) of all N^2 lists.

    Raises:
      UserError: the latents are not those of the view's lists.
    """
    check_kind("view", view, SepView)
    on, has = real_numbers("latents", latents) > 0, _contains(view)
    if on.ndim != 2 or len(on) != len(has):
        raise UserError(f"latents must have shape [{len(has)}, F], got {list(on.shape)}")
    symbols, leftover = np.zeros(on.shape[1], int), np.zeros(on.shape[1])
    for i in np.flatnonzero(on.any(0)):
        is_left = np.ones(len(on), bool)
        for _ in range(has.shape[1]):
            n_has = has[is_left].sum(0)
            share = np.divide(
                has[is_left & on[:, i]].sum(0), n_has, out=np.zeros(len(n_has)), where=n_has > 0
            )
            best = int(share.argmax())
            if share[best] < PEELED:
                break
            symbols[i] += 1
            is_left &= ~has[:, best]
        leftover[i] = (is_left & on[:, i]).sum() / on[:, i].sum()
    return symbols, leftover


def expected_coverage(k: int, n_digits: int) -> int:
    """In how many of all N^2 lists a detector of k digits is on."""
    return k * (2 * n_digits - 1) - k * (k - 1)


def seed_agreement(decoders: Sequence[np.ndarray]) -> float:
    """How alike the latents of SAEs are (PW-MCC): the mean, over pairs of SAEs, of the |cosines| of decoder
    rows that a one-to-one matching pairs; rows without a partner count as 0.

    Args:
      decoders: [F, D] each, of live latents (`Encoded.live_decoder`); F may differ.

    Raises:
      UserError: there are fewer than two, or they are of different widths D.
    """
    decoders = [real_numbers("decoders", decoder) for decoder in decoders]
    widths = {decoder.shape[1:] for decoder in decoders}
    if len(decoders) < 2 or len(widths) > 1 or decoders[0].ndim != 2:
        raise UserError("agreement is between the decoders [F, D] of two SAEs or more, of the same D")
    found = []
    for a, b in itertools.combinations(decoders, 2):
        _, matched = _matched(np.abs(cosine(a, b)))
        found.append(matched.sum() / max(len(a), len(b), 1))
    return float(np.mean(found))


def _contains(view: SepView) -> np.ndarray:
    """bool [B, N], whether a digit is in a list."""
    found = np.zeros((len(view.lists), len(view.embeddings)), bool)
    for column in view.lists.T:
        found[np.arange(len(found)), column] = True
    return found
