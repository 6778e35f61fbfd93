"""What the paper claims, and whether it holds: a rule for each claim, applied to numbers.

The same rules judge the published checkpoints and our models. Claims are those of the paper's
sections 3 and 4, its Figure 1 and its appendix.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from orderscale_jax.analysis.order import is_in_positions, reversed_by
from orderscale_jax.formatting import NONE, count, edge_label, enumerate_words, number, percent, points
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model import MODES
from orderscale_jax.report.table import PAPER, PAPER_FIGURE_1, PAPER_MODE, Results, edge_changes

HOLDS, PARTLY, FAILS, UNKNOWN = "holds", "holds only partly", "does not hold", "not measured"
MODELS = {"two_layer": "two layers", "three_layer": "three layers"}
NOT_CLAIMED = "not claimed"  # by the paper, but measured here
LABEL_TOLERANCE = 0.05  # a model trained afresh does not lose the same to the point


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper beside what was measured.

    Attributes:
      model: `two_layer` or `three_layer`, which model it is about.
      statement: what is claimed.
      paper: the paper's own number; `–` where there is none, `not claimed` where the claim is ours.
      rule: how the verdicts follow from the numbers.
      ours: what our model gives; None if it was not given.
      verdict: on our model: `holds`, `holds only partly`, `does not hold` or `not measured`.
      published, published_verdict: the same of the published checkpoint.
    """

    model: str
    statement: str
    paper: str
    rule: str
    ours: str | None
    verdict: str
    published: str | None
    published_verdict: str


def judge_claims(ours: Mapping[str, Results], published: Mapping[str, Results] | None = None) -> list[Claim]:
    """Judges every claim about the models that are given.

    Args:
      ours: what `tabulate` says of our models, by `two_layer` and `three_layer`, either or both.
      published: the same of the published checkpoints.
    """
    published = published or {}
    return [
        Claim(model, *rule[:3], *_judge(rule, ours.get(model)), *_judge(rule, published.get(model)))
        for model in MODELS
        if model in ours or model in published
        for rule in _rules(model)
    ]


def claims_text(claims: list[Claim], width: int = 110) -> str:
    """The claims as a table for a terminal of `width` columns, verdicts last."""
    has_published = any(claim.published is not None for claim in claims)
    heads = ["claim", "paper", *(["published checkpoint"] if has_published else []), "ours", "verdict"]
    shares = [34, 13, *([18] if has_published else []), 18, 12]
    room = width - 2 * (len(heads) - 1)
    widths = [share * room // sum(shares) for share in shares]

    def line(cells):
        wrapped = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, widths, strict=True)]
        height = max(map(len, wrapped))
        rows = zip(*(cell + [""] * (height - len(cell)) for cell in wrapped), strict=True)
        return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]

    out = [*line(heads), "-" * width]
    for model, title in MODELS.items():
        about = [claim for claim in claims if claim.model == model]
        if about:
            out.append(f"{title.capitalize()}")
        for claim in about:
            theirs = [claim.published or NONE] if has_published else []
            out += line([claim.statement, claim.paper, *theirs, claim.ours or NONE, claim.verdict])
    return "\n".join(out)


class _Rule(NamedTuple):
    """A claim and how to judge it: `measure(results)` gives what was measured and a verdict."""

    statement: str
    paper: str
    rule: str
    measure: Callable[[Results], tuple[str, str]]


class _NotMeasured(Exception):
    """A rule asked for a number that the results do not have."""


class _Measured:
    """Results, of which a rule may ask for what is there: a missing key or None ends it."""

    def __init__(self, content: Mapping[Any, Any]):
        self._content = content

    def __getitem__(self, key: Any) -> Any:
        value = self._content.get(key)
        if value is None:
            raise _NotMeasured(key)
        return _Measured(value) if isinstance(value, Mapping) else value

    def get(self, key: str) -> Any:
        return self._content.get(key)


def _judge(rule: _Rule, results: Results | None) -> tuple[str | None, str]:
    if results is None:
        return None, UNKNOWN
    try:
        return rule.measure(_Measured(results))
    except _NotMeasured:
        return NONE, UNKNOWN


def _verdict(holds: bool, partly: bool = False) -> str:
    return HOLDS if holds else PARTLY if partly else FAILS


def _rules(model: str) -> list[_Rule]:
    """The claims about a model, in the order of the paper."""
    paper, labels = PAPER[model], PAPER_FIGURE_1[model]
    graph = Graph(2, {"two_layer": 2, "three_layer": 3}[model])
    good = {
        "two_layer": "Two layers learn most of the task",
        "three_layer": "Three layers learn the task completely",
    }
    typed = ", ".join(f"{edge_label(graph, edge)} {points(label)}" for edge, label in labels.items())
    return [
        _Rule(
            good[model],
            percent(paper["val.accuracy"]),
            "holds from half a point below the paper's accuracy, partly from 5 points below",
            lambda results: _accuracy(results, paper["val.accuracy"]),
        ),
        _Rule(
            "A few edges carry everything",
            f"{len(labels)} arrows",
            "holds if accuracy with all others cut stays within 1 point in both modes, partly within 5",
            _few_edges,
        ),
        _Rule(
            "Figure 1's labels are what cutting the edge costs",
            typed,
            "holds if every label is within 5 points of the measured change (mode zero), partly if one is",
            lambda results: _figure_1(results, graph, labels),
        ),
        *(_two_layer_rules(paper) if model == "two_layer" else _three_layer_rules()),
        _Rule(
            "Trainable parameters (the paper's count is that of d_model 128)",
            f"{paper['parameters.trainable']:,}",
            "holds if the numbers are equal",
            lambda results: _parameters(results, paper["parameters.trainable"]),
        ),
    ]


def _two_layer_rules(paper: Mapping[str, float]) -> list[_Rule]:
    unchanged, printed = (
        paper[f"logit_difference.o2_accuracy_{alpha}"] for alpha in ("alpha_unchanged", "alpha1_0_alpha2_1")
    )
    lifts = "holds if o2 is then right in 98 % and more often than before, partly if only more often"
    return [
        _Rule(
            "Attention must differ from list to list: with mean patterns the model fails",
            f"falls to {percent(paper['mean_pattern_accuracy'])}",
            "holds if accuracy falls by more than 10 points, partly if by more than 1",
            lambda results: _mean_pattern(results, lambda lost: _verdict(lost > 0.1, lost > 0.01)),
        ),
        _Rule(
            "Two equations give the model's logits",
            "equal",
            "holds if no logit differs by 1e-4, partly if none by 1e-2",
            _closed_form,
        ),
        _Rule(
            "The difference of the logits turns o2 from d1 to d2 (mean logit of d2 minus that of d1)",
            "turns",
            "holds if the mean is negative in o1 and positive in o2, partly if it only rises",
            _difference_turns,
        ),
        _Rule(
            "α₁ = 0, α₂ = 1 in the difference lifts o2's accuracy (as printed)",
            f"{percent(unchanged)} to {percent(printed)}",
            lifts,
            lambda results: _alpha(results, "o2_accuracy_alpha1_0_alpha2_1"),
        ),
        _Rule(
            "α₁ = 1, α₂ = 0 in the difference lifts o2's accuracy (the other way round)",
            NOT_CLAIMED,
            lifts,
            lambda results: _alpha(results, "o2_accuracy_alpha1_1_alpha2_0"),
        ),
        _Rule(
            "Order is kept by scale: with α₁ and α₂ exchanged in the running model the outputs come out "
            "reversed",
            "reversed",
            "holds if both outputs are reversed in 90 % of the lists, partly if each alone is in over 10 %",
            _swap,
        ),
        _Rule(
            "Of what changes in SEP when a list is reversed, the weights of the position vectors P₁ and P₂ "
            "alone reverse the outputs",
            NOT_CLAIMED,
            "holds if these, set to the reversed list's or exchanged, reverse both outputs in at least "
            "two thirds as many lists as all of the reversed list's SEP, and the weights of E[d1] and "
            "E[d2], or other vectors of that length, in at most a tenth as many; partly if they reverse more "
            "than these (a rule chosen here)",
            _positions,
        ),
        _Rule(
            "The larger α says which digit is first",
            "yes",
            "holds if at most 10 % of the pairs of digits have the same digit with the larger α in both "
            "orders, partly if at most half do",
            _same_digit,
        ),
        _Rule(
            "o2 reads o1's position to tell itself from o1: without that edge o1 stays and o2 fails",
            "o2 fails",
            "holds if o1's errors stay and o2's at least double (renormalize), partly if o2's grow",
            _moderation,
        ),
        _Rule(
            "Projected on the position vectors, the residuals of o1 and o2 are linearly separable",
            "separable",
            "holds if a plane has every point on its right side, partly if 99 %",
            _separable,
        ),
        _Rule(
            "Lists are lost where SEP attends to both digits alike",
            "on the diagonal",
            "holds if the mean gap of SEP's scores is at most half in wrong lists, partly if smaller",
            _diagonal,
        ),
        _Rule(
            "Wrong lists have no structure in the (d1, d2) plane",
            "none",
            "holds if a chi-squared test on 4 x 4 cells gives p above 0.01",
            _no_structure,
        ),
    ]


def _three_layer_rules() -> list[_Rule]:
    return [
        _Rule(
            "Digits are copied one per layer, so attention need not differ from list to list",
            "need not",
            "holds if accuracy with mean patterns stays within 1 point, partly within 10",
            lambda results: _mean_pattern(results, lambda lost: _verdict(lost <= 0.01, lost <= 0.1)),
        )
    ]


def _accuracy(results, paper: float):
    accuracy = results["val"]["accuracy"]
    return percent(accuracy), _verdict(accuracy >= paper - 0.005, accuracy >= paper - 0.05)


def _figure_1(results, graph: Graph, labels: Mapping[Edge, float]):
    changes = _Measured(edge_changes(results["ablation"][PAPER_MODE]["edges"]))
    off = [edge for edge, label in labels.items() if abs(changes[edge] - label) > LABEL_TOLERANCE]
    text = f"{len(labels) - len(off)} of {len(labels)} labels within {100 * LABEL_TOLERANCE:.0f} points"
    if off:
        text += f"; not {enumerate_words([f'{edge_label(graph, e)} {points(changes[e])}' for e in off])}"
    return text, _verdict(not off, len(off) < len(labels))


def _few_edges(results):
    ablations = [results["ablation"][mode] for mode in MODES]
    counts = " / ".join(f"{len(x['critical'])} of {len(x['edges'])}" for x in ablations)
    worst = min(x["accuracy_without_non_critical"] - results["val"]["accuracy"] for x in ablations)
    text = f"{counts} critical ({' / '.join(MODES)}); the others cut: {points(worst)}"
    return text, _verdict(worst >= -0.01, worst >= -0.05)


def _mean_pattern(results, verdict: Callable[[float], str]):
    accuracy, mean = results["val"]["accuracy"], results["mean_pattern_accuracy"]
    return f"{percent(accuracy)} to {percent(mean)}", verdict(accuracy - mean)


def _closed_form(results):
    largest = max(results["circuit"][f"max_abs_diff_{output}"] for output in ("o1", "o2"))
    return f"largest difference {largest:.1e}", _verdict(largest < 1e-4, largest < 1e-2)


def _difference_turns(results):
    base, final = (results["logit_difference"][key] for key in ("base_l_o1", "final"))
    return f"{number(base)} to {number(final)}", _verdict(base < 0 < final, base < final)


def _alpha(results, key: str):
    before, after = (results["logit_difference"][x] for x in ("o2_accuracy_alpha_unchanged", key))
    rises = after > before
    return f"{percent(before)} to {percent(after)}", _verdict(after >= 0.98 and rises, rises)


def _swap(results):
    swap = results["alpha_swap_full_model"]
    first, second, both = swap["o1_is_d2"], swap["o2_is_d1"], swap["both_reversed"]
    text = f"o1 says d2: {percent(first)}, o2 says d1: {percent(second)}, both: {percent(both)}"
    return text, _verdict(both >= 0.9, first > 0.1 and second > 0.1)


def _positions(results):
    order = results.get("order")
    if order is None or "random_vectors" not in order:
        raise _NotMeasured("order")
    positions, others, reference = reversed_by(order)
    text = (
        f"{percent(positions)} or more (all of the reversed list's SEP {percent(reference)}, other changes "
        f"{percent(others)} or less)"
    )
    return text, _verdict(is_in_positions(order), positions > others)


def _same_digit(results):
    same = results["order"]["same_digit_larger"]
    return f"the same digit in {percent(same)} of the pairs", _verdict(same <= 0.1, same <= 0.5)


def _moderation(results):
    first, last = (round(results["n_val_used"] * (1 - x)) for x in results["val"]["per_position_accuracy"])
    cut = results["moderation_edge_ablation"]["renormalize"]
    now_first, now_last = cut["o1_wrong"], cut["o2_wrong"]
    text = f"o1 wrong {first:,} to {now_first:,}, o2 wrong {last:,} to {now_last:,}"
    return text, _verdict(now_first == first and now_last >= 2 * max(last, 1), now_last > last)


def _separable(results):
    accuracy, margin = results["separability"]["accuracy"], results["separability"].get("margin")
    text = f"{percent(accuracy)} on the right side" + ("" if margin is None else f", margin {margin:.3f}")
    return text, _verdict(accuracy == 1.0, accuracy >= 0.99)


def _diagonal(results):
    right, wrong = (results["sep_attention"][f"score_gap_mean_{kind}"] for kind in ("correct", "incorrect"))
    return f"gap {right:.3f} right, {wrong:.3f} wrong", _verdict(wrong <= right / 2, wrong < right)


def _no_structure(results):
    p, lists = (results["wrong_lists"][key] for key in ("structure_p_value", "lists"))
    return f"p = {p:.2g} ({count(lists, 'wrong list')})", _verdict(p > 0.01)


def _parameters(results, paper: int):
    trainable, d_model = results["parameters"]["trainable"], results["config"]["d_model"]
    return f"{trainable:,} at d_model {d_model}", _verdict(trainable == paper)
