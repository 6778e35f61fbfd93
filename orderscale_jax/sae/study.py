"""All questions about one SAE at once, and the answers as JSON and as a row of a table."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from orderscale_jax.errors import check_kind
from orderscale_jax.files import plain
from orderscale_jax.printing import Printable
from orderscale_jax.sae.autoencoder import SparseAutoencoder
from orderscale_jax.sae.config import SAEConfig
from orderscale_jax.sae.dictionary import Match, cosine, expected_coverage, known_vectors, match_dictionary
from orderscale_jax.sae.fidelity import CORRELATIONS, Answers, Encoded, Fidelity, encode_lists, fidelity
from orderscale_jax.sae.grading import Grading, grade
from orderscale_jax.sae.steering import WORDS, SteeringStudy, study_steering
from orderscale_jax.sae.views import SepView


@dataclasses.dataclass(frozen=True, repr=False)
class SAEStudy(Printable):
    """What is found of one SAE.

    Attributes:
      encoded: the SAE, the model and all lists.
      fidelity: how well it stands in for SEP.
      match: how near its latents are to the dictionary that is known.
      special: the latents whose |correlation| with alpha_1 - alpha_2 is above 0.5; where there is none, the
        one with the largest, which then is not special, but is treated as if it were.
      is_special: whether there is one.
      grading: what few values of the special latents, or of all, cost.
      steering: what scaling the special latents does.
    """

    encoded: Encoded
    fidelity: Fidelity
    match: Match
    special: tuple[int, ...]
    is_special: bool
    grading: Grading
    steering: SteeringStudy

    def table(self) -> str:
        """All tables, one below the other."""
        correlations = self.encoded.correlations
        found = ", ".join(
            f"{i} (r {correlations[i]:.3f}, on in {self.encoded.firing[i]:.1%})" for i in self.special
        )
        said = "special latents" if self.is_special else "no special latent; the nearest to one"
        parts = (self.fidelity, self.match, self.grading, self.steering)
        return "\n\n".join([f"{said}: {found}", *(part.table() for part in parts)])


def study_sae(sae: SparseAutoencoder, view: SepView, *, seed: int = 0) -> SAEStudy:
    """Asks everything of one SAE; `seed` is that of the controls.

    Raises:
      UserError: the SAE does not fit the model.
    """
    check_kind("sae", sae, SparseAutoencoder)
    encoded = encode_lists(sae, view)
    found = encoded.special()
    is_special = bool(len(found))
    special = tuple(int(i) for i in (found if is_special else [np.abs(encoded.correlations).argmax()]))
    return SAEStudy(
        encoded=encoded,
        fidelity=fidelity(encoded),
        match=match_dictionary(encoded),
        special=special,
        is_special=is_special,
        grading=grade(encoded, special, seed=seed),
        steering=study_steering(encoded, special, seed=seed),
    )


def tabulate(study: SAEStudy) -> dict[str, Any]:
    """Everything as JSON can hold it.

    The first keys are those in which the published SAE is described: shares are (output tokens, lists) of all
    lists, and `reversed` is a share of all lists, equal digits included.
    """
    check_kind("study", study, SAEStudy)
    encoded, grading, steering = study.encoded, study.grading, study.steering.steering
    correlations, firing = encoded.correlations, encoded.firing
    faithful, match = study.fidelity, study.match
    first, binary, alone = study.special[0], grading.every[1], grading.special[1]
    if len(study.special) > 1:
        alone = grade(encoded, [first], bins=(1,), n_draws=1).special[1]
    n_digits = len(encoded.view.embeddings)
    on = (encoded.latents > 0).sum(0)
    return plain(
        {
            "mse": faithful.mse["all"],
            "explained_variance": faithful.explained_variance["all"],
            "l0": faithful.l0["all"],
            "dead": faithful.dead,
            "baseline": {group: _two(answers) for group, answers in faithful.intact.items()},
            "patched": {group: _two(answers) for group, answers in faithful.patched.items()},
            "special": [[i, correlations[i], firing[i]] for i in study.special] if study.is_special else [],
            "binarised": {
                "all": _two(binary),
                "unordered_pair_right": binary.pair_right,
                "reversed": binary.pair_right - binary.lists_right,
            },
            "graded_unordered_pair_right": grading.graded.pair_right,
            "only_special_binarised": {"latent": first, "all": _two(alone)},
            "swapped_by_scaling": {
                "latent": first,
                "scales": "0 to 10 by 0.05",
                "lists": int(steering.regions.on_grid.sum()),
            },
            "cos_decoder_P1_minus_P2": _cosine_of(study, first),
            "config": dataclasses.asdict(encoded.config),
            "special_by_threshold": {
                name: [int(i) for i in encoded.special(least)] for name, least in CORRELATIONS.items()
            },
            "by_group": {
                name: getattr(faithful, name)
                for name in ("mse", "explained_variance", "l0", "loss_recovered", "loss_recovered_of_mean")
            },
            "answers": {
                "intact": _by_name(faithful.intact),
                "patched": _by_name(faithful.patched),
            },
            "dictionary": {
                "mcc": match.mcc,
                "mcc_digits": match.mcc_digits,
                "mcc_positions": match.mcc_positions,
                "order_cosine": match.order_cosine,
                "order_latent": match.order_latent,
                "order_in_digits": match.order_in_digits,
                "mean_f1": match.mean_f1,
                "f1": match.f1,
                "detectors": match.detectors,
                "unique": match.unique,
            },
            "latents": {
                "correlation": correlations,
                "firing": firing,
                "symbols": match.symbols,
                "leftover": match.leftover,
                "expected_coverage": [expected_coverage(int(k), n_digits) for k in match.symbols],
                "coverage": on,
            },
            "grading": {
                "latents": list(grading.latents),
                "graded": dataclasses.asdict(grading.graded),
                **{
                    name: _by_name(getattr(grading, name))
                    for name in ("special", "digits", "direction", "every")
                },
                "digit_latents": grading.digit_latents,
                "extremes": {
                    name: {str(n): size for n, size in by_bins.items()}
                    for name, by_bins in grading.extremes.items()
                },
            },
            "steering": {
                **{name: getattr(study.steering, name) for name in WORDS},
                "exactly_reversed": steering.n_reversed,
                "lists_of_two_digits": steering.differs,
                "where_active": steering.success_where_active,
                "reasons": steering.reasons,
            },
        }
    )


def row(study: SAEStudy) -> dict[str, Any]:
    """The numbers of a sweep's table: one SAE, one line."""
    faithful, match, grading, steering = study.fidelity, study.match, study.grading, study.steering
    columns: dict[str, Any] = {}
    for group in faithful.mse:
        for name in ("mse", "explained_variance", "l0", "loss_recovered"):
            columns[f"{name}_{group}"] = getattr(faithful, name)[group]
        columns[f"patched_outputs_{group}"] = faithful.patched[group].outputs_right
        columns[f"patched_lists_{group}"] = faithful.patched[group].lists_right
        columns[f"intact_outputs_{group}"] = faithful.intact[group].outputs_right
        columns[f"intact_lists_{group}"] = faithful.intact[group].lists_right
    columns |= {
        "dead": faithful.dead,
        "special_code": len(study.encoded.special(CORRELATIONS["code"])),
        "special_text": len(study.encoded.special(CORRELATIONS["text"])),
        "special_latent": study.special[0],
        "special_correlation": study.encoded.correlations[study.special[0]],
        "special_firing": study.encoded.firing[study.special[0]],
        "special_cosine": _cosine_of(study, study.special[0]),
        "mcc": match.mcc,
        "mcc_digits": match.mcc_digits,
        "mcc_positions": match.mcc_positions,
        "order_cosine": match.order_cosine,
        "order_in_digits": match.order_in_digits,
        "mean_f1": match.mean_f1,
        "unique": match.unique,
        "one_digit_latents": int((match.symbols == 1).sum()),
    }
    for name, answers in {
        "graded": grading.graded,
        "special_on_off": grading.special[1],
        "digits_on_off": grading.digits[1],
        "direction_on_off": grading.direction[1],
        "all_on_off": grading.every[1],
        "all_in_5": grading.every[5],
    }.items():
        columns |= {
            f"{name}_lists": answers.lists_right,
            f"{name}_reversed": answers.reversed,
            f"{name}_pair": answers.pair_right,
        }
    columns |= {f"steer_{name}": getattr(steering, name) for name in WORDS}
    columns |= {"swapped_on_grid": int(steering.steering.regions.on_grid.sum())}
    return plain(columns)


def options(config: SAEConfig) -> dict[str, Any]:
    """The columns that say which SAE a row is of."""
    return {
        "family": config.family,
        "width": config.width,
        "k": None if config.family == "l1" else config.k,
        "penalty": config.weight_of_penalty or None,
        "learning_rate": config.learning_rate,
        "steps": config.steps,
    }


def _two(answers: Answers) -> list[float]:
    return [answers.outputs_right, answers.lists_right]


def _by_name(found: dict[Any, Answers]) -> dict[str, dict[str, float]]:
    return {str(name): dataclasses.asdict(answers) for name, answers in found.items()}


def _cosine_of(study: SAEStudy, latent: int) -> float:
    """Cosine of a latent's direction and P_1 - P_2."""
    _, order = known_vectors(study.encoded.view)
    return float(cosine(study.encoded.decoder[[latent]], order[None])[0, 0])
