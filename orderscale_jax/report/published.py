"""Published numbers to stand beside ours, and where each comes from.

Three sources, which do not always agree:

- The paper: its text and the labels of its Figure 1 (which were typed in by hand).
- The two published checkpoints, evaluated by the code published with them (version 0.2.0, PyTorch on
  CPU) on the validation split: `published_checkpoints.json`, in the form of `results`. What that code
  does not compute (`parameters`, `wrong_lists`, `position_span`) is this library's on the same weights,
  and what follows from it (alpha_2 = 1 - alpha_1, beta_o1 = 1 - beta_s) is filled in.
- The authors' grids of runs, lists drawn on the fly: `published_grids.csv`, a line per architecture.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

DEFAULT_SHAPE = {"d_model": 64, "n_heads": 1, "d_vocab": 102, "list_len": 2, "attn_only": True}
VARIANTS = ("use_ln", "use_bias", "use_wv", "use_wo")
KINDS = {2: "two_layer", 3: "three_layer"}
CHECKPOINT_NAMES = {"two_layer": "2layer_100dig_64d", "three_layer": "3layer_100dig_64d"}

# By place in `results`. The text's accuracy, mean-pattern accuracy and parameter counts; section 4's
# intervention on alpha, with alpha_1 and alpha_2 as printed.
PAPER: dict[str, dict[tuple[str, ...], float]] = {
    "two_layer": {
        ("val", "accuracy"): 0.922,
        ("mean_pattern_accuracy",): 0.45,
        ("parameters", "trainable"): 92_288,
        ("logit_difference", "o2_accuracy_alpha_unchanged"): 0.839,
        ("logit_difference", "o2_accuracy_alpha1_0_alpha2_1"): 0.9945,
    },
    "three_layer": {("val", "accuracy"): 1.0, ("parameters", "trainable"): 125_056},
}

PAPER_MODE = "zero"  # of ablation, in Figure 1

# Change of accuracy by (layer, query, key): the labels in Figure 1.
PAPER_FIGURE_1: dict[str, dict[tuple[int, int, int], float]] = {
    "two_layer": {
        (0, 2, 0): -0.509,
        (0, 2, 1): -0.410,
        (1, 3, 2): -0.489,
        (1, 4, 2): -0.500,
        (1, 4, 3): -0.230,
    },
    "three_layer": {
        (0, 2, 0): -0.040,
        (0, 2, 1): -0.495,
        (1, 2, 0): -0.496,
        (1, 4, 2): -0.496,
        (2, 3, 2): -0.497,
    },
}


def kind(results: Mapping[str, Any]) -> str | None:
    """`two_layer` or `three_layer` if a published checkpoint has the same architecture, else None."""
    config = results["config"]
    same = all(config[key] == value for key, value in DEFAULT_SHAPE.items())
    return KINDS.get(config["n_layers"]) if same and not any(config[key] for key in VARIANTS) else None


@functools.cache
def checkpoints() -> dict[str, dict[str, Any]]:
    """Results of the published checkpoints, `two_layer` and `three_layer`."""
    return json.loads(_resource("published_checkpoints.json"))


def grid(results: Mapping[str, Any]) -> dict[str, float] | None:
    """The authors' runs of this very architecture: counts and accuracies, or None if there are none."""
    config = results["config"]
    variant = results["variant"]
    if variant["mlp"] or config["n_heads"] != 1:
        return None
    shape = {key: config[key] for key in ("list_len", "n_layers", "n_heads", "d_model")}
    shape |= {"n_digits": results["n_digits"], "layer_norm": config["use_ln"], "bias": config["use_bias"]}
    shape |= {"learn_wv": config["use_wv"], "learn_wo": config["use_wo"]}
    for line in csv.DictReader(_resource("published_grids.csv").splitlines()):
        if all(int(line[key]) == int(value) for key, value in shape.items()):
            return {key: float(line[key]) for key in line if key not in shape}
    return None


def lookup(results: Mapping[str, Any] | None, path: tuple[str | int, ...]) -> Any:
    """What `results` holds at `path`; None where a key on the way is missing."""
    value: Any = results
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
