"""How the results of analyses look when they are printed: numbers as numbers, arrays by their shape."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from typing import Any

import numpy as np

from orderscale_jax.formatting import percent, significant

WIDTH = 100
MOST_SHOWN = 6  # entries of an array, a tuple or a dictionary that are shown one by one


class Printable:
    """Base of what an analysis returns: a short `repr`, and a `table` for people."""

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={_brief(value)}" for name, value in self._facts().items())
        text = f"{type(self).__name__}({facts})"
        return textwrap.fill(
            text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )

    def table(self) -> str:
        """The result as plain text, a number or an array in each line."""
        facts = self._facts()
        width = max(map(len, facts))
        return "\n".join(f"{name:{width}}  {_summary(value)}" for name, value in facts.items())

    def _facts(self) -> dict[str, Any]:
        """The fields, and of the properties those that are a number."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, _ in inspect.getmembers(type(self), lambda member: isinstance(member, property)):
            if isinstance(value := getattr(self, name), (int, float)):
                found[name] = value
        return found


def _brief(value: Any) -> str:
    """A few characters for a value of any kind."""
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, float):
        return significant(value)
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (tuple, list, dict)):
        entries = list(value.values() if isinstance(value, dict) else value)
        kinds = {type(entry).__name__ for entry in entries}
        if isinstance(value, dict) and len(entries) <= MOST_SHOWN and "str" not in kinds:
            return "{" + ", ".join(f"{key}: {_brief(entry)}" for key, entry in value.items()) + "}"
        return f"{len(entries)} x {kinds.pop()}" if len(kinds) == 1 else f"{len(entries)} entries"
    return type(value).__name__


def _summary(value: Any) -> str:
    """A line for a value of any kind; of an array its shape, its mean and its ends."""
    if not hasattr(value, "dtype"):
        return _brief(value)
    array = np.asarray(value)
    if array.ndim == 1 and array.size <= MOST_SHOWN and array.dtype != bool:
        return "[" + ", ".join(map(significant, array.tolist())) + "]"
    known = array[np.isfinite(array)]
    if not known.size:
        return _brief(value)
    if array.dtype == bool:
        return f"{_brief(value)}, true in {percent(array.mean())}"
    mean, low, high = (significant(float(x)) for x in (known.mean(dtype=float), known.min(), known.max()))
    return f"{_brief(value)}, mean {mean}, {low} to {high}"
