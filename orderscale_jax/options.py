"""Options as dataclasses: their meaning stands in the docstring, their type in the annotation, once."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
import re
from typing import Any

import numpy as np

from orderscale_jax.errors import UserError

SMALLEST, LARGEST = 1.2e-38, 3.4e38  # of a normal float32
MOST = 2**63  # no whole number reaches it
_KINDS = {  # annotation without `| None`: (what it is called, what fits)
    "int": ("a whole number", numbers.Integral),
    "float": ("a number", numbers.Real),
    "bool": ("true or false", bool),
    "str": ("a word", str),
    "tuple": ("a tuple", tuple | list),
}


def check_types(options: Any, group: str):
    """UserError if a field of the dataclass `options` holds another type than its annotation says."""
    for field in dataclasses.fields(options):
        value, (kind, _, optional) = getattr(options, field.name), field.type.partition(" | ")
        if optional and value is None:
            continue
        name, fitting = _KINDS[kind]
        if not isinstance(value, fitting) or (isinstance(value, bool) and kind != "bool"):
            raise UserError(
                f"{group}.{field.name} must be {name}{' or None' * bool(optional)}, got {shown(value)}"
            )
        if isinstance(value, np.generic):  # whose arithmetic overflows
            object.__setattr__(options, field.name, value.item())
        if kind == "float" and not is_float32(value):
            raise UserError(f"{group}.{field.name} must be a finite number of 32 bits, got {shown(value)}")
        if kind == "int" and not -MOST <= value < MOST:
            raise UserError(f"{group}.{field.name} must be a whole number of 64 bits, got {shown(value)}")


def shown(value: Any) -> str:
    """A wrong value on one short line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:79]}…"


def is_float32(value: float) -> bool:
    """Whether a number is finite as a float32, and not zero there unless it is zero."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def check_values(options: Any, group: str, least: dict[str, int], choices: dict[str, tuple[str, ...]]):
    """UserError if a field is below its least value, or is a word that is none of its choices."""
    for name, limit in least.items():
        if (value := getattr(options, name)) < limit:
            raise UserError(f"{group}.{name} must be at least {limit}, got {value}")
    for name, words in choices.items():
        if (value := getattr(options, name)) not in words:
            raise UserError(f"{group}.{name} must be one of {', '.join(words)}; got {shown(value)}")


def meanings(cls: type) -> dict[str, str]:
    """What each option of a dataclass means, from the section `Attributes` of its docstring, on one line."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found = {}
    for entry in re.split(r"^  (?=\w)", section, flags=re.MULTILINE)[1:]:
        names, _, text = entry.partition(": ")
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
