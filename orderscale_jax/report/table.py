"""The numbers of one model beside the published ones, and where each of those comes from.

Three sources, which do not always agree:

- The paper: its text and the labels of its Figure 1 (which were typed in by hand).
- The two published checkpoints, evaluated by the code published with them (version 0.2.0, PyTorch on
  CPU) on the validation split: `published_checkpoints.json`, in the form of `tabulate`. What that code
  does not compute (`parameters`, `wrong_lists`, `position_span`, `order`) is this library's on the same
  weights, and what follows from it (alpha_2 = 1 - alpha_1, beta_o1 = 1 - beta_s) is filled in.
- The authors' grids of runs, lists drawn on the fly: `published_grids.csv`, a line per architecture; and
  their newer runs on the fixed training set, `FIXED_SET`.

Beside those grids stands what the same architectures reach with the last layer's scores as they were drawn:
`recipe_grid.csv`, from `configs/sweeps/table4_recipe.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

from orderscale_jax.analysis.difference import TERMS
from orderscale_jax.analysis.order import EXCHANGES
from orderscale_jax.formatting import MODE_WORDS, NONE, columns, number, percent
from orderscale_jax.graph import Edge, position_names
from orderscale_jax.model import MODES

Results = Mapping[str, Any]

DEFAULT_SHAPE = {"d_model": 64, "n_heads": 1, "d_vocab": 102, "list_len": 2, "attn_only": True}
VARIANTS = ("use_ln", "use_bias", "use_wv", "use_wo")
KINDS = {2: "two_layer", 3: "three_layer"}
CHECKPOINT_NAMES = {"two_layer": "2layer_100dig_64d", "three_layer": "3layer_100dig_64d"}

# The authors' newer runs on the fixed training set (batches of 2,048 replayed, 100,000 steps, half precision,
# best of all validations), by width, heads, LayerNorm and MLP.
FIXED_SET = {
    (64, 1, False, False): "0.861 ± 0.108, median 0.925, from 0.580 to 0.941 (60 runs)",
    (64, 1, True, False): "0.931 ± 0.005",
    (128, 1, False, False): "0.930",
    (32, 1, False, False): "0.563",
    (8, 1, False, False): "0.352",
    (64, 2, False, False): "0.826",
    (64, 4, False, False): "0.482",
    (64, 8, False, False): "0.379",
    (64, 1, False, True): "0.897",
    (64, 1, True, True): "0.941 to 0.950",
}

# By place in the results. The text's accuracy, mean-pattern accuracy and parameter counts; section 4's
# intervention on alpha, with alpha_1 and alpha_2 as printed.
PAPER: dict[str, dict[str, float]] = {
    "two_layer": {
        "val.accuracy": 0.922,
        "mean_pattern_accuracy": 0.45,
        "parameters.trainable": 92_288,
        "logit_difference.o2_accuracy_alpha_unchanged": 0.839,
        "logit_difference.o2_accuracy_alpha1_0_alpha2_1": 0.9945,
    },
    "three_layer": {"val.accuracy": 1.0, "parameters.trainable": 125_056},
}

# Figure 1's labels: by edge, the change of accuracy when it is cut in this mode.
PAPER_MODE = "zero"
PAPER_FIGURE_1: dict[str, dict[Edge, float]] = {
    "two_layer": {
        Edge(0, 2, 0): -0.509,
        Edge(0, 2, 1): -0.410,
        Edge(1, 3, 2): -0.489,
        Edge(1, 4, 2): -0.500,
        Edge(1, 4, 3): -0.230,
    },
    "three_layer": {
        Edge(0, 2, 0): -0.040,
        Edge(0, 2, 1): -0.495,
        Edge(1, 2, 0): -0.496,
        Edge(1, 4, 2): -0.496,
        Edge(2, 3, 2): -0.497,
    },
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One number as text: ours, the published checkpoint's and the paper's (`–` where there is none).

    `beside` is the same number of another model of ours.
    """

    label: str
    ours: str
    checkpoint: str
    paper: str
    beside: str = NONE


def number_table(results: Results, beside: Results | None = None) -> list[tuple[str, list[Row]]]:
    """Groups of rows, each with a heading; what `results` does not have is left out.

    `beside` is what `tabulate` says of another model of ours, of the same kind.
    """
    kind = published_kind(results)
    theirs, paper = published_checkpoints().get(kind), PAPER.get(kind, {})
    table = []
    for heading, entries in _groups(results["list_len"]).items():
        rows = []
        for label, place, form in entries:
            if results.get(place.partition(".")[0]) is not None:
                values = (
                    lookup(results, place),
                    lookup(theirs, place),
                    paper.get(place),
                    lookup(beside, place),
                )
                rows.append(Row(label, *(NONE if value is None else form(value) for value in values)))
        if rows:
            table.append((heading, rows))
    return table


def number_text(results: Results, beside: Results | None = None) -> str:
    """`number_table` for a terminal; `beside` is a model of ours that was trained as published."""
    rows = [("", "ours", *(["as published"] if beside else []), "published checkpoint", "paper")]
    for heading, group in number_table(results, beside):
        rows.append((heading,))
        for row in group:
            more = [row.beside] if beside else []
            rows.append((f"  {row.label}", row.ours, *more, row.checkpoint, row.paper))
    return columns(rows)


def published_kind(results: Results) -> str | None:
    """`two_layer` or `three_layer` if a published checkpoint has the same architecture, else None."""
    config = results["config"]
    same = all(config[key] == value for key, value in DEFAULT_SHAPE.items())
    return KINDS.get(config["n_layers"]) if same and not any(config[key] for key in VARIANTS) else None


@functools.cache
def published_checkpoints() -> dict[str, dict[str, Any]]:
    """Results of the published checkpoints, `two_layer` and `three_layer`."""
    return json.loads(_resource("published_checkpoints.json"))


def published_grid(results: Results) -> dict[str, float] | None:
    """The authors' runs of this very architecture: counts and accuracies, or None if there are none."""
    return _grid_line("published_grids.csv", results)


def _grid_line(name: str, results: Results) -> dict[str, float] | None:
    """The line of a grid that is of this architecture, without the architecture."""
    config, variant = results["config"], results["variant"]
    if variant["mlp"] or config["n_heads"] != 1:
        return None
    shape = {key: config[key] for key in ("list_len", "n_layers", "n_heads", "d_model")}
    shape |= {"n_digits": results["n_digits"], "layer_norm": config["use_ln"], "bias": config["use_bias"]}
    shape |= {"learn_wv": config["use_wv"], "learn_wo": config["use_wo"]}
    for line in csv.DictReader(_resource(name).splitlines()):
        if all(int(line[key]) == int(value) for key, value in shape.items()):
            return {key: float(line[key]) for key in line if key not in shape}
    return None


def recipe_grid(results: Results) -> dict[str, float] | None:
    """Our runs of this very architecture by the recipe that leaves the last layer's scores as drawn."""
    return _grid_line("recipe_grid.csv", results)


def published_fixed_set(results: Results) -> str | None:
    """What the authors' newer runs of this architecture reach on the fixed training set, in words."""
    config, variant = results["config"], results["variant"]
    rest = any(config[key] for key in ("use_bias", "use_wv", "use_wo"))
    if rest or (config["n_layers"], results["list_len"], results["n_digits"]) != (2, 2, 100):
        return None
    shape = config["d_model"], config["n_heads"], config["use_ln"], variant["mlp"]
    return FIXED_SET.get(shape)


def edge_changes(entries: Iterable[Mapping[str, Any]]) -> dict[Edge, float]:
    """Change of accuracy by edge, of the `edges` of an ablation."""
    return {Edge(e["layer"], e["query"], e["key"]): e["delta"] for e in entries}


def lookup(results: Results | None, place: str) -> Any:
    """What `results` holds at a place such as `val.accuracy`; None where something on the way is missing."""
    value: Any = results
    for key in place.split("."):
        if value is None:
            return None
        value = value.get(key) if isinstance(value, Mapping) else value[int(key)]
    return value


def _groups(n: int) -> dict[str, list[tuple[str, str, Callable[[Any], str]]]]:
    """By heading (label, place in the results, form), for lists of n digits."""
    last, sources = f"o{n}", "o1" if n == 2 else f"o1 … o{n - 1}"
    interventions, moderation = [("outputs right with mean patterns", "mean_pattern_accuracy", percent)], {}
    for mode in MODES:
        how, place = MODE_WORDS[mode], f"ablation.{mode}"
        rest = f"outputs right, all others cut, {how}"
        interventions += [
            (f"critical edges, {how}", f"{place}.critical", lambda critical: str(len(critical))),
            (rest, f"{place}.accuracy_without_non_critical", percent),
        ]
        wrong, place = f"{last} wrong", f"moderation_edge_ablation.{mode}"
        moderation[f"With {last}←{sources} cut in the last layer, {how}"] = [
            ("outputs right", f"{place}.accuracy", percent),
            ("loss, nats", f"{place}.loss", _plain),
            ("o1 wrong", f"{place}.o1_wrong", _count),
            (wrong, f"{place}.{last}_wrong", _count),
            (f"{wrong}, says what o1 says", f"{place}.{last}_equals_o1_pred_given_{last}_wrong", percent),
            (f"{wrong}, says d1", f"{place}.{last}_equals_d1_given_{last}_wrong", percent),
            (f"{wrong}, o1 right", f"{place}.o1_correct_given_{last}_wrong", percent),
        ]
    shares = {f"alpha_d{i + 1}": f"α{i + 1}" for i in range(n)}
    shares |= {f"beta_{last}_{x.lower()}": f"β of {x}" for x in position_names(n)[n : 2 * n]}
    attention = [
        (f"{label}, {what}", f"sep_attention.{key}_{name}", _plain)
        for key, label in shares.items()
        for what, name in (("mean", "mean"), ("standard deviation", "std"))
    ]
    terms = [(term.text, f"logit_difference.terms.{key}", number) for key, term in TERMS.items()]
    plane = "o1, o2: points on the right side of the plane"
    plane = plane if n == 2 else "outputs on the right side of the plane, worst pair"
    equations = "closed form: largest difference in {}'s logits (ours in float64)"
    return {
        "How good it is": [
            ("outputs right", "val.accuracy", percent),
            *((f"o{i + 1} right", f"val.per_position_accuracy.{i}", percent) for i in range(n)),
            ("lists entirely right", "val.sequence_accuracy", percent),
            ("outputs right, of the training lists", "train.accuracy", percent),
            ("training lists entirely right", "train.sequence_accuracy", percent),
            ("loss, nats", "val.loss", _plain),
            ("trainable parameters", "parameters.trainable", _count),
        ],
        "With patterns replaced and edges cut": interventions,
        **moderation,
        "With α₁ and α₂ exchanged": [
            ("o1 says d2", "alpha_swap_full_model.o1_is_d2", percent),
            ("o2 says d1", "alpha_swap_full_model.o2_is_d1", percent),
            ("both", "alpha_swap_full_model.both_reversed", percent),
            ("o1 says d2, in the equations", "alpha_swap.o1_predicts_d2", percent),
            ("o1 says d1, in the equations", "alpha_swap.o1_predicts_d1", percent),
        ],
        "Both outputs reversed by other weights in SEP": [
            *((text, f"order.exchange.{name}.reversed", percent) for name, text in EXCHANGES.items()),
            (
                "random vector as long as that of P₁, P₂ exchanged",
                "order.random_vectors.positions.reversed",
                percent,
            ),
            (
                "pairs of digits, the same digit has the larger α in both orders",
                "order.same_digit_larger",
                percent,
            ),
        ],
        "Attention": [
            ("gap of SEP's scores, right lists", "sep_attention.score_gap_mean_correct", _plain),
            ("gap of SEP's scores, wrong lists", "sep_attention.score_gap_mean_incorrect", _plain),
            *attention,
        ],
        "Logit of d2 minus logit of d1": [
            ("in l_o1", "logit_difference.base_l_o1", number),
            *terms,
            ("in l_o2", "logit_difference.final", number),
        ],
        "With α replaced in the difference": [
            ("o2 right, α as it is", "logit_difference.o2_accuracy_alpha_unchanged", percent),
            ("o2 right, α₁ = 0, α₂ = 1", "logit_difference.o2_accuracy_alpha1_0_alpha2_1", percent),
            ("o2 right, α₁ = 1, α₂ = 0", "logit_difference.o2_accuracy_alpha1_1_alpha2_0", percent),
        ],
        "Geometry": [
            (plane, "separability.accuracy", percent),
            ("margin of the plane", "separability.margin", _plain),
            ("outputs right from the span of the positions", "position_span.accuracy", percent),
            *((equations.format(o), f"circuit.max_abs_diff_{o}", "{:.1e}".format) for o in ("o1", "o2")),
            ("closed form: outputs right", "circuit.reconstructed_accuracy", percent),
        ],
    }


def _plain(value: float) -> str:
    return number(value, 4)


def _count(value: int) -> str:
    return f"{value:,}"


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
