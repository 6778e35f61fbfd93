"""What the rules for the paper's claims look at: the numbers, and the verdict that follows from them.

A function here looks at the numbers that it gives back, and at nothing else, so that a reader can judge anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orderscale_jax.analysis.ablation import ROUNDING
from orderscale_jax.analysis.order import FEW, MOST, REFERENCE, is_in_positions, reversed_by
from orderscale_jax.config import TRANSITION_ACCURACY
from orderscale_jax.figures.published import PAPER_MODE
from orderscale_jax.formatting import MODE_WORDS, edge_label, number, p_value, percent, points, scientific
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model import MODES
from orderscale_jax.report.numbers import MISSING, Number, read_number
from orderscale_jax.report.published import Results

Found = tuple[list[Number], str]  # numbers and a verdict
HOLDS, PARTLY, FAILS, UNKNOWN = "holds", "holds only partly", "does not hold", "not measured"
VERDICTS = (HOLDS, PARTLY, FAILS, UNKNOWN)

LEARNT = TRANSITION_ACCURACY  # of outputs; from here on a model is judged as a trained one
GOOD = {"two_layer": 0.9, "three_layer": 0.999}  # accuracies at which the published training is content
NEARLY = {"two_layer": LEARNT, "three_layer": 0.95}
LABEL_TOLERANCE = 0.05  # a model trained afresh does not lose the same to the point
# Where a claim holds, and where it holds only partly.
LOST_WITHOUT_OTHERS = 0.01, 0.05  # of accuracy, at most, without any edge that is not critical
LITTLE, MUCH = 0.01, 0.1  # of accuracy that mean patterns cost: three layers at most, two layers more
LOGITS_DIFFER = 1e-4, 1e-2  # by less
LIFTED = 0.98  # of lists in which o2 is right
SAME_DIGIT = 0.1, 0.5  # of pairs, at most
O2_WRONG = 0.5, 0.1  # of lists, at least; the second, more than before
NEARLY_SEPARATED = 0.99  # of residuals, at least; all are where it holds
CHANCE, RARE = 0.05, 0.01  # p-values: no sign of structure from the first on, structure below the second


class NotMeasured(Exception):
    """A claim cannot be judged on these results; says why, as a sentence's end."""


def check_learnt(results: Results):
    """NotMeasured for a model that has not learnt the task."""
    accuracy = need(results, "val.accuracy", percent).value
    if not at_least(accuracy, LEARNT):
        raise NotMeasured(
            f"the model has not learnt the task: {percent(accuracy)} of the outputs are right, and this "
            f"claim is judged from {percent(LEARNT, None)} on"
        )


def at_least(value: float, bound: float) -> bool:
    """Whether a share reaches a bound; one that is just the bound does, however it is rounded."""
    return value >= bound - ROUNDING


def at_most(value: float, bound: float) -> bool:
    """Whether a share stays within a bound; one that is just the bound does, however it is rounded."""
    return value <= bound + ROUNDING


def verdict(holds: bool, partly: bool = False) -> str:
    return HOLDS if holds else PARTLY if partly else FAILS


def need(
    results: Results, place: str, form: Callable[[Any], str], label: str = "", of: str = "", noun: str = ""
) -> Number:
    """`read_number`, or NotMeasured where there is none."""
    found = read_number(results, place, form, label, of, noun)
    if found == MISSING:
        why = (results.get("not_applicable") or {}).get(place.partition(".")[0])
        raise NotMeasured(why.rstrip(".") if why else f"the results hold no number {place}")
    return found


def accuracy(results: Results, good: float, nearly: float) -> Found:
    accuracy = need(results, "val.accuracy", percent, "outputs right", "outputs")
    return [accuracy], verdict(*(at_least(accuracy.value, bound) for bound in (good, nearly)))


def few_edges(results: Results) -> Found:
    intact = need(results, "val.accuracy", percent, "outputs right, no edge cut", "outputs")
    numbers, few, worst = [intact], True, 0.0
    for mode in MODES:
        how, place = MODE_WORDS[mode], f"ablation.{mode}"
        label = f"critical edges ({how})"
        critical = need(results, f"{place}.critical", lambda edges: str(len(edges)), label, "edges")
        label = f"outputs right, all others cut ({how})"
        rest = need(results, f"{place}.accuracy_without_non_critical", percent, label, "outputs")
        numbers += [critical, rest]
        few &= 2 * len(critical.value) <= critical.of.amount
        worst = max(worst, intact.value - rest.value)
    return numbers, verdict(*(few and at_most(worst, most) for most in LOST_WITHOUT_OTHERS))


def figure_1(results: Results, graph: Graph, labels: Mapping[Edge, float]) -> Found:
    edges = need(results, f"ablation.{PAPER_MODE}.edges", str).value
    rows = {Edge(e["layer"], e["query"], e["key"]): i for i, e in enumerate(edges)}
    changes = {}
    for edge in labels:
        if edge not in rows:
            raise NotMeasured(f"the results hold no cut of {edge_label(graph, edge)}")
        place = f"ablation.{PAPER_MODE}.edges.{rows[edge]}.delta"
        changes[edge] = need(results, place, points, edge_label(graph, edge))
    agree = sum(at_most(abs(changes[edge].value - x), LABEL_TOLERANCE) for edge, x in labels.items())
    return list(changes.values()), verdict(agree == len(labels), 2 * agree > len(labels))


def mean_pattern(results: Results, judge: Callable[[float], str]) -> Found:
    own = need(results, "val.accuracy", percent, "outputs right", "outputs")
    mean = need(results, "mean_pattern_accuracy", percent, "with mean patterns", "outputs")
    return [own, mean], judge(own.value - mean.value)


def closed_form(results: Results) -> Found:
    numbers = [
        need(results, f"circuit.max_abs_diff_{output}", scientific, f"largest difference at {output}")
        for output in ("o1", "o2")
    ]
    largest = max(difference.value for difference in numbers)
    return numbers, verdict(*(largest < bound for bound in LOGITS_DIFFER))


def difference_turns(results: Results) -> Found:
    base = need(results, "logit_difference.base_l_o1", number, "mean in l_o1")
    final = need(results, "logit_difference.final", number, "mean in l_o2")
    return [base, final], verdict(base.value < 0 < final.value, base.value < final.value)


def alpha(results: Results, put_in: str, key: str) -> Found:
    place = "logit_difference.o2_accuracy_alpha_unchanged"
    before = need(results, place, percent, "o2 right with its own α", "lists")
    after = need(results, f"logit_difference.{key}", percent, f"o2 right with {put_in}", "lists")
    rises = not at_most(after.value, before.value)
    return [before, after], verdict(at_least(after.value, LIFTED) and rises, rises)


def _reference(results: Results) -> Number:
    """Lists that SEP of the reversed list reverses."""
    found = need(results, "order.exchange.reversed_list.reversed", percent, "the reference", "different")
    if not at_least(found.value, REFERENCE):
        raise NotMeasured(
            f"even SEP of the reversed list reverses only {percent(found.value)} of the lists, less than "
            f"{percent(REFERENCE, None)}"
        )
    return found


def exchange(results: Results) -> Found:
    numbers = [
        need(results, f"alpha_swap_full_model.{key}", percent, label, "different")
        for key, label in (
            ("both_reversed", "reversed"),
            ("o1_is_d2", "o1 says d2"),
            ("o2_is_d1", "o2 says d1"),
        )
    ]
    both, reference = numbers[0].value, _reference(results)
    return [*numbers, reference], verdict(*(at_least(both, share * reference.value) for share in (MOST, FEW)))


def positions(results: Results) -> Found:
    reference = _reference(results)
    changed = {
        "exchange.positions_of_reversed": "P₁ and P₂ as in the reversed list",
        "exchange.positions": "weights of P₁ and P₂ exchanged",
        "exchange.embeddings_of_reversed": "E[d1] and E[d2] as in the reversed list",
        "exchange.embeddings": "weights of E[d1] and E[d2] exchanged",
        "random_vectors.positions": "random vector",
        "exchange.other_digits": "vectors of two other digits",
        "exchange.other_positions": "vectors of two other positions",
    }
    numbers = [
        need(results, f"order.{place}.reversed", percent, label, "different")
        for place, label in changed.items()
    ]
    positions, others, _ = reversed_by(results["order"])
    return [reference, *numbers], verdict(is_in_positions(results["order"]), not at_most(positions, others))


def same_digit(results: Results) -> Found:
    label = "the same digit has the larger α in both orders"
    same = need(results, "order.same_digit_larger", percent, label, "pairs")
    return [same], verdict(*(at_most(same.value, most) for most in SAME_DIGIT))


def moderation(results: Results) -> Found:
    own = [
        need(results, f"val.per_position_accuracy.{i}", percent, f"o{i + 1} right", "lists") for i in (0, 1)
    ]
    lists = own[0].of.amount
    before = [round(lists * (1 - right.value)) for right in own]
    numbers, o1_stays, least = own, True, lists
    for mode in MODES:
        place = f"moderation_edge_ablation.{mode}"
        cut = [
            need(results, f"{place}.o{i}_wrong", "{:,}".format, f"o{i} wrong ({MODE_WORDS[mode]})", "lists")
            for i in (1, 2)
        ]
        numbers = [*numbers, *cut]
        o1_stays &= cut[0].value == before[0]
        least = min(least, cut[1].value)
    half, tenth = O2_WRONG
    fails, suffers = at_least(least / lists, half), at_least((least - before[1]) / lists, tenth)
    return numbers, verdict(o1_stays and fails, o1_stays and suffers)


def separable(results: Results) -> Found:
    label = "on the right side"
    numbers = [need(results, "separability.accuracy", percent, label, "points")]
    margin = read_number(results, "separability.margin", lambda value: number(value, 4), "margin")
    numbers += [margin] * (margin != MISSING)
    return numbers, verdict(*(at_least(numbers[0].value, bound) for bound in (1.0, NEARLY_SEPARATED)))


def diagonal(results: Results) -> Found:
    if not need(results, "wrong_lists.lists", str).value:
        raise NotMeasured("no list is wrong")
    right, wrong = (
        need(results, f"sep_attention.score_gap_mean_{kind}", lambda gap: number(gap, 4), label)
        for kind, label in (("correct", "gap in right lists"), ("incorrect", "gap in wrong lists"))
    )
    return [right, wrong], verdict(wrong.value <= right.value / 2, wrong.value < right.value)


def no_structure(results: Results) -> Found:
    wrong = need(results, "wrong_lists.lists", "{:,}".format, "wrong lists", "lists")
    p = read_number(results, "wrong_lists.structure_p_value", p_value, "p")
    if p == MISSING:
        raise NotMeasured("there are too few wrong or too few right lists for the test")
    return [p, wrong], verdict(p.value >= CHANCE, p.value >= RARE)


def parameters(results: Results, paper: int) -> Found:
    trainable = need(results, "parameters.trainable", "{:,}".format, "trained numbers")
    width = need(results, "config.d_model", str, "d_model")
    return [trainable, width], verdict(trainable.value == paper)
