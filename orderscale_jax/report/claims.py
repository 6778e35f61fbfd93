"""What the paper claims, and whether it holds: a rule for each claim, applied to numbers.

The same rules judge the published checkpoints and our models. Claims are those of the paper's
sections 3 and 4, its Figure 1 and its appendix.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from orderscale_jax.formatting import count, edge_label, enumerate_words, number, percent, points
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.report import published as published_numbers

HOLDS, PARTLY, FAILS, UNKNOWN = "holds", "holds only partly", "does not hold", "not measured"
MODELS = {"two_layer": "two layers", "three_layer": "three layers"}
LABEL_TOLERANCE = 0.05  # a model trained afresh does not lose the same to the point
Results = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper beside what was measured.

    Attributes:
      model: `two_layer` or `three_layer`, which model it is about.
      statement: what is claimed.
      paper: the paper's own number, or `–`.
      published: what the published checkpoint gives, with its verdict; None if it was not given.
      ours: what our model gives; None if it was not given.
      verdict: on our model: `holds`, `holds only partly`, `does not hold` or `not measured`.
      published_verdict: the same on the published checkpoint.
      rule: how the verdicts follow from the numbers.
    """

    model: str
    statement: str
    paper: str
    published: str | None
    ours: str | None
    verdict: str
    published_verdict: str
    rule: str


def claims(
    results_two: Results | None,
    results_three: Results | None,
    published: Mapping[str, Results] | None = None,
) -> list[Claim]:
    """Judges every claim about the models that are given.

    Args:
      results_two, results_three: `results` of our two- and three-layer model, or None.
      published: `results` of the published checkpoints by `two_layer` and `three_layer`, either or both.
    """
    published = published or {}
    given = {"two_layer": results_two, "three_layer": results_three}
    made = []
    for claim in _CLAIMS:
        ours, theirs = given[claim.model], published.get(claim.model)
        if ours is None and theirs is None:
            continue
        our_text, verdict = claim.judge(ours)
        their_text, their_verdict = claim.judge(theirs)
        made.append(
            Claim(
                claim.model,
                claim.statement,
                claim.paper,
                their_text,
                our_text,
                verdict,
                their_verdict,
                claim.rule,
            )
        )
    return made


def claims_text(made: list[Claim], width: int = 110) -> str:
    """The claims as a table for a terminal of `width` columns, verdicts last."""
    has_published = any(claim.published is not None for claim in made)
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
        about = [claim for claim in made if claim.model == model]
        if about:
            out.append(f"{title.capitalize()}")
        for claim in about:
            theirs = [claim.published or "–"] if has_published else []
            out += line([claim.statement, claim.paper, *theirs, claim.ours or "–", claim.verdict])
    return "\n".join(out)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """A claim and how to judge it: `measure(results)` gives what was measured and a verdict."""

    model: str
    statement: str
    paper: str
    rule: str
    measure: Callable[[Results], tuple[str, str]]

    def judge(self, results: Results | None) -> tuple[str | None, str]:
        if results is None:
            return None, UNKNOWN
        try:
            return self.measure(results)
        except (KeyError, TypeError):  # a key is missing, or a number is None
            return "–", UNKNOWN


def _verdict(holds: bool, partly: bool = False) -> str:
    return HOLDS if holds else PARTLY if partly else FAILS


def _accuracy(paper: float):
    def measure(results):
        accuracy = results["val"]["accuracy"]
        return percent(accuracy), _verdict(accuracy >= paper - 0.005, accuracy >= paper - 0.05)

    return measure


def _figure_1(model: str):
    labels = published_numbers.PAPER_FIGURE_1[model]

    def measure(results):
        graph = Graph(results["list_len"], results["config"]["n_layers"])
        edges = {(e["layer"], e["query"], e["key"]): e["delta"] for e in results["ablation"]["zero"]["edges"]}
        off = [edge for edge, label in labels.items() if abs(edges[edge] - label) > LABEL_TOLERANCE]
        differing = [f"{edge_label(graph, Edge(*edge))} {points(edges[edge])}" for edge in off]
        text = f"{len(labels) - len(off)} of {len(labels)} labels within {100 * LABEL_TOLERANCE:.0f} points"
        text += f"; not {enumerate_words(differing)}" if off else ""
        return text, _verdict(not off, len(off) < len(labels))

    return measure


def _figure_1_text(model: str) -> str:
    graph = Graph(2, {"two_layer": 2, "three_layer": 3}[model])
    labels = published_numbers.PAPER_FIGURE_1[model]
    return ", ".join(f"{edge_label(graph, Edge(*e))} {points(label)}" for e, label in labels.items())


def _few_edges(results):
    changes, counts = [], []
    for ablation in results["ablation"].values():
        changes.append(ablation["accuracy_without_non_critical"] - results["val"]["accuracy"])
        counts.append(f"{len(ablation['critical'])} of {len(ablation['edges'])}")
    worst = min(changes)
    text = f"{' / '.join(counts)} critical (renormalize / zero); the others cut: {points(worst)}"
    return text, _verdict(worst >= -0.01, worst >= -0.05)


def _mean_pattern_breaks(results):
    accuracy, mean = results["val"]["accuracy"], results["mean_pattern_accuracy"]
    lost = accuracy - mean
    return f"{percent(accuracy)} to {percent(mean)}", _verdict(lost > 0.1, lost > 0.01)


def _mean_pattern_suffices(results):
    accuracy, mean = results["val"]["accuracy"], results["mean_pattern_accuracy"]
    lost = accuracy - mean
    return f"{percent(accuracy)} to {percent(mean)}", _verdict(lost <= 0.01, lost <= 0.1)


def _closed_form(results):
    circuit = results["circuit"]
    largest = max(circuit["max_abs_diff_o1"], circuit["max_abs_diff_o2"])
    return f"largest difference {largest:.1e}", _verdict(largest < 1e-4, largest < 1e-2)


def _difference_turns(results):
    difference = results["logit_difference"]
    base, final = difference["base_l_o1"], difference["final"]
    return f"{number(base)} to {number(final)}", _verdict(base < 0 < final, base < final)


def _alpha(key: str):
    def measure(results):
        difference = results["logit_difference"]
        before, after = difference["o2_accuracy_alpha_unchanged"], difference[key]
        return f"{percent(before)} to {percent(after)}", _verdict(
            after >= 0.98 and after > before, after > before
        )

    return measure


def _swap(results):
    swap = results["alpha_swap_full_model"]
    first, second, both = swap["o1_is_d2"], swap["o2_is_d1"], swap["both_reversed"]
    text = f"o1 says d2: {percent(first)}, o2 says d1: {percent(second)}, both: {percent(both)}"
    return text, _verdict(both >= 0.9, first > 0.1 and second > 0.1)


def _separable(results):
    found = results["separability"]
    margin = "" if found["margin"] is None else f", margin {found['margin']:.3f}"
    return f"{percent(found['accuracy'])} on the right side{margin}", _verdict(
        found["accuracy"] == 1.0, found["accuracy"] >= 0.99
    )


def _diagonal(results):
    right, wrong = (results["sep_attention"][f"score_gap_mean_{kind}"] for kind in ("correct", "incorrect"))
    return f"gap {right:.3f} right, {wrong:.3f} wrong", _verdict(wrong <= right / 2, wrong < right)


def _no_structure(results):
    found = results["wrong_lists"]
    p = found["structure_p_value"]
    return f"p = {p:.2g} ({count(found['lists'], 'wrong list')})", _verdict(p > 0.01)


def _moderation(results):
    first, last = (round(results["n_val_used"] * (1 - x)) for x in results["val"]["per_position_accuracy"])
    cut = results["moderation_edge_ablation"]["renormalize"]
    text = f"o1 wrong {first:,} to {cut['o1_wrong']:,}, o2 wrong {last:,} to {cut['o2_wrong']:,}"
    return text, _verdict(
        cut["o1_wrong"] == first and cut["o2_wrong"] >= 2 * max(last, 1), cut["o2_wrong"] > last
    )


def _parameters(paper: int):
    def measure(results):
        trainable = results["parameters"]["trainable"]
        return f"{trainable:,} at d_model {results['config']['d_model']}", _verdict(trainable == paper)

    return measure


_MEAN_PATTERN_RULE = "holds if accuracy falls by more than 10 points, partly if by more than 1"
_FIGURE_RULE = "holds if every label is within 5 points of the measured change (mode zero), partly if one is"
_EDGES_RULE = "holds if accuracy with all others cut stays within 1 point in both modes, partly within 5"
_ALPHA_RULE = "holds if o2 is then right in 98 % and more often than before, partly if only more often"
_COUNT_RULE = "holds if the numbers are equal"

_CLAIMS = (
    _Rule(
        "two_layer",
        "Two layers learn most of the task",
        "92.2 %",
        "holds from half a point below the paper's accuracy, partly from 5 points below",
        _accuracy(0.922),
    ),
    _Rule("two_layer", "A few edges carry everything", "5 arrows", _EDGES_RULE, _few_edges),
    _Rule(
        "two_layer",
        "Figure 1's labels are what cutting the edge costs",
        _figure_1_text("two_layer"),
        _FIGURE_RULE,
        _figure_1("two_layer"),
    ),
    _Rule(
        "two_layer",
        "Attention must differ from list to list: with mean patterns the model fails",
        "falls to 45 %",
        _MEAN_PATTERN_RULE,
        _mean_pattern_breaks,
    ),
    _Rule(
        "two_layer",
        "Two equations give the model's logits",
        "equal",
        "holds if no logit differs by 1e-4, partly if none by 1e-2",
        _closed_form,
    ),
    _Rule(
        "two_layer",
        "The difference of the logits turns o2 from d1 to d2 (mean logit of d2 minus that of d1)",
        "turns",
        "holds if the mean is negative in o1 and positive in o2, partly if it only rises",
        _difference_turns,
    ),
    _Rule(
        "two_layer",
        "α₁ = 0, α₂ = 1 in the difference lifts o2's accuracy (as printed)",
        "83.9 % to 99.45 %",
        _ALPHA_RULE,
        _alpha("o2_accuracy_alpha1_0_alpha2_1"),
    ),
    _Rule(
        "two_layer",
        "α₁ = 1, α₂ = 0 in the difference lifts o2's accuracy (the other way round)",
        "–",
        _ALPHA_RULE,
        _alpha("o2_accuracy_alpha1_1_alpha2_0"),
    ),
    _Rule(
        "two_layer",
        "Order is kept by scale: with α₁ and α₂ exchanged in the running model the outputs come out reversed",
        "reversed",
        "holds if both outputs are reversed in 90 % of the lists, partly if each alone is in over 10 %",
        _swap,
    ),
    _Rule(
        "two_layer",
        "o2 reads o1's position to tell itself from o1: without that edge o1 stays and o2 fails",
        "o2 fails",
        "holds if o1's errors stay and o2's at least double (renormalize), partly if o2's grow",
        _moderation,
    ),
    _Rule(
        "two_layer",
        "Projected on the position vectors, the residuals of o1 and o2 are linearly separable",
        "separable",
        "holds if a plane has every point on its right side, partly if 99 %",
        _separable,
    ),
    _Rule(
        "two_layer",
        "Lists are lost where SEP attends to both digits alike",
        "on the diagonal",
        "holds if the mean gap of SEP's scores is at most half in wrong lists, partly if smaller",
        _diagonal,
    ),
    _Rule(
        "two_layer",
        "Wrong lists have no structure in the (d1, d2) plane",
        "none",
        "holds if a chi-squared test on 4 x 4 cells gives p above 0.01",
        _no_structure,
    ),
    _Rule(
        "two_layer",
        "Trainable parameters (the paper's count is that of d_model 128)",
        "92,288",
        _COUNT_RULE,
        _parameters(92_288),
    ),
    _Rule(
        "three_layer",
        "Three layers learn the task completely",
        "100 %",
        "holds from half a point below the paper's accuracy, partly from 5 points below",
        _accuracy(1.0),
    ),
    _Rule("three_layer", "A few edges carry everything", "5 arrows", _EDGES_RULE, _few_edges),
    _Rule(
        "three_layer",
        "Figure 1's labels are what cutting the edge costs",
        _figure_1_text("three_layer"),
        _FIGURE_RULE,
        _figure_1("three_layer"),
    ),
    _Rule(
        "three_layer",
        "Digits are copied one per layer, so attention need not differ from list to list",
        "need not",
        "holds if accuracy with mean patterns stays within 1 point, partly within 10",
        _mean_pattern_suffices,
    ),
    _Rule(
        "three_layer",
        "Trainable parameters (the paper's count is that of d_model 128)",
        "125,056",
        _COUNT_RULE,
        _parameters(125_056),
    ),
)
