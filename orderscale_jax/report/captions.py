"""What each figure shows, in two plain sentences made from the results.

Every function takes `results` and gives the sentences that hold for those numbers, whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from orderscale_jax.analysis.difference import TERMS
from orderscale_jax.config import TRANSITION_ACCURACY
from orderscale_jax.figures import Curve
from orderscale_jax.formatting import MODE_WORDS, count, edge_label, enumerate_words, number, percent, points
from orderscale_jax.graph import Edge, Graph, position_names
from orderscale_jax.model import MODES
from orderscale_jax.report.table import PAPER_MODE, Results, edge_changes

SMALL = 0.01  # of accuracy; a smaller change is called none


def graph_of(results: Results) -> Graph:
    return Graph(results["list_len"], results["config"]["n_layers"])


def headline(results: Results) -> str:
    """How good the model is, in one sentence or two."""
    val, n = results["val"], results["list_len"]
    text = f"It writes {percent(val['accuracy'])} of the output digits right"
    if n > 1:
        each = [f"o{i + 1} {percent(x)}" for i, x in enumerate(val["per_position_accuracy"])]
        text += f" ({', '.join(each)}) and {percent(val['sequence_accuracy'])} of the lists entirely right"
    text = f"{text}, measured on {_lists(results)}."
    if seen := results["train"]:
        text += (
            f" Of the training lists it writes {percent(seen['accuracy'])} of the digits right, and "
            f"{percent(seen['sequence_accuracy'])} of them entirely."
        )
    if results["validation_lists_seen"]:
        text += (
            " Its training drew validation lists too, so these numbers tell what it holds, not what it "
            "generalises to."
        )
    return text


def description(results: Results) -> str:
    """What the model is."""
    config, variant = results["config"], results["variant"]
    parts = [
        f"A transformer of {count(config['n_layers'], 'layer')} and {count(config['n_heads'], 'head')}, "
        f"{config['d_model']} wide, with {results['parameters']['trainable']:,} trainable parameters."
    ]
    extras = {
        "LayerNorm": config["use_ln"],
        "biases": config["use_bias"],
        "a learned value projection": config["use_wv"],
        "a learned output projection": config["use_wo"],
        "an MLP after attention": variant["mlp"],
    }
    has = [name for name, on in extras.items() if on]
    lacks = [name.removeprefix("a ").removeprefix("an ") for name, on in extras.items() if not on]
    parts.append(
        f"It has {enumerate_words(has)}." if has else "It has attention alone: it only mixes vectors."
    )
    if has and lacks:
        parts.append(f"It has no {' or '.join(lacks)}.")
    n, largest = results["list_len"], results["n_digits"] - 1
    reads = f"It reads a list of {count(n, 'digit')} between 0 and {largest}, packs "
    if n == 1:
        reads += "it into one token, SEP, and writes the digit down again; the outputs see nothing but SEP."
    else:
        reads += (
            "them into one token, SEP, and writes the digits down again, in order; the outputs see nothing "
            "but SEP and the outputs before them."
        )
    return " ".join([*parts, reads])


def information_flow(results: Results) -> list[str]:
    graph, ablation = graph_of(results), results["ablation"][PAPER_MODE]
    critical = [Edge(*edge) for edge in ablation["critical"]]
    tolerance = 100 * ablation["critical_tolerance"]
    live = len(graph.live_edges)
    within = f"{tolerance:g} point{'' if tolerance == 1 else 's'} of accuracy"
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
        return [first, f"{second}edges that seem dispensable one at a time are not so together."]
    if critical:
        return [first, f"{second}the critical edges are all that the model needs."]
    return [first, f"{second}attention carries nothing that accuracy depends on."]


def ablation(results: Results, mode: str) -> list[str]:
    graph, changes = graph_of(results), edge_changes(results["ablation"][mode]["edges"])
    (other,) = set(MODES) - {mode}
    edges = sorted(changes, key=changes.get)
    worst = [f"{edge_label(graph, e)} ({points(changes[e])})" for e in edges[:3] if changes[e] < -SMALL]
    first = f"When an edge is cut and its {MODE_WORDS[mode]}, "
    if worst:
        first += f"accuracy falls most for {enumerate_words(worst)}, in points."
    else:
        first += "no edge costs a whole point of accuracy."
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
        within = f"{100 * found['tolerance']:g} point{'' if found['tolerance'] == 0.01 else 's'}"
        text = (
            f"Edges cut ({MODE_WORDS[mode]}): {some} among the {2 ** len(edges):,} sets of the "
            f"{count(len(edges), 'live edge')}. Such a set stays within {within} of the intact model's "
            "accuracy, and no part of it does."
        )
        shapley, accuracy = found["shapley"], found["accuracy_by_subset"]
        most = max(range(len(edges)), key=shapley.__getitem__)
        text += (
            f" By Shapley value {edge_label(graph, edges[most])} counts most: {percent(shapley[most])} of "
            f"the {percent(accuracy[-1] - accuracy[0])} by which all edges are better than none."
        )
        parts.append(text)
    return parts


def attention(results: Results) -> list[str]:
    n, last = results["list_len"], results["config"]["n_layers"] - 1
    mean = results["mean_pattern"]

    def average(layer, query, key):
        return sum(head[query][key] for head in mean[layer]) / len(mean[layer])

    alphas = [f"{average(0, n, i):.3f} to d{i + 1}" for i in range(n)]
    over = " (mean over heads)" if len(mean[0]) > 1 else ""
    first = f"On average SEP gives {enumerate_words(alphas)} in layer 0{over}"
    if last > 0:
        sources = range(n, 2 * n)
        betas = [f"{average(last, 2 * n, key):.3f} to {position_names(n)[key]}" for key in sources]
        first += f", and o{n} gives {enumerate_words(betas)} in layer {last}"
    first += "."
    if spread := results.get("sep_attention"):
        deviation = f"a standard deviation of {spread['alpha_d1_std']:.3f}"
        first += f" From list to list SEP's share for d1 varies with {deviation}."
    mean, differs = results["mean_pattern_accuracy"], "how attention differs from list to list"
    second = f"With every pattern replaced by its mean, accuracy is {percent(mean)}"
    if (lost := results["val"]["accuracy"] - mean) > SMALL:
        return [first, f"{second}, {100 * lost:.1f} points less: {differs} carries information."]
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
            f"On average {which} lie {gap:.3f} apart{averaged}.",
        ]
    first = (
        f"{which} lie {right:.3f} apart on average in lists that come out right and {wrong:.3f} in those "
        f"that do not{averaged}."
    )
    if wrong <= right / 2:
        second = "gather where SEP attends to the digits alike."
    elif wrong < right:
        second = "lie somewhat closer to equal attention, but do not gather there."
    else:
        second = "lie no closer to equal attention than right ones: the model does not fail there."
    return [first, f"Wrong lists {second}"]


def difference(results: Results) -> list[str]:
    found, swap = results["logit_difference"], results["alpha_swap_full_model"]
    base, final = found["base_l_o1"], found["final"]
    if base is None:
        return ["No list has two different digits.", "So their logits have no difference to take apart."]
    name, value = max(found["terms"].items(), key=lambda term: abs(term[1]))
    before, after = (f"{number(abs(x))} {'below' if x < 0 else 'above'}" for x in (base, final))
    first = (
        f"In o1 the logit of d2 lies {before} that of d1; six terms bring it to {after} in o2, the largest "
        f"being {TERMS[name].text} with {number(value)}."
    )
    unchanged = found["o2_accuracy_alpha_unchanged"]
    second = (
        f"With α₁ = 1, α₂ = 0 put into the difference alone o2 is right in "
        f"{percent(found['o2_accuracy_alpha1_1_alpha2_0'])} of the lists, with α₁ = 0, α₂ = 1 in "
        f"{percent(found['o2_accuracy_alpha1_0_alpha2_1'])}, and in {percent(unchanged)} as it is. "
        f"Exchanging α₁ and α₂ in the running model reverses both outputs in "
        f"{percent(swap['both_reversed'])} of the lists."
    )
    return [first, second]


def order(results: Results) -> list[str]:
    found = results["order"]
    share = {name: percent(effect["reversed"]) for name, effect in found["exchange"].items()}
    right = {name: percent(effect["right"]) for name, effect in found["exchange"].items()}
    first = (
        "Reversing a list changes two things in SEP. The weights of the position vectors P₁ and P₂ alone, "
        f"set to those of the reversed list, reverse both outputs in {share['positions_of_reversed']} of "
        f"the {count(found['n_lists'], 'list')} with two different digits; those of the digits' vectors "
        f"E[d1] and E[d2] in {share['embeddings_of_reversed']}; both, which is all of its SEP, in "
        f"{share['reversed_list']}. Exchanging α₁ and α₂ does so in {share['alphas']}, a random vector as "
        "long as the change of the positions' weights in "
        f"{percent(found['random_vectors']['positions_of_reversed']['reversed'])}. With P₁ and P₂ weighted "
        f"equally {right['even_positions']} are right, with E[d1] and E[d2] {right['even_embeddings']}; "
        f"{percent(found['intact']['right'])} are right with nothing changed."
    )
    same = found["same_digit_larger"]
    second = (
        f"In {percent(same)} of the pairs of digits the same digit has the larger α in both orders: α₁ is a "
        "logistic function of g(d1) − g(d2) + c, with one number g for each digit."
    )
    if same > 0.5:
        second += " Which α is larger says mostly which digits they are, not in which order they stand."
    return [first, second]


def wrong_lists(results: Results) -> list[str]:
    found, used = results["wrong_lists"], results["n_val_used"]
    if not found["lists"]:
        return [f"None of {count(used, 'list')} is wrong.", "So there is nothing to see in the plane."]
    each = [f"o{i + 1} in {amount:,}" for i, amount in enumerate(found["by_output"])]
    are = "is" if found["lists"] == 1 else "are"
    first = f"{found['lists']:,} of {count(used, 'list')} {are} wrong: {enumerate_words(each)}."
    p, test = found["structure_p_value"], "chi-squared test on 4 x 4 cells of the plane"
    if p is None:
        second = "There are too few wrong or too few right lists to say whether they lie in special places."
    elif p > 0.01:
        second = f"A {test} finds no structure (p = {p:.2g})."
    else:
        second = f"They do not lie at random: a {test} gives p = {p:.1g}."
    return [first, second]


def training(history: Sequence[Curve]) -> list[str]:
    """Of the runs themselves, which `results` do not hold."""
    best = max(history, key=lambda curve: max(curve.accuracy))
    reached = max(best.accuracy)
    step = best.steps[list(best.accuracy).index(reached)]
    several = len(history) > 1
    first = (
        f"{count(len(history), 'attempt')} at training {'are' if several else 'is'} on record; the best "
        f"accuracy, {percent(reached)}, was met after {count(int(step), 'step')}"
        f"{f' of {best.label}' if several else ''}."
    )
    through, at = percent(TRANSITION_ACCURACY), best.transition
    if at is None:
        return [first, f"It never passed {through}, so it has not broken through."]
    return [first, f"It broke through {through} at step {int(best.steps[at]):,}."]


def separability(results: Results) -> list[str]:
    found, span = results["separability"], results["position_span"]
    n = results["list_len"]
    which = "o1 and o2" if n == 2 else "neighbouring outputs"
    first = "Projected on the position vectors, "
    if found["separable"]:
        margin = f", with a margin of {found['margin']:.3f}" if found["margin"] is not None else ""
        first += f"a plane separates the residuals of {which} in every list{margin}."
    else:
        first += (
            f"no plane separates the residuals of {which}; the best found has {percent(found['accuracy'])} "
            "of them on the right side."
        )
    second = (
        f"Kept only as far as it lies in the span of the position vectors, the residual spells "
        f"{percent(span['accuracy'])} of the digits right, against "
        f"{percent(results['val']['accuracy'])} in full."
    )
    return [first, second]


def _lists(results: Results) -> str:
    used, total = results["n_val_used"], results["n_val_total"]
    drawn = ", drawn at random," if results["n_train"] is None else ""
    every = f"the {count(total, 'validation list')}{drawn}".rstrip(",")
    return every if used == total else f"the first {used:,} of {total:,} validation lists"


def _labels(graph: Graph, edges) -> str:
    return enumerate_words([edge_label(graph, edge) for edge in sorted(edges)])
