"""`results.json`: every number of a study under the published keys.

What applies to any model is there for any model; for lists longer than two the keys that name `o2` name
the last output. Keys that do not apply are left out, and `not_applicable` says why.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orderscale_jax.analysis.ablation import EdgeAblation
from orderscale_jax.analysis.errors import structure_p_value
from orderscale_jax.analysis.joint import JointAblation
from orderscale_jax.analysis.order import tabulate_order
from orderscale_jax.analysis.separability import Separability
from orderscale_jax.analysis.study import Study
from orderscale_jax.circuits import find_circuits, tabulate_circuits
from orderscale_jax.errors import check_kind
from orderscale_jax.files import plain
from orderscale_jax.model import ModelConfig


def tabulate(
    found: Study,
    *,
    name: str = "",
    n_train: int | None = None,
    n_val_total: int | None = None,
    validation_lists_seen: bool | None = None,
) -> dict[str, Any]:
    """A study as plain numbers, lists and dictionaries that JSON can hold.

    Args:
      found: the study.
      name: of the model.
      n_train: training lists; None where they are drawn on the fly.
      n_val_total: validation lists there are; as many as were used if not given.
      validation_lists_seen: whether training may have drawn them (`config.validation_lists_seen`).

    Returns:
      `config`, `val`, `ablation`, `mean_pattern`, … with the keys and meanings of the published
      results; numbers that do not exist (a mean over no lists) are None.
    """
    check_kind("found", found, Study)
    seen, lens = found.observation, found.lens
    config = seen.model.config
    out = {
        "name": name,
        "config": _config(config),
        "list_len": config.list_len,
        "n_digits": config.n_digits,
        "n_train": n_train,
        "n_val_total": len(seen.lists) if n_val_total is None else n_val_total,
        "n_val_used": len(seen.lists),
        "validation_lists_seen": validation_lists_seen,
        "variant": {"mlp": config.mlp, "frozen_heads": config.frozen_heads},
        "parameters": {
            "trainable": found.parameters.trainable,
            "total": found.parameters.total,
            "arrays": [vars(array) | {"size": array.size} for array in found.parameters.parameters],
        },
        "val": {
            "accuracy": seen.accuracy,
            "loss": seen.loss,
            "per_position_accuracy": seen.per_position_accuracy,
            "sequences_all_correct": seen.list_correct.sum(),
            "sequence_accuracy": seen.sequence_accuracy,
        },
        "train": found.training and vars(found.training),
        "ablation": {mode: _ablation(ablation) for mode, ablation in found.ablations.items()},
        "mean_pattern": found.attention.mean_pattern,
        "mean_pattern_accuracy": found.attention.mean_pattern_accuracy,
        "logit_lens_first_val": {x: getattr(lens, x)[0] for x in ("tokens", "embedding", "predicted")},
        "wrong_lists": {
            "lists": len(found.errors.lists),
            "by_output": (~seen.correct).sum(0),
            "structure_p_value": structure_p_value(seen.lists, ~seen.list_correct, config.n_digits),
        },
        "position_span": {
            "accuracy": found.reconstruction.accuracy,
            "per_position_accuracy": found.reconstruction.per_position_accuracy,
        },
    }
    if found.circuits:
        tables = found.circuits.items()
        out["exact_circuit"] = {m: tabulate_circuits(x, find_circuits(x)) for m, x in tables}
    if found.notebook:
        out["joint_ablation_notebook"] = {
            m: {"edges": x.edges} | _joint(x) for m, x in found.notebook.items()
        }
        out["moderation_edge_ablation"] = {m: _joint(x) for m, x in found.moderation.items()}
    if found.closed_form:
        out |= _equations(found)
    if found.exchange:
        out["alpha_swap_full_model"] = {
            "n_lists": found.exchange.n_lists,
            "o1_is_d2": found.exchange.first_is_second_digit,
            "o2_is_d1": found.exchange.second_is_first_digit,
            "both_reversed": found.exchange.both_reversed,
        }
    if found.order:
        out["order"] = tabulate_order(found.order)
    if found.separability:
        out["separability"] = _separability(found.separability)
    if found.sep:
        out["sep_attention"] = _sep_attention(found)
    out["not_applicable"] = found.not_applicable
    return plain(out)


def _config(config: ModelConfig) -> dict[str, Any]:
    """A model's shape and variant under the published keys."""
    same = {name: getattr(config, name) for name in ("d_model", "n_layers", "n_heads", "d_vocab")}
    return same | {
        "n_ctx": config.n_positions,
        "list_len": config.list_len,
        "attn_only": not config.mlp,
        "use_ln": config.layer_norm,
        "use_bias": config.bias,
        "use_wv": config.learn_wv,
        "use_wo": config.learn_wo,
    }


def _ablation(ablation: EdgeAblation) -> dict[str, Any]:
    rows = zip(ablation.edges, ablation.accuracies, ablation.deltas, ablation.live, strict=True)
    return {
        "edges": [
            {**edge._asdict(), "accuracy": accuracy, "delta": delta, "live": live}
            for edge, accuracy, delta, live in rows
        ],
        "critical_tolerance": ablation.tolerance,
        "critical": ablation.critical,
        "accuracy_without_non_critical": ablation.accuracy_without_non_critical,
    }


def _joint(joint: JointAblation) -> dict[str, Any]:
    """Accuracy, loss and what the last output says where it is wrong."""
    n, last = len(joint.errors), joint.errors[-1]
    out = {"accuracy": joint.outcome.accuracy, "loss": joint.outcome.loss}
    out |= {f"o{errors.output + 1}_wrong": errors.n_wrong for errors in joint.errors}
    for k in range(n - 1):
        out |= {
            f"o{n}_equals_o{k + 1}_pred_given_o{n}_wrong": last.equals_prediction[k],
            f"o{n}_equals_d{k + 1}_given_o{n}_wrong": last.equals_digit[k],
            f"o{k + 1}_correct_given_o{n}_wrong": last.others_correct[k],
        }
    return out


def _equations(found: Study) -> dict[str, Any]:
    closed, difference, exchange = found.closed_form, found.difference, found.exchange_closed_form
    return {
        "circuit": {
            "max_abs_diff_o1": closed.max_abs_diff[0],
            "max_abs_diff_o2": closed.max_abs_diff[1],
            "reconstructed_accuracy": closed.accuracy,
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


def _separability(separability: Separability) -> dict[str, Any]:
    """Accuracy and margin of the pair of outputs that is hardest to separate."""
    pairs = separability.pairs
    hardest = min(pairs, key=lambda pair: (pair.accuracy, 0 if math.isnan(pair.margin) else pair.margin))
    separable = all(pair.separable for pair in pairs)
    return {"accuracy": hardest.accuracy, "separable": separable, "margin": hardest.margin}


def _sep_attention(found: Study) -> dict[str, Any]:
    """Means over heads and pairs of digits; with one head and n = 2 there is one of each."""
    sep, graph = found.sep, found.observation.graph
    out = {
        "score_gap_mean_correct": sep.gap_correct.mean(),
        "score_gap_mean_incorrect": sep.gap_incorrect.mean(),
    }
    for edge, values in found.attention.reads.items():
        query, key = graph.names[edge.query], graph.names[edge.key].lower()
        name = f"alpha_{key}" if query == "SEP" else f"beta_{query}_{key}"
        out |= {f"{name}_mean": values.mean(dtype=np.float64), f"{name}_std": values.std(dtype=np.float64)}
    return out
