"""`TrainConfig.overrides` as one text, as it is on the command line and in the tables of sweeps."""

from __future__ import annotations


def overrides_text(overrides: tuple[tuple[str, str, float], ...]) -> str:
    """`TrainConfig.overrides` as one text: `PATTERN FIELD VALUE` with semicolons between."""
    exact = ((pattern, field, repr(value).removesuffix(".0")) for pattern, field, value in overrides)
    return "; ".join(map(" ".join, exact))


def parse_overrides(text: str) -> tuple[tuple[str, str, float], ...]:
    """The inverse of `overrides_text`; `none` is none.

    Raises:
      ValueError: it is not of this form.
    """
    entries = [entry.split() for entry in text.split(";") if entry.strip() not in ("", "none")]
    return tuple((pattern, field, float(value)) for pattern, field, value in entries)
