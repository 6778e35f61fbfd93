"""What is published of the models: the paper's numbers, the two checkpoints, the authors' grids of runs.

Three sources, which do not always agree:

- The paper: its text and the labels of its Figure 1 (which were typed in by hand).
- The two published checkpoints on the validation split: `published_checkpoints.json`, in the form of
  `tabulate`. Most of its numbers were computed by the code published with them (version 0.2.0, PyTorch on
  CPU). Those of `BY_THIS_LIBRARY` are this library's on the same weights, and those of `DERIVED` follow from
  numbers of theirs. `published_figures.json` has what the pictures need beyond that.
- The authors' grids of runs, lists drawn on the fly: `published_grids.csv`, a line per architecture; and
  their newer runs on the fixed training set, `FIXED_SET`.

Beside those grids stands what the same architectures reach with the last layer's scores as they were drawn:
`recipe_grid.csv`, from `configs/sweeps/table4_recipe.py`.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.graph import Edge

Results = Mapping[str, Any]

DEFAULT_SHAPE = {"d_model": 64, "n_heads": 1, "d_vocab": 102, "list_len": 2, "attn_only": True}
VARIANTS = ("use_ln", "use_bias", "use_wv", "use_wo")
KINDS = {2: "two_layer", 3: "three_layer"}
CHECKPOINT_NAMES = {"two_layer": "2layer_100dig_64d", "three_layer": "3layer_100dig_64d"}

# Numbers of the published checkpoints that were not computed by the code published with them, by how their
# place begins: this library's on the same weights, and what follows from numbers of theirs
# (alpha_2 = 1 - alpha_1, beta_o1 = 1 - beta_s, right lists as a fraction).
BY_THIS_LIBRARY = ("parameters", "wrong_lists", "position_span", "order")
DERIVED = ("val.sequence_accuracy", "sep_attention.alpha_d2", "sep_attention.beta_o2_o1")
MARKS = {"": "", "this library": "*", "derived": "†"}

# The authors' newer runs on the fixed training set (batches of 2,048 replayed, 100,000 steps, half precision,
# best of all validations), by width, heads, LayerNorm and MLP; accuracies as published.
FIXED_SET: dict[tuple[int, int, bool, bool], dict[str, float]] = {
    (64, 1, False, False): {
        "mean": 0.861, "deviation": 0.108, "median": 0.925, "min": 0.58, "max": 0.941, "runs": 60,
    },
    (64, 1, True, False): {"mean": 0.931, "deviation": 0.005},
    (128, 1, False, False): {"mean": 0.930},
    (32, 1, False, False): {"mean": 0.563},
    (8, 1, False, False): {"mean": 0.352},
    (64, 2, False, False): {"mean": 0.826},
    (64, 4, False, False): {"mean": 0.482},
    (64, 8, False, False): {"mean": 0.379},
    (64, 1, False, True): {"mean": 0.897},
    (64, 1, True, True): {"min": 0.941, "max": 0.950},
}  # fmt: skip

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

# Figure 1's labels: by edge, the change of accuracy when it is cut (in `figures.published.PAPER_MODE`).
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


def check_results(name: str, results: Any):
    """UserError unless `results` look like what `tabulate` gives."""
    check_kind(name, results, Mapping)
    if missing := [key for key in ("config", "list_len", "val", "ablation") if key not in results]:
        raise UserError(f"{name} must be what tabulate gives: they have no {missing[0]!r}")


def published_kind(results: Results) -> str | None:
    """`two_layer` or `three_layer` if a published checkpoint has the same architecture, else None."""
    config = results["config"]
    same = all(config[key] == value for key, value in DEFAULT_SHAPE.items())
    return KINDS.get(config["n_layers"]) if same and not any(config[key] for key in VARIANTS) else None


@functools.cache
def published_checkpoints() -> dict[str, dict[str, Any]]:
    """Results of the published checkpoints, `two_layer` and `three_layer`."""
    return json.loads(_resource("published_checkpoints.json"))


@functools.cache
def published_figures() -> dict[str, dict[str, Any]]:
    """What the pictures need of the published checkpoints beyond that (`figures.read_published`)."""
    return json.loads(_resource("published_figures.json"))


def origin(place: str) -> str:
    """Whose the published checkpoint's number at this place is: a key of `MARKS`, empty for its authors."""
    if any(place.startswith(start) for start in DERIVED):
        return "derived"
    return "this library" if place.partition(".")[0] in BY_THIS_LIBRARY else ""


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


def published_fixed_set(results: Results) -> dict[str, float] | None:
    """What the authors' newer runs of this architecture reach on the fixed training set."""
    config, variant = results["config"], results["variant"]
    rest = any(config[key] for key in ("use_bias", "use_wv", "use_wo"))
    if rest or (config["n_layers"], results["list_len"], results["n_digits"]) != (2, 2, 100):
        return None
    shape = config["d_model"], config["n_heads"], config["use_ln"], variant["mlp"]
    return FIXED_SET.get(shape)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
