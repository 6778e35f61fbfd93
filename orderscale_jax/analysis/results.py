"""`results.json`: every number of a study under the published keys.

What applies to any model is there for any model; for lists longer than two the keys that name `o2` name
the last output. Keys that do not apply are left out, and `not_applicable` says why.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from orderscale_jax import analysis
from orderscale_jax.analysis.ablation import EdgeAblation
from orderscale_jax.analysis.study import Study, study
from orderscale_jax.model import ListTransformer, ModelConfig
from orderscale_jax.task import Split

CELLS = 4  # the (d_i, d_j) plane is cut into 4 x 4 cells to look for structure
FEWEST_EXPECTED = 5  # wrong lists per cell, below which the chi-squared test means nothing


def results(
    model: ListTransformer,
    lists: np.ndarray,
    *,
    name: str = "",
    n_train: int | None = None,
    n_val_total: int | None = None,
) -> dict[str, Any]:
    """Runs every analysis that applies to `model` over `lists` [B, n]; see `tabulate`."""
    return tabulate(study(model, lists), name=name, n_train=n_train, n_val_total=n_val_total)


def tabulate(
    found: Study, *, name: str = "", n_train: int | None = None, n_val_total: int | None = None
) -> dict[str, Any]:
    """A study as plain numbers, lists and dictionaries that JSON can hold.

    Args:
      found: the study.
      name: of the model.
      n_train: training lists; None where they are drawn on the fly.
      n_val_total: validation lists there are; as many as were used if not given.

    Returns:
      `config`, `val`, `ablation`, `mean_pattern`, … with the keys and meanings of the published
      results; numbers that do not exist (a mean over no lists) are None.
    """
    seen = found.observation
    config = seen.model.config
    out = {
        "name": name,
        "config": describe_config(config),
        "list_len": config.list_len,
        "n_digits": config.n_digits,
        "n_train": n_train,
        "n_val_total": len(seen.lists) if n_val_total is None else n_val_total,
        "n_val_used": len(seen.lists),
        "variant": {"mlp": config.mlp, "frozen_heads": config.frozen_heads},
        "parameters": {"trainable": found.parameters.trainable, "total": found.parameters.total},
        "val": _answers(seen),
        "ablation": {mode: _ablation(ablation) for mode, ablation in found.ablations.items()},
        "mean_pattern": found.attention.mean_pattern,
        "mean_pattern_accuracy": found.attention.mean_pattern_accuracy,
        "logit_lens_first_val": {
            "tokens": found.lens.tokens[0],
            "embedding": found.lens.embedding[0],
            "predicted": found.lens.predicted[0],
        },
        "wrong_lists": _wrong_lists(found),
        "position_span": {
            "accuracy": found.reconstruction.accuracy,
            "per_position_accuracy": found.reconstruction.per_position_accuracy,
        },
    }
    if found.notebook:
        out["joint_ablation_notebook"] = {m: _joint(x, with_edges=True) for m, x in found.notebook.items()}
        out["moderation_edge_ablation"] = {m: _joint(x) for m, x in found.moderation.items()}
    if found.closed_form:
        out |= _equations(found)
    if found.exchange:
        out["alpha_swap_full_model"] = {
            "o1_is_d2": found.exchange.first_is_second_digit,
            "o2_is_d1": found.exchange.second_is_first_digit,
            "both_reversed": found.exchange.both_reversed,
        }
    if found.separability:
        out["separability"] = _separability(found.separability)
    if found.sep:
        out["sep_attention"] = _sep_attention(found)
    out["not_applicable"] = found.not_applicable
    return _plain(out)


def describe_config(config: ModelConfig) -> dict[str, Any]:
    """A model's shape and variant under the published keys."""
    return {
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "d_vocab": config.d_vocab,
        "n_ctx": config.n_positions,
        "list_len": config.list_len,
        "attn_only": not config.mlp,
        "use_ln": config.layer_norm,
        "use_bias": config.bias,
        "use_wv": config.learn_wv,
        "use_wo": config.learn_wo,
    }


def split_sizes(split: Split) -> dict[str, int | None]:
    """`n_train` and `n_val_total` of a split."""
    return {
        "n_train": None if split.train is None else len(split.train),
        "n_val_total": len(split.validation),
    }


def _answers(outcome: analysis.Outcome) -> dict[str, Any]:
    return {
        "accuracy": outcome.accuracy,
        "loss": outcome.loss,
        "per_position_accuracy": outcome.per_position_accuracy,
        "sequences_all_correct": outcome.list_correct.sum(),
        "sequence_accuracy": outcome.sequence_accuracy,
    }


def _ablation(ablation: EdgeAblation) -> dict[str, Any]:
    columns = (ablation.edges, ablation.accuracies, ablation.deltas, ablation.live)
    return {
        "edges": [
            {**edge._asdict(), "accuracy": accuracy, "delta": delta, "live": live}
            for edge, accuracy, delta, live in zip(*columns, strict=True)
        ],
        "critical_tolerance": ablation.tolerance,
        "critical": ablation.critical,
        "accuracy_without_non_critical": ablation.accuracy_without_non_critical,
    }


def _joint(joint: analysis.JointAblation, *, with_edges: bool = False) -> dict[str, Any]:
    """Accuracy, loss and what the last output says where it is wrong."""
    n, last = len(joint.errors), joint.errors[-1]
    out = {"edges": joint.edges} if with_edges else {}
    out |= {"accuracy": joint.outcome.accuracy, "loss": joint.outcome.loss}
    out |= {f"o{errors.output + 1}_wrong": errors.n_wrong for errors in joint.errors}
    for k in range(n - 1):
        out |= {
            f"o{n}_equals_o{k + 1}_pred_given_o{n}_wrong": last.equals_prediction[k],
            f"o{n}_equals_d{k + 1}_given_o{n}_wrong": last.equals_digit[k],
            f"o{k + 1}_correct_given_o{n}_wrong": last.others_correct[k],
        }
    return out


def _equations(found: Study) -> dict[str, Any]:
    difference, exchange = found.difference, found.exchange_closed_form
    return {
        "circuit": {
            "max_abs_diff_o1": found.closed_form.max_abs_diff[0],
            "max_abs_diff_o2": found.closed_form.max_abs_diff[1],
            "reconstructed_accuracy": found.closed_form.accuracy,
        },
        "logit_difference": {
            "n_examples": difference.n_lists,
            "base_l_o1": difference.base,
            "terms": difference.terms,
            "final": difference.final,
            "o2_accuracy_alpha_unchanged": difference.o2_accuracy,
            "o2_accuracy_alpha1_0_alpha2_1": difference.o2_accuracy_with_alpha[0, 1],
            "o2_accuracy_alpha1_1_alpha2_0": difference.o2_accuracy_with_alpha[1, 0],
        },
        "alpha_swap": {
            "note": "alpha_1 and alpha_2 exchanged in the two equations, beta of layer 1 left as it was",
            "o1_predicts_d2": exchange.first_is_second_digit,
            "o1_predicts_d1": exchange.first_is_first_digit,
        },
    }


def _separability(separability: analysis.Separability) -> dict[str, Any]:
    """Accuracy and margin of the pair of outputs that is hardest to separate."""
    pairs = separability.pairs
    hardest = min(pairs, key=lambda pair: (pair.accuracy, 0 if math.isnan(pair.margin) else pair.margin))
    return {
        "accuracy": hardest.accuracy,
        "separable": all(pair.separable for pair in pairs),
        "margin": hardest.margin,
    }


def _sep_attention(found: Study) -> dict[str, Any]:
    """Means over heads and pairs of digits; with one head and n = 2 there is one of each."""
    sep, statistics = found.sep, found.attention
    n = found.observation.graph.list_len
    out = {
        "score_gap_mean_correct": sep.gap_correct.mean(),
        "score_gap_mean_incorrect": sep.gap_incorrect.mean(),
    }
    sources = ["sep", *(f"o{i}" for i in range(1, n))]
    weights = {f"alpha_d{i + 1}": statistics.alpha[:, :, i] for i in range(n)}
    weights |= {f"beta_o{n}_{source}": statistics.beta[:, :, i] for i, source in enumerate(sources)}
    for name, values in weights.items():
        out |= {f"{name}_mean": values.mean(dtype=np.float64), f"{name}_std": values.std(dtype=np.float64)}
    return out


def _wrong_lists(found: Study) -> dict[str, Any]:
    """How many lists are wrong, at which outputs, and whether their digits stand out."""
    seen = found.observation
    return {
        "lists": len(found.errors.lists),
        "by_output": (~seen.correct).sum(0),
        "structure_p_value": structure_p_value(
            seen.lists, ~seen.list_correct, found.observation.model.config
        ),
    }


def structure_p_value(lists: np.ndarray, wrong: np.ndarray, config: ModelConfig) -> float:
    """Probability of wrong lists lying as unevenly in the plane of two digits if they lay by chance.

    A chi-squared test on 4 x 4 cells of each pair of digits; the smallest of them, times the number
    of pairs. NaN if there are no pairs, or too few wrong (or right) lists to tell.
    """
    n = lists.shape[1]
    cell = lists * CELLS // config.n_digits
    values = []
    for i in range(n):
        for j in range(i + 1, n):
            place = cell[:, i] * CELLS + cell[:, j]
            counts = np.stack([np.bincount(place[of], minlength=CELLS**2) for of in (wrong, ~wrong)])
            counts = counts[:, counts.sum(0) > 0]
            expected = counts.sum(1, keepdims=True) * counts.sum(0) / len(lists)
            if expected.min(initial=math.inf) < FEWEST_EXPECTED or counts.shape[1] < 2:
                return math.nan
            chi_squared = ((counts - expected) ** 2 / expected).sum()
            values.append(special.chdtrc(counts.shape[1] - 1, chi_squared))
    return min(1.0, len(values) * min(values)) if values else math.nan


def _plain(value: Any) -> Any:
    """Arrays and NumPy numbers as JSON can hold them; what is not a finite number becomes None."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
