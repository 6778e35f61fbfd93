"""The cells of a sweep in words: `paired split, batch 128, last W_QK as drawn`."""

from __future__ import annotations

import math
import numbers
import re
import textwrap
from typing import Any

from orderscale_jax.formatting import NO_BREAK, percent
from orderscale_jax.overrides import parse_overrides

NAMES = {
    "n_layers": "layers",
    "n_heads": "heads",
    "d_model": "width",
    "list_len": "list length",
    "n_digits": "digits",
    "layer_norm": "LayerNorm",
    "bias": "biases",
    "learn_wv": "W_V",
    "learn_wo": "W_O",
    "batch_size": "batch",
    "train_fraction": "train share",
    "paired_share": "paired share",
    "learning_rate": "rate",
    "weight_decay": "decay",
    "gradient_noise": "noise",
    "max_steps": "steps",
    "initial_scale": "initial scale",
    "scores_value": "scores by",
    "scores_until": "scores until step",
}
WORDS = ("batches", "duplicates", "schedule", "frozen_heads")  # values that say themselves what they are
QUIET = {"overrides": "", "scores": "free", "scores_value": 0.0, "scores_until": None}  # say nothing
BLOCKS = {"-1": "last", "0": "first"}


def words(values: dict[str, Any]) -> str:
    """The fields of a cell as a label: `sampled, batch 2,048, no LayerNorm`; empty only without fields.

    Values of `QUIET` are left out, and `split` and `scores` take what belongs to them along.
    """
    said = {field: value for field, value in values.items() if QUIET.get(field, NotImplemented) != value}
    taken = {"paired_share"} if "split" in said else set()
    taken |= {"scores_value", "scores_until"} if "scores" in said else set()
    parts = []
    for field, value in said.items():
        name = NAMES.get(field, field)
        if field in taken:
            continue
        if isinstance(value, bool):
            parts.append(name if value else f"no {name}")
        elif field == "split":
            share = said.get("paired_share", 1.0)
            parts.append(f"{percent(share, None)} " * (share != 1) + f"{value.replace('_', '-')} split")
        elif field == "scores":
            more = (("by", said.get("scores_value")), ("until step", said.get("scores_until")))
            parts.append(f"scores {value}" + "".join(f" {w} {entry(v)}" for w, v in more if v is not None))
        elif field == "overrides":
            parts.append(overrides_words(value))
        else:
            parts.append(value if field in WORDS else f"{name} {entry(value)}")
    return ", ".join(parts) or "unchanged" * bool(values)


def value_words(field: str, value: Any) -> str:
    """A value where its field is named beside it, as on an axis."""
    if value == QUIET.get(field, NotImplemented):
        return "none" if value in ("", None) else entry(value)
    return overrides_words(value) if field == "overrides" else entry(value)


def overrides_words(text: str) -> str:
    """`TrainConfig.overrides`, a text, in words: `last W_QK as drawn`; what is no such text as it is."""
    try:
        overrides = parse_overrides(text)
    except ValueError:
        return text
    patterns: dict[str, dict[str, float]] = {}
    for pattern, field, value in overrides:
        patterns.setdefault(pattern, {})[field] = value
    return ", ".join(_override(_arrays(pattern), fields) for pattern, fields in patterns.items())


def _override(arrays: str, fields: dict[str, float]) -> str:
    """What is changed for some arrays, and which."""
    fields, after = dict(fields), ""
    if fields.get("learning_rate") == fields.get("weight_decay") == 0:
        del fields["learning_rate"], fields["weight_decay"]
        after = " as drawn"
    for field, word in (("first_step", "from"), ("last_step", "until")):
        if field in fields:
            after += f" {word} step {entry(fields.pop(field))}"
    changes = " and ".join(f"{NAMES.get(field, field)} {entry(value)}" for field, value in fields.items())
    if not after:
        return f"{changes} on {arrays}"
    return arrays + after + f" with {changes}" * bool(changes)


def _arrays(pattern: str) -> str:
    """A pattern of array names in words, as it is where there are none."""
    if match := re.fullmatch(r"blocks\.(-?\d+)\.attn\.W_\[?([A-Z]+)\]?", pattern):
        block, letters = match.groups()
        return f"{BLOCKS.get(block, f'block {block}')} W_{letters}"
    if match := re.fullmatch(r"\(?([\w.|]+?)\)?\.?\.\*", pattern):
        return match.group(1).replace("|", " + ")
    return "all arrays" if pattern == ".*" else pattern


def entry(value: Any) -> str:
    """A value as short as it can be: `yes`, `none`, `2,048`, `−4`, `0.01`, `1e-4`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, numbers.Real):
        return "none" if value is None else str(value)
    size = abs(value)
    if float(size).is_integer() and size < 1e9:
        text = f"{int(size):,}"
    elif 1e-3 <= size < 1e6 or not math.isfinite(size):
        text = f"{size:g}"
    else:
        mantissa, exponent = f"{size:e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return "−" * (value < 0) + text


def wrap(label: str, width: int) -> str:
    """A label in lines of at most so many characters, torn at commas where its parts are short enough."""
    parts = [part.replace(" ", NO_BREAK) if len(part) <= width else part for part in label.split(", ")]
    return textwrap.fill(", ".join(parts), width, break_on_hyphens=False).replace(NO_BREAK, " ")
