"""The claims of the paper's sections 3 and 4, its Figure 1 and its appendix, each with a rule that judges it.

The rules are applied by `measures.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from orderscale_jax.formatting import MODE_WORDS, edge_label, percent, points
from orderscale_jax.graph import Graph
from orderscale_jax.report import measures
from orderscale_jax.report.numbers import Number
from orderscale_jax.report.published import PAPER, PAPER_FIGURE_1, PAPER_MODE, Results

HERE, BY_PAPER = "this library", "paper"  # who makes a claim
NOT_CLAIMED = "not claimed"  # by the paper, but measured here


class Rule(NamedTuple):
    """A claim and how to judge it.

    Attributes:
      key: names it in addresses; the same claim about other models has the same.
      title: what is claimed, in a few words.
      statement: the same in full.
      by: `BY_PAPER` or `HERE`.
      paper: the paper's own number or words.
      rule: how verdicts follow from the numbers.
      measure: `measure(results)` gives the numbers and the verdict, or raises `NotMeasured`.
      of_training: whether it is about what training found, so that only a model that learnt can be judged.
      figure: the number of the paper's figure that shows it, and the name of that picture here.
    """

    key: str
    title: str
    statement: str
    by: str
    paper: str
    rule: str
    measure: Callable[[Results], tuple[list[Number], str]]
    of_training: bool = True
    figure: tuple[int, str] | None = None


def rules(model: str) -> list[Rule]:
    """The claims about `two_layer` or `three_layer`, in the order of the paper."""
    paper, labels = PAPER[model], PAPER_FIGURE_1[model]
    graph = Graph(2, {"two_layer": 2, "three_layer": 3}[model])
    good, nearly = measures.GOOD[model], measures.NEARLY[model]
    learns = {
        "two_layer": ("Two layers learn most of the task", "the bar of the published training"),
        "three_layer": ("Three layers learn the task completely", "where the published training stops"),
    }[model]
    typed = ", ".join(f"{edge_label(graph, edge)} {points(label, 1)}" for edge, label in labels.items())
    trained = paper["parameters.trainable"]
    return [
        Rule(
            "accuracy",
            learns[0],
            learns[0],
            BY_PAPER,
            f"{percent(paper['val.accuracy'], None)} of the outputs right",
            f"holds if at least {percent(good, None)} of the outputs are right ({learns[1]}), only partly if "
            f"at least {percent(nearly, None)}",
            lambda results: measures.accuracy(results, good, nearly),
            of_training=False,
        ),
        Rule(
            "few_edges",
            "A few edges carry everything",
            "A few edges carry everything",
            BY_PAPER,
            f"{len(labels)} arrows in Figure 1",
            "an edge is critical if cutting it alone costs more than 1 point of accuracy. Holds if at most "
            "half of all edges are critical and cutting all the others at once costs at most 1 point, only "
            "partly if at most 5 points, for both ways of cutting. This is the published notebook's test; it "
            "fails where two routes can replace each other, since then no edge of either is critical",
            measures.few_edges,
        ),
        Rule(
            "figure_1",
            "Figure 1's labels are what cutting an edge costs",
            "Figure 1's labels are what cutting each edge costs, in points of accuracy",
            BY_PAPER,
            typed,
            f"a label agrees if it is within {100 * measures.LABEL_TOLERANCE:.0f} points of the change "
            f"measured when the edge is cut and its {MODE_WORDS[PAPER_MODE]}. Holds if all agree, only "
            "partly if more than half do",
            lambda results: measures.figure_1(results, graph, labels),
            figure=(1, "information_flow"),
        ),
        *(_two_layer_rules(paper) if model == "two_layer" else _three_layer_rules()),
        Rule(
            "parameters",
            f"{trained:,} trainable parameters",
            f"The model has {trained:,} trainable parameters (that is the number at d_model 128)",
            BY_PAPER,
            f"{trained:,}",
            "holds if the numbers are equal",
            lambda results: measures.parameters(results, trained),
            of_training=False,
        ),
    ]


def _two_layer_rules(paper: Mapping[str, float]) -> list[Rule]:
    unchanged, printed = (
        percent(paper[f"logit_difference.o2_accuracy_{alpha}"], None)
        for alpha in ("alpha_unchanged", "alpha1_0_alpha2_1")
    )
    lifts = (
        "holds if o2 is then right in at least 98 % of the lists and in more than with its own α, only "
        "partly if only in more"
    )
    reference = (
        "the reference is SEP of the reversed list put in whole: no change of it can be expected to reverse "
        f"more lists. Below {percent(measures.REFERENCE, None)} for the reference the claim is not judged"
    )
    return [
        Rule(
            "mean_pattern",
            "Attention must differ from list to list",
            "Attention must differ from list to list: with every pattern replaced by its mean, the model "
            "fails",
            BY_PAPER,
            f"falls to {percent(paper['mean_pattern_accuracy'], None)} of the outputs right",
            "holds if accuracy falls by more than 10 points, only partly if by more than 1",
            lambda results: measures.mean_pattern(
                results, lambda lost: measures.verdict(lost > 0.1, lost > 0.01)
            ),
            figure=(3, "attention_histograms"),
        ),
        Rule(
            "closed_form",
            "Two equations give the model's logits",
            "Two equations give the model's logits",
            BY_PAPER,
            "equal",
            "holds if no logit differs by 0.0001 or more, only partly if none by 0.01 or more",
            measures.closed_form,
            of_training=False,
        ),
        Rule(
            "difference",
            "The difference of the logits turns o2 from d1 to d2",
            "The difference of the logits turns o2 from d1 to d2: the mean of (logit of d2 − logit of d1) "
            "changes its sign",
            BY_PAPER,
            "from below zero in l_o1 to above zero in l_o2",
            "holds if the mean is below zero in l_o1 and above zero in l_o2, only partly if it only rises",
            measures.difference_turns,
            figure=(2, "difference_bars"),
        ),
        Rule(
            "alpha_printed",
            "α₁ = 0, α₂ = 1 in the difference lifts o2 (as printed)",
            "α₁ = 0, α₂ = 1 put into the difference lifts o2's accuracy (as printed in the paper)",
            BY_PAPER,
            f"{unchanged} to {printed} of the lists",
            lifts,
            lambda results: measures.alpha(results, "α₁ = 0, α₂ = 1", "o2_accuracy_alpha1_0_alpha2_1"),
        ),
        Rule(
            "alpha_exchanged",
            "α₁ = 1, α₂ = 0 in the difference lifts o2",
            "α₁ = 1, α₂ = 0 put into the difference lifts o2's accuracy (the paper's two values exchanged)",
            HERE,
            NOT_CLAIMED,
            lifts,
            lambda results: measures.alpha(results, "α₁ = 1, α₂ = 0", "o2_accuracy_alpha1_1_alpha2_0"),
        ),
        Rule(
            "order_by_scale",
            "Order is kept by scale: exchanging α₁ and α₂ reverses the list",
            "Order is kept by scale: with α₁ and α₂ exchanged in the running model, the list comes out "
            "reversed",
            BY_PAPER,
            "reversed",
            "holds if at least two thirds as many lists come out reversed as with the reference, only "
            f"partly if at least a tenth as many; {reference}",
            measures.exchange,
        ),
        Rule(
            "positions",
            "The weights of the position vectors alone reverse the list",
            "Of what changes in SEP when a list is reversed, the weights of the position vectors P₁ and P₂ "
            "alone reverse the outputs",
            HERE,
            NOT_CLAIMED,
            "holds if P₁ and P₂, weighted as in the reversed list as well as with their weights exchanged, "
            "reverse at least two thirds as many lists as the reference, and each other change at most a "
            f"tenth as many; only partly if they reverse more lists than each other change; {reference}",
            measures.positions,
        ),
        Rule(
            "larger_alpha",
            "The larger α says which digit is first",
            "The larger α says which digit is first",
            BY_PAPER,
            "yes",
            "if it did, the other digit of a pair would have the larger α when the pair is reversed. Holds "
            "if the same digit has it in both orders in at most 10 % of the pairs, only partly if in "
            "at most half",
            measures.same_digit,
        ),
        Rule(
            "moderation",
            "Without the edge o2←o1, o2 fails",
            "o2 reads o1's position to tell itself from o1: without that edge o2 fails, and o1 stays",
            BY_PAPER,
            "o2 fails",
            "holds if o2 is then wrong in at least half of the lists, whichever way the edge is cut, only "
            "partly if it is wrong in at least 10 % more of them; o1 must be wrong in as many lists as "
            "before (it cannot be otherwise: o1 does not read this edge)",
            measures.moderation,
        ),
        Rule(
            "separable",
            "The residuals of o1 and o2 are linearly separable",
            "Projected on the position vectors, the residuals of o1 and o2 are linearly separable",
            BY_PAPER,
            "separable",
            "holds if a plane has every residual on its right side, only partly if at least 99 %",
            measures.separable,
        ),
        Rule(
            "diagonal",
            "Lists are lost where SEP attends to both digits alike",
            "Lists are lost where SEP attends to both digits alike",
            BY_PAPER,
            "on the diagonal",
            "the gap is the distance between SEP's two scores, as a mean over lists. Holds if it is at most "
            "half as large in wrong lists as in right ones, only partly if it is smaller",
            measures.diagonal,
            figure=(4, "sep_attention"),
        ),
        Rule(
            "no_structure",
            "Wrong lists have no structure in the (d1, d2) plane",
            "Wrong lists have no structure in the (d1, d2) plane",
            BY_PAPER,
            "none",
            "a chi-squared test counts wrong and right lists in 4 × 4 equal parts of the plane. Holds if "
            f"p ≥ {measures.CHANCE}, only partly if {measures.RARE} ≤ p < {measures.CHANCE} (a weak sign of "
            "structure)",
            measures.no_structure,
        ),
    ]


def _three_layer_rules() -> list[Rule]:
    return [
        Rule(
            "mean_pattern",
            "Attention need not differ from list to list",
            "Digits are copied one per layer, so attention need not differ from list to list",
            BY_PAPER,
            "need not",
            "every pattern is replaced by its mean. Holds if accuracy falls by at most 1 point, only partly "
            "if by at most 10",
            lambda results: measures.mean_pattern(
                results, lambda lost: measures.verdict(lost <= 0.01, lost <= 0.1)
            ),
        )
    ]
