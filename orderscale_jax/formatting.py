"""Numbers in words: one form for each kind of number, in pages, pictures and tables alike."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from orderscale_jax.graph import Edge, Graph

NONE = "–"
NO_BREAK = "\u00a0"  # space
# What becomes of a row of attention in which an edge is cut, by mode of ablation.
MODE_WORDS = {
    "renormalize": "row rescaled",
    "zero": "row left as it was",
    "mean": "mean message in its place",
    "resample": "another list's message in its place",
}


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a real minus sign, and never a negative zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def number(value: float | None, digits: int = 2) -> str:
    """A number with a real minus; None and NaN are a dash, as everywhere here."""
    return NONE if _is_missing(value) else signed(value, digits).removeprefix("+")


def significant(value: float | None, digits: int = 4) -> str:
    """A number of any size to so many digits: `0.9145`, `1.526e-05`."""
    return NONE if _is_missing(value) else f"{value:.{digits}g}"


def scientific(value: float | None) -> str:
    """A very small number: `1.5e−05`."""
    return NONE if _is_missing(value) else f"{value:.1e}".replace("-", "−")


def percent(fraction: float | None, digits: int | None = 2) -> str:
    """A measured fraction as `91.40 %`; with None for `digits` as few as it needs, for one that was given."""
    if _is_missing(fraction):
        return NONE
    text = f"{100 * fraction:.{2 if digits is None else digits}f}"
    text = text.rstrip("0").rstrip(".") if digits is None else text
    return f"{text}{NO_BREAK}%"


def points(fraction: float | None, digits: int = 2) -> str:
    """A difference of fractions in percentage points, `−41.50`."""
    return NONE if _is_missing(fraction) else signed(100 * fraction, digits)


def points_of(fraction: float) -> str:
    """A given difference of fractions with its unit, `1 point`, `0.5 points`."""
    amount = f"{100 * fraction:g}"
    return f"{amount} point{'' if amount == '1' else 's'}"


def p_value(value: float) -> str:
    """`0.25`, `1.5e−05`."""
    return significant(value, 2).replace("-", "−")


def part(fraction: Fraction) -> str:
    """`half`, `two thirds`, `a tenth`; any other as `3/7`."""
    words = {Fraction(1, 2): "half", Fraction(2, 3): "two thirds", Fraction(1, 10): "a tenth"}
    return words.get(fraction, str(fraction))


def edge_label(graph: Graph, edge: Edge) -> str:
    """`L0 SEP←d1`, which no line break tears apart."""
    return graph.label(edge).replace("<-", "←").replace(" ", NO_BREAK)


def count(amount: int, noun: str) -> str:
    """`1 edge`, `2 edges`, `8,000 lists`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def duration(seconds: float) -> str:
    """`90 s`, `5 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def enumerate_words(parts: Sequence[str], joint: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *front, last = parts
    return f"{', '.join(front)} {joint} {last}" if front else last


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of plain text: the first column on the left, the others on the right.

    A row may be shorter than others.
    """
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = (
        row[0].ljust(widths[0])
        + "".join(f"  {cell.rjust(width)}" for cell, width in zip(row[1:], widths[1:], strict=False))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _is_missing(value: float | None) -> bool:
    return value is None or value != value
