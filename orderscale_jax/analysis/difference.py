"""Why does o2 say something else than o1? The difference of their logits, term by term.

    l_o2 - l_o1 = (P_o2 - beta_s P_o1 - beta_o1 (alpha_1 D1 + alpha_2 D2 + S - Em)) U

(paper, section 4 and Figure 2; symbols as in `circuit.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from orderscale_jax.analysis.circuit import Circuit, circuits
from orderscale_jax.analysis.observation import Observation
from orderscale_jax.errors import check_kind
from orderscale_jax.formatting import columns, number, percent
from orderscale_jax.printing import Printable

ALPHAS = ((0.0, 1.0), (1.0, 0.0))  # (alpha_1, alpha_2) put into the difference


class Term(NamedTuple):
    """A term of the difference: as text, as LaTeX, and its value before the unembedding, [B, D] or [D]."""

    text: str
    latex: str
    of: Callable[[Circuit], np.ndarray]


TERMS = {  # in the order of the equation
    "P_o2": Term("P_o2", r"P_{o2}", lambda c: c.P_o2),
    "neg_beta_sep_P_o1": Term("−βₛ P_o1", r"-\beta_s P_{o1}", lambda c: -c.beta_s * c.P_o1),
    "neg_beta_o1_alpha1_D1": Term(
        "−βₒ₁ α₁ D1", r"-\beta_{o1}\alpha_1 D_1", lambda c: -c.beta_o1 * c.alpha_1 * c.D1
    ),
    "neg_beta_o1_alpha2_D2": Term(
        "−βₒ₁ α₂ D2", r"-\beta_{o1}\alpha_2 D_2", lambda c: -c.beta_o1 * c.alpha_2 * c.D2
    ),
    "neg_beta_o1_S": Term("−βₒ₁ S", r"-\beta_{o1} S", lambda c: -c.beta_o1 * c.S),
    "beta_o1_E_mask": Term("βₒ₁ E_MASK", r"\beta_{o1} E_{\mathrm{MASK}}", lambda c: c.beta_o1 * c.Em),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Difference(Printable):
    """Means over the lists with d1 != d2 of (logit of d2 - logit of d1), and the intervention on alpha.

    Attributes:
      n_lists: lists with d1 != d2.
      base: of l_o1.
      terms: of each term of the difference, with the keys and in the order of `TERMS`.
      o2_accuracy: over all lists, of l_o1 plus the difference as it is.
      o2_accuracy_with_alpha: the same with alpha replaced inside the difference only (l_o1 keeps
        its own); keys (alpha_1, alpha_2) = (0, 1) and (1, 0).
    """

    n_lists: int
    base: float
    terms: dict[str, float]
    o2_accuracy: float
    o2_accuracy_with_alpha: dict[tuple[float, float], float]

    @property
    def final(self) -> float:
        """Base plus all terms: of l_o2."""
        return self.base + sum(self.terms.values())

    def table(self) -> str:
        """The bars of Figure 2 as numbers, then how often o2 is right with each alpha."""
        rows = [("logit of d2 − logit of d1", ""), ("in l_o1", number(self.base))]
        rows += [(TERMS[name].text, number(value)) for name, value in self.terms.items()]
        rows += [("in l_o2", number(self.final)), ("o2 right", percent(self.o2_accuracy))]
        for (alpha_1, alpha_2), accuracy in self.o2_accuracy_with_alpha.items():
            rows.append((f"o2 right, α₁ = {alpha_1:g}, α₂ = {alpha_2:g}", percent(accuracy)))
        return columns(rows)


def decompose_difference(observation: Observation) -> Difference:
    """The bars of the paper's Figure 2, and o2 with another alpha inside the difference.

    Raises:
      UserError: the model is not of the kind that the equations describe (see `circuit.misfits`).
    """
    check_kind("observation", observation, Observation)
    gaps, hits = [], []
    for circuit in circuits(observation):
        base, terms = circuit.o1_logits(), difference_terms(circuit)
        d1, d2 = circuit.lists.T
        rows, differ = np.arange(len(d1)), d1 != d2
        parts = {"base": base} | {
            name: np.broadcast_to(x @ circuit.U, base.shape) for name, x in terms.items()
        }
        gaps.append({name: (x[rows, d2] - x[rows, d1])[differ] for name, x in parts.items()})
        hits.append([_o2_hits(base, circuit)] + [_o2_hits(base, with_alpha(circuit, *a)) for a in ALPHAS])
    unchanged, *changed = (np.concatenate(x).mean() for x in zip(*hits, strict=True))
    gaps = {name: np.concatenate([chunk[name] for chunk in gaps]) for name in gaps[0]}
    means = {name: float(x.mean()) if len(x) else float("nan") for name, x in gaps.items()}
    return Difference(
        n_lists=len(gaps["base"]),
        base=means.pop("base"),
        terms=means,
        o2_accuracy=float(unchanged),
        o2_accuracy_with_alpha={a: float(x) for a, x in zip(ALPHAS, changed, strict=True)},
    )


def difference_terms(circuit: Circuit) -> dict[str, np.ndarray]:
    """The terms of l_o2 - l_o1 before the unembedding, each [B, D] or [D]."""
    return {name: term.of(circuit) for name, term in TERMS.items()}


def with_alpha(circuit: Circuit, alpha_1, alpha_2) -> Circuit:
    """The circuit with other alphas, numbers or [B, 1]; the betas stay."""
    return dataclasses.replace(circuit, alpha_1=alpha_1, alpha_2=alpha_2)


def _o2_hits(base: np.ndarray, circuit: Circuit) -> np.ndarray:
    """Whether l_o1 + difference is largest at d2, bool [B]."""
    logits = base + sum(difference_terms(circuit).values()) @ circuit.U
    return logits.argmax(-1) == circuit.lists[:, 1]
