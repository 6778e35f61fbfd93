"""What each figure shows, in a few plain sentences made from the results.

Every function takes `results` and gives the sentences that hold for those numbers, whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from orderscale_jax.analysis.difference import TERMS
from orderscale_jax.config import TRANSITION_ACCURACY
from orderscale_jax.figures import Curve, alternatives
from orderscale_jax.figures.published import PAPER_MODE
from orderscale_jax.formatting import (
    MODE_WORDS,
    count,
    edge_label,
    enumerate_words,
    number,
    p_value,
    percent,
    points,
    points_of,
)
from orderscale_jax.graph import Edge, Graph, position_names
from orderscale_jax.model import MODES
from orderscale_jax.report.measures import CHANCE, RARE, SAME_DIGIT
from orderscale_jax.report.numbers import NOUNS, denominators
from orderscale_jax.report.published import Results
from orderscale_jax.report.table import edge_changes

SMALL = 0.01  # of accuracy; a smaller change is called none


def graph_of(results: Results) -> Graph:
    return Graph(results["list_len"], results["config"]["n_layers"])


def information_flow(results: Results) -> list[str]:
    graph, ablation = graph_of(results), results["ablation"][PAPER_MODE]
    critical = [Edge(*edge) for edge in ablation["critical"]]
    live = len(graph.live_edges)
    within = f"{points_of(ablation['critical_tolerance'])} of accuracy"
    first = f"Of {count(len(graph.edges), 'edge')}, {live} can reach an output at all, and "
    if critical:
        changes, are = edge_changes(ablation["edges"]), "is" if len(critical) == 1 else "are"
        dearest = min(critical, key=changes.get)
        first += f"{len(critical)} {are} critical: cutting one costs more than {within}."
        first += f" The costliest is {edge_label(graph, dearest)}, at {points(changes[dearest])} points."
    else:
        first += f"none is critical: cutting any one alone costs at most {within}."
    rest, intact = ablation["accuracy_without_non_critical"], results["val"]["accuracy"]
    which = "every other edge" if critical else "every edge"
    second = f"With {which} cut at once accuracy is {percent(rest)}, intact it is {percent(intact)}: "
    if rest < intact - SMALL:
        second += "edges that seem dispensable one at a time are not so together."
    elif critical:
        second += "the critical edges are all that the model needs."
    else:
        second += "attention carries nothing that accuracy depends on."
    return [first, second, *_redundant(results)]


def _redundant(results: Results) -> list[str]:
    """A sentence for each pair of redundant routes, where every set of edges was tried."""
    found = (results.get("exact_circuit") or {}).get(PAPER_MODE)
    if not found:
        return []
    graph, edges = graph_of(results), [Edge(*edge) for edge in found["edges"]]
    pairs = alternatives(edges, found["accuracy_by_subset"], tolerance=found["tolerance"])
    return [
        f"One of two routes suffices, {_labels(graph, pair.first)} or {_labels(graph, pair.second)}: no cut "
        f"in them is critical alone, with both routes cut accuracy changes by {points(pair.change)} points."
        for pair in pairs
    ]


def ablation(results: Results, mode: str) -> list[str]:
    graph, changes = graph_of(results), edge_changes(results["ablation"][mode]["edges"])
    (other,) = set(MODES) - {mode}
    edges = sorted(changes, key=changes.get)
    worst = [f"{edge_label(graph, e)} ({points(changes[e])})" for e in edges[:3] if changes[e] < -SMALL]
    first = f"When an edge is cut (its {MODE_WORDS[mode]}), "
    if worst:
        first += f"accuracy falls most for {enumerate_words(worst)}, in percentage points."
    else:
        first += "no edge costs a whole percentage point of accuracy."
    best = max(edges, key=changes.get)
    if changes[best] > SMALL:
        first += f" Cutting {edge_label(graph, best)} even raises it, by {points(changes[best])}."
    here, there = ({Edge(*e) for e in results["ablation"][m]["critical"]} for m in (mode, other))
    if not here | there:
        return [first, "No edge is critical in either mode."]
    if here == there:
        return [first, f"The critical edges are the same in the other mode ({other})."]
    parts = []
    if here - there:
        parts.append(f"critical only here: {_labels(graph, here - there)}")
    if there - here:
        parts.append(f"critical only in the other mode ({other}): {_labels(graph, there - here)}")
    return [first, f"The two modes do not agree on every edge; {'; '.join(parts)}."]


def circuits(results: Results) -> list[str]:
    """What the table of all sets of edges says, by meaning of a cut."""
    graph, parts = graph_of(results), []
    for mode, found in results["exact_circuit"].items():
        edges, minimal = [Edge(*edge) for edge in found["edges"]], found["minimal_circuits"]
        sizes = enumerate_words([str(len(circuit)) for circuit in sorted(minimal, key=len)])
        some = f"{count(len(minimal), 'minimal circuit')} of {sizes} edges"
        text = (
            f"Edges cut ({MODE_WORDS[mode]}): {some} among the {2 ** len(edges):,} sets of the "
            f"{count(len(edges), 'live edge')}. Such a set stays within {points_of(found['tolerance'])} of "
            "the intact model's accuracy, and no part of it does."
        )
        shapley, accuracy = found["shapley"], found["accuracy_by_subset"]
        most = max(range(len(edges)), key=shapley.__getitem__)
        best = accuracy[-1] - accuracy[0]
        text += (
            f" By Shapley value {edge_label(graph, edges[most])} counts most: it adds "
            f"{number(100 * shapley[most])} of the {number(100 * best)} points of accuracy by which all "
            "edges are better than none."
        )
        parts.append(text)
    return parts


def attention(results: Results) -> list[str]:
    n, last = results["list_len"], results["config"]["n_layers"] - 1
    mean = results["mean_pattern"]

    def average(layer, query, key):
        return sum(head[query][key] for head in mean[layer]) / len(mean[layer])

    alphas = [f"{number(average(0, n, i), 4)} to d{i + 1}" for i in range(n)]
    over = " (mean over heads)" if len(mean[0]) > 1 else ""
    first = f"On average SEP gives {enumerate_words(alphas)} in layer 0{over}"
    if last > 0:
        sources = range(n, 2 * n)
        betas = [f"{number(average(last, 2 * n, key), 4)} to {position_names(n)[key]}" for key in sources]
        first += f", and o{n} gives {enumerate_words(betas)} in layer {last}"
    first += "."
    if spread := results.get("sep_attention"):
        deviation = number(spread["alpha_d1_std"], 4)
        first += f" From list to list SEP's attention to d1 varies: its standard deviation is {deviation}."
    mean, differs = results["mean_pattern_accuracy"], "how attention differs from list to list"
    second = f"With every pattern replaced by its mean, {_share(results, mean, 'outputs')} are right"
    if (lost := results["val"]["accuracy"] - mean) > SMALL:
        return [first, f"{second}, {100 * lost:.2f} points fewer: {differs} carries information."]
    return [first, f"{second}: accuracy does not depend on {differs}."]


def sep_attention(results: Results) -> list[str]:
    found = results["sep_attention"]
    right, wrong = found["score_gap_mean_correct"], found["score_gap_mean_incorrect"]
    over = results["config"]["n_heads"] * results["list_len"] * (results["list_len"] - 1) // 2
    which = "SEP's scores of the two digits" if results["list_len"] == 2 else "SEP's scores of two digits"
    averaged = " (mean over pairs and heads)" if over > 1 else ""
    if right is None or wrong is None:
        what, gap = ("wrong", right) if wrong is None else ("right", wrong)
        return [
            f"No list is {what}, so right and wrong lists cannot be compared.",
            f"On average {which} are {number(gap, 4)} apart{averaged}.",
        ]
    first = (
        f"{which} are {number(right, 4)} apart on average in lists that come out right, and "
        f"{number(wrong, 4)} in lists that come out wrong{averaged}."
    )
    if wrong <= right / 2:
        second = "are found where SEP attends to both digits alike."
    elif wrong < right:
        second = "are somewhat closer to equal attention, but less than twice as close."
    else:
        second = "are no closer to equal attention than right ones."
    return [first, f"Wrong lists {second}"]


def difference(results: Results) -> list[str]:
    found, swap = results["logit_difference"], results["alpha_swap_full_model"]
    base, final = found["base_l_o1"], found["final"]
    if base is None:
        return ["No list has two different digits.", "So there is no difference of their logits."]
    name, value = max(found["terms"].items(), key=lambda term: abs(term[1]))
    before, after = (f"{number(abs(x))} {'below' if x < 0 else 'above'}" for x in (base, final))
    first = (
        f"In o1 the logit of d2 is {before} that of d1, as a mean over "
        f"{found['n_examples']:,} lists of two different digits. Six terms bring it to {after} in o2. The "
        f"largest of them is {TERMS[name].text} with {number(value)}."
    )
    keys = ("alpha_unchanged", "alpha1_1_alpha2_0", "alpha1_0_alpha2_1")
    own, exchanged, printed = (percent(found[f"o2_accuracy_{key}"]) for key in keys)
    second = (
        f"In the equations o2 is right in {own} of {count(results['n_val_used'], 'list')}. With α₁ = 1 and "
        f"α₂ = 0 put into the difference alone it is right in {exchanged} of them, with α₁ = 0 and α₂ = 1 in "
        f"{printed}. Exchanging α₁ and α₂ in the running model reverses both outputs in "
        f"{_share(results, swap['both_reversed'], 'different')}."
    )
    return [first, second]


def order(results: Results) -> list[str]:
    found = results["order"]
    share = {name: percent(effect["reversed"]) for name, effect in found["exchange"].items()}
    right = {name: percent(effect["right"]) for name, effect in found["exchange"].items()}
    first = (
        "When a list is reversed, two things change in SEP: the weights of the position vectors P₁ and P₂, "
        f"and the weights of the digits' vectors E[d1] and E[d2]. Measured on {found['n_lists']:,} lists of "
        f"two different digits: the first change alone reverses both outputs in "
        f"{share['positions_of_reversed']} of them, the second in {share['embeddings_of_reversed']}, both "
        f"together in {share['reversed_list']}. Exchanging α₁ and α₂ does so in {share['alphas']}, and a "
        "random vector as long as the first change in "
        f"{percent(found['random_vectors']['positions_of_reversed']['reversed'])}."
    )
    second = (
        f"With nothing changed {percent(found['intact']['right'])} of these lists are right, with P₁ and P₂ "
        f"weighted equally {right['even_positions']}, with E[d1] and E[d2] weighted equally "
        f"{right['even_embeddings']}."
    )
    same = found["same_digit_larger"]
    third = (
        f"The same digit has the larger α in both orders in {_share(results, same, 'pairs')}. α₁ is a "
        "logistic function of g(d1) − g(d2) + c, with one number g for each digit."
    )
    if same > SAME_DIGIT[1]:
        third += " Which α is larger says mostly which digits they are, not in which order they are."
    return [first, second, third]


def wrong_lists(results: Results) -> list[str]:
    found, used = results["wrong_lists"], results["n_val_used"]
    if not found["lists"]:
        return [f"None of {count(used, 'list')} is wrong.", "So the plane is empty."]
    each = [f"o{i + 1} in {amount:,}" for i, amount in enumerate(found["by_output"])]
    are = "is" if found["lists"] == 1 else "are"
    first = f"{found['lists']:,} of {count(used, 'list')} {are} wrong: {enumerate_words(each)}."
    p, test = found["structure_p_value"], "A chi-squared test on 4 × 4 equal parts of the plane"
    if p is None:
        return [first, "There are too few wrong or too few right lists to test where they are."]
    second = f"{test} gives p = {p_value(p)}: "
    if p >= CHANCE:
        second += f"no sign that they are in special places (p is at least {CHANCE})."
    elif p >= RARE:
        second += f"a weak sign that they are in special places (p is below {CHANCE}, but not below {RARE})."
    else:
        second += f"they are not spread at random (p is below {RARE})."
    return [first, second]


def training(history: Sequence[Curve]) -> list[str]:
    """Of the validations of a training run, attempt by attempt."""
    best = max(history, key=lambda curve: max(curve.accuracy))
    reached = max(best.accuracy)
    step = best.steps[list(best.accuracy).index(reached)]
    several = len(history) > 1
    first = (
        f"{count(len(history), 'attempt')} at training {'were' if several else 'was'} logged. The best "
        f"validation accuracy is {percent(reached)}, after {count(int(step), 'step')}"
        f"{f' of {best.label}' if several else ''}."
    )
    through, at = percent(TRANSITION_ACCURACY, None), best.transition
    if at is None:
        return [first, f"It never passed {through}: it did not break through."]
    return [first, f"It broke through {through} at step {int(best.steps[at]):,}."]


def separability(results: Results) -> list[str]:
    found, span = results["separability"], results["position_span"]
    n = results["list_len"]
    which = "o1 and o2" if n == 2 else "neighbouring outputs"
    first = "Projected on the position vectors, "
    if found["separable"]:
        margin = f", with a margin of {number(found['margin'], 4)}" if found["margin"] is not None else ""
        first += f"the residuals of {which} are separated by a plane in every list{margin}."
    else:
        first += (
            f"no plane separates the residuals of {which}. The best plane found has "
            f"{_share(results, found['accuracy'], 'points')} on their right side."
        )
    second = (
        "Keep only the part of each residual that is a weighted sum of position vectors: then "
        f"{_share(results, span['accuracy'], 'outputs')} are right. With the whole residual "
        f"{percent(results['val']['accuracy'])} are."
    )
    return [first, second]


def _share(results: Results, fraction: float, whole: str) -> str:
    """`91.45 % of 4,000 outputs`; `whole` is a name of `denominators`."""
    wholes = results.get("denominators") or denominators(results)
    return f"{percent(fraction)} of {wholes[whole]:,} {NOUNS[whole]}"


def _labels(graph: Graph, edges) -> str:
    return enumerate_words([edge_label(graph, edge) for edge in sorted(edges)])
