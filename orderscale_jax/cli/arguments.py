"""The flags of a command: from what `define` is told the command line is read and `--help` is written."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from absl import flags

from orderscale_jax.errors import UserError
from orderscale_jax.overrides import overrides_text, parse_overrides

WIDTH = 80  # columns of --help


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _path(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


KINDS = {  # as options are annotated, and "path": (from text, what fits)
    "int": (int, "a whole number"),
    "float": (_finite, "a number"),
    "path": (_path, "a path"),
    "bool": (flags.BooleanParser().parse, "true or false"),
    "str": (str, "a word"),
    "tuple": (parse_overrides, "PATTERN FIELD VALUE, with semicolons between several"),
}
_defined: dict[str, list[tuple[flags.FlagHolder, str]]] = {}  # by heading: flag, its default in words


class _Parser(flags.ArgumentParser):
    """Turns the text of a flag into its value, or says what was expected."""

    def __init__(self, kind: str, least: float | None = None):
        kind, _, self.optional = kind.partition(" | ")
        self.convert, self.expected = KINDS[kind]
        self.least = least

    def parse(self, argument: str) -> Any:
        if self.optional and argument.lower() == "none":
            return None
        try:
            value = self.convert(argument)
        except ValueError:
            raise ValueError(f"expected {self.expected}{' or none' * bool(self.optional)}") from None
        if self.least is not None and value < self.least:
            raise ValueError(f"expected {self.least} or more")
        return value


def define(
    name: str,
    kind: str,
    default: Any,
    meaning: str,
    *,
    least: float | None = None,
    shown: str | None = None,
    heading: str = "Flags",
) -> flags.FlagHolder:
    """A flag of absl; all its errors say what was expected.

    Args:
      name: without dashes.
      kind: a key of KINDS, with ` | None` if `none` may be given.
      default: of that kind, or None.
      meaning: for --help.
      least: the smallest number that may be given.
      shown: the default as --help tells it, or an example.
      heading: under which --help tells it.
    """
    flag = flags.Flag(
        _Parser(kind, least), flags.ArgumentSerializer(), name, None, meaning, boolean=kind == "bool"
    )
    holder = flags.DEFINE_flag(flag)
    flags.set_default(holder, default)
    _defined.setdefault(heading, []).append((holder, in_words(default) if shown is None else shown))
    return holder


def required(holder: flags.FlagHolder) -> Any:
    """The value of a flag that must be given.

    Raises:
      UserError: it was not, or is empty.
    """
    if holder.value is None or not holder.value.strip():
        meaning, empty = flags.FLAGS[holder.name].help, "" if holder.value is None else ", and it is empty"
        raise UserError(f"--{holder.name} is required{empty}: {meaning[0].lower()}{meaning[1:].rstrip('.')}")
    return holder.value


def names() -> list[str]:
    """The names of all flags of the command."""
    return [holder.name for group in _defined.values() for holder, _ in group]


def help_text(name: str, docstring: str | None) -> str:
    """What the command does, and its flags, for a terminal of 80 columns."""
    parts = [name, (docstring or "").strip()]
    for heading, group in _defined.items():
        parts.append("\n".join(wrap(f"{heading}:", "")))
        parts += ["\n".join([f"  --{holder.name}={shown}", *_meaning(holder)]) for holder, shown in group]
    parts.append("--verbosity=1 shows where an error of one sentence came from.")
    return "\n\n".join(parts)


def wrap(text: str, indent: str) -> list[str]:
    """The text in lines of at most 80 columns."""
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def in_words(value: Any) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, tuple):
        return overrides_text(value) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _meaning(holder: flags.FlagHolder) -> list[str]:
    return wrap(flags.FLAGS[holder.name].help, 6 * " ")
