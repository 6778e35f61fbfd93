"""Numbers in words: one form for each kind of number, in pages and tables alike."""

from __future__ import annotations

from collections.abc import Sequence

from orderscale_jax.graph import Edge, Graph

NONE = "–"
NO_BREAK = "\u00a0"  # space


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a real minus sign, and never a negative zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def percent(fraction: float | None) -> str:
    """A fraction as `91.45 %`, with no more digits than it needs."""
    if fraction is None:
        return NONE
    text = f"{100 * fraction:.2f}"
    return f"{text.rstrip('0').rstrip('.')}{NO_BREAK}%"


def points(fraction: float | None, digits: int = 1) -> str:
    """A difference of fractions in percentage points, `−41.5`."""
    return NONE if fraction is None else signed(100 * fraction, digits)


def edge_label(graph: Graph, edge: Edge) -> str:
    """`L0 SEP←d1`, which no line break tears apart."""
    return graph.label(edge).replace("<-", "←").replace(" ", NO_BREAK)


def number(value: float | None, digits: int = 2) -> str:
    """A signed number, with a real minus."""
    return NONE if value is None else signed(value, digits).removeprefix("+")


def count(amount: int, noun: str) -> str:
    """`1 edge`, `2 edges`, `8,000 lists`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def enumerate_words(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *front, last = parts
    return f"{', '.join(front)} and {last}" if front else last
