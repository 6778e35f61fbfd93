"""The claims of the paper's sections 3 and 4, its Figure 1 and its appendix, each with a rule that judges it.

The rules are applied by `measures.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from orderscale_jax.analysis.ablation import TOLERANCE
from orderscale_jax.analysis.order import FEW, MOST, REFERENCE
from orderscale_jax.figures.published import PAPER_MODE
from orderscale_jax.formatting import MODE_WORDS, edge_label, part, percent, points, points_of
from orderscale_jax.graph import Graph
from orderscale_jax.report import measures
from orderscale_jax.report.numbers import Number
from orderscale_jax.report.published import PAPER, PAPER_FIGURE_1, Results

HERE, BY_PAPER = "this library", "paper"  # who makes a claim
NOT_CLAIMED = "not claimed"  # by the paper, but measured here


class Rule(NamedTuple):
    """A claim and how to judge it.

    Attributes:
      key: names it in addresses; the same claim about other models has the same.
      title: what is claimed, in a few words.
      in_full: the same in full, where that is more.
      by: `BY_PAPER` or `HERE`.
      paper: the paper's own number or words.
      rule: how verdicts follow from the numbers.
      measure: `measure(results)` gives the numbers and the verdict, or raises `NotMeasured`.
      of_training: whether it is about what training found, so that only a model that learnt can be judged.
      figure: the number of the paper's figure that shows it, and the name of that picture here.
    """

    key: str
    title: str
    by: str
    paper: str
    rule: str
    measure: Callable[[Results], tuple[list[Number], str]]
    of_training: bool = True
    figure: tuple[int, str] | None = None
    in_full: str = ""

    @property
    def statement(self) -> str:
        return self.in_full or self.title


def rules(model: str) -> list[Rule]:
    """The claims about `two_layer` or `three_layer`, in the order of the paper."""
    paper, labels = PAPER[model], PAPER_FIGURE_1[model]
    graph = Graph(2, {"two_layer": 2, "three_layer": 3}[model])
    good, nearly = measures.GOOD[model], measures.NEARLY[model]
    learns = {
        "two_layer": ("Two layers learn most of the task", "the bar of the published training"),
        "three_layer": ("Three layers learn the task completely", "where the published training stops"),
    }[model]
    others, others_partly = measures.LOST_WITHOUT_OTHERS
    typed = ", ".join(f"{edge_label(graph, edge)} {points(label, 1)}" for edge, label in labels.items())
    trained = paper["parameters.trainable"]
    return [
        Rule(
            "accuracy",
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
            BY_PAPER,
            f"{len(labels)} arrows in Figure 1",
            f"an edge is critical if cutting it alone costs more than {points_of(TOLERANCE)} of accuracy. "
            "Holds if at most half of all edges are critical and cutting all the others at once costs at "
            f"most {points_of(others)}, only partly if at most {points_of(others_partly)}, for both ways of "
            "cutting. This is the published notebook's test; it fails where two routes can replace each "
            "other, since then no edge of either is critical",
            measures.few_edges,
        ),
        Rule(
            "figure_1",
            "Figure 1's labels are what cutting an edge costs",
            BY_PAPER,
            typed,
            f"a label agrees if it is within {points_of(measures.LABEL_TOLERANCE)} of the change "
            f"measured when the edge is cut and its {MODE_WORDS[PAPER_MODE]}. Holds if all agree, only "
            "partly if more than half do",
            lambda results: measures.figure_1(results, graph, labels),
            figure=(1, "information_flow"),
            in_full="Figure 1's labels are what cutting each edge costs, in points of accuracy",
        ),
        *(_two_layer_rules(paper) if model == "two_layer" else _three_layer_rules()),
        Rule(
            "parameters",
            f"{trained:,} trainable parameters",
            BY_PAPER,
            f"{trained:,}",
            "holds if the numbers are equal",
            lambda results: measures.parameters(results, trained),
            of_training=False,
            in_full=f"The model has {trained:,} trainable parameters (that is the number at d_model 128)",
        ),
    ]


def _two_layer_rules(paper: Mapping[str, float]) -> list[Rule]:
    unchanged, printed = (
        percent(paper[f"logit_difference.o2_accuracy_{alpha}"], None)
        for alpha in ("alpha_unchanged", "alpha1_0_alpha2_1")
    )
    lifts = (
        f"holds if o2 is then right in at least {percent(measures.LIFTED, None)} of the lists and in more "
        "than with its own α, only partly if only in more"
    )
    differ, differ_partly = measures.LOGITS_DIFFER
    same, same_partly = measures.SAME_DIGIT
    wrong, more_wrong = measures.O2_WRONG
    reference = (
        "the reference is SEP of the reversed list put in whole: no change of it can be expected to reverse "
        f"more lists. Below {percent(REFERENCE, None)} for the reference the claim is not judged"
    )
    return [
        Rule(
            "mean_pattern",
            "Attention must differ from list to list",
            BY_PAPER,
            f"falls to {percent(paper['mean_pattern_accuracy'], None)} of the outputs right",
            f"holds if accuracy falls by more than {points_of(measures.MUCH)}, only partly if by more than "
            f"{points_of(measures.LITTLE)}",
            lambda results: measures.mean_pattern(
                results,
                lambda lost: measures.verdict(
                    *(not measures.at_most(lost, x) for x in (measures.MUCH, measures.LITTLE))
                ),
            ),
            figure=(3, "attention_histograms"),
            in_full="Attention must differ from list to list: with every pattern replaced by its mean, the "
            "model fails",
        ),
        Rule(
            "closed_form",
            "Two equations give the model's logits",
            BY_PAPER,
            "equal",
            f"holds if no logit differs by {differ:g} or more, only partly if none by {differ_partly:g} or "
            "more",
            measures.closed_form,
            of_training=False,
        ),
        Rule(
            "difference",
            "The difference of the logits turns o2 from d1 to d2",
            BY_PAPER,
            "from below zero in l_o1 to above zero in l_o2",
            "holds if the mean is below zero in l_o1 and above zero in l_o2, only partly if it only rises",
            measures.difference_turns,
            figure=(2, "difference_bars"),
            in_full="The difference of the logits turns o2 from d1 to d2: the mean of (logit of d2 − logit "
            "of d1) changes its sign",
        ),
        Rule(
            "alpha_printed",
            "α₁ = 0, α₂ = 1 in the difference lifts o2 (as printed)",
            BY_PAPER,
            f"{unchanged} to {printed} of the lists",
            lifts,
            lambda results: measures.alpha(results, "α₁ = 0, α₂ = 1", "o2_accuracy_alpha1_0_alpha2_1"),
            in_full="α₁ = 0, α₂ = 1 put into the difference lifts o2's accuracy (as printed in the paper)",
        ),
        Rule(
            "alpha_exchanged",
            "α₁ = 1, α₂ = 0 in the difference lifts o2",
            HERE,
            NOT_CLAIMED,
            lifts,
            lambda results: measures.alpha(results, "α₁ = 1, α₂ = 0", "o2_accuracy_alpha1_1_alpha2_0"),
            in_full="α₁ = 1, α₂ = 0 put into the difference lifts o2's accuracy (the paper's two values "
            "exchanged)",
        ),
        Rule(
            "order_by_scale",
            "Order is kept by scale: exchanging α₁ and α₂ reverses the list",
            BY_PAPER,
            "reversed",
            f"holds if at least {part(MOST)} as many lists come out reversed as with the reference, only "
            f"partly if at least {part(FEW)} as many; {reference}",
            measures.exchange,
            in_full="Order is kept by scale: with α₁ and α₂ exchanged in the running model, the list comes "
            "out reversed",
        ),
        Rule(
            "positions",
            "The weights of the position vectors alone reverse the list",
            HERE,
            NOT_CLAIMED,
            "holds if P₁ and P₂, weighted as in the reversed list as well as with their weights exchanged, "
            f"reverse at least {part(MOST)} as many lists as the reference, and each other change at most "
            f"{part(FEW)} as many; only partly if they reverse more lists than each other change; "
            f"{reference}",
            measures.positions,
            in_full="Of what changes in SEP when a list is reversed, the weights of the position vectors P₁ "
            "and P₂ alone reverse the outputs",
        ),
        Rule(
            "larger_alpha",
            "The larger α says which digit is first",
            BY_PAPER,
            "yes",
            "if it did, the other digit of a pair would have the larger α when the pair is reversed. Holds "
            f"if the same digit has it in both orders in at most {percent(same, None)} of the pairs, only "
            f"partly if in at most {percent(same_partly, None)}",
            measures.same_digit,
        ),
        Rule(
            "moderation",
            "Without the edge o2←o1, o2 fails",
            BY_PAPER,
            "o2 fails",
            f"holds if o2 is then wrong in at least {percent(wrong, None)} of the lists, whichever way the "
            f"edge is cut, only partly if it is wrong in at least {percent(more_wrong, None)} more of them; "
            "o1 must be wrong in as many lists as before (it cannot be otherwise: o1 does not read this "
            "edge)",
            measures.moderation,
            in_full="o2 reads o1's position to tell itself from o1: without that edge o2 fails, and o1 stays",
        ),
        Rule(
            "separable",
            "The residuals of o1 and o2 are linearly separable",
            BY_PAPER,
            "separable",
            "holds if a plane has every residual on its right side, only partly if at least "
            f"{percent(measures.NEARLY_SEPARATED, None)}",
            measures.separable,
            in_full="Projected on the position vectors, the residuals of o1 and o2 are linearly separable",
        ),
        Rule(
            "diagonal",
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
            BY_PAPER,
            "need not",
            "every pattern is replaced by its mean. Holds if accuracy falls by at most "
            f"{points_of(measures.LITTLE)}, only partly if by at most {points_of(measures.MUCH)}",
            lambda results: measures.mean_pattern(
                results,
                lambda lost: measures.verdict(
                    *(measures.at_most(lost, x) for x in (measures.LITTLE, measures.MUCH))
                ),
            ),
            in_full="Digits are copied one per layer, so attention need not differ from list to list",
        )
    ]
