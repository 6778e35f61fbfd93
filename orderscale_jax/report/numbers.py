"""A number of the page: what it is, its place in `results.json`, its text, and of what it is a share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orderscale_jax.formatting import NONE
from orderscale_jax.report.published import Results

NOUNS = {  # of what a share can be, by name in `denominators`
    "outputs": "outputs",
    "lists": "lists",
    "training_outputs": "training outputs",
    "training_lists": "training lists",
    "different": "lists of two different digits",
    "pairs": "pairs of digits",
    "points": "residuals",
    "edges": "edges",
}


@dataclasses.dataclass(frozen=True)
class Whole:
    """What a share is a share of: an amount, its place in the results, and a noun in the plural."""

    place: str
    amount: int
    noun: str


@dataclasses.dataclass(frozen=True)
class Number:
    """One number.

    Attributes:
      place: in the results; what `lookup` takes.
      value: as it stands there.
      text: as it is written.
      label: what it is; may be empty.
      of: what it is a share of, if it is one.
    """

    place: str
    value: Any
    text: str
    label: str = ""
    of: Whole | None = None


MISSING = Number("", None, NONE)


def read_number(
    results: Results | None,
    place: str,
    form: Callable[[Any], str],
    label: str = "",
    of: str = "",
    noun: str = "",
) -> Number:
    """The number at a place, or `MISSING`.

    `of` is a name of `denominators`, or the place of another number, which are so many of `noun`.
    """
    if (value := lookup(results, place)) is None:
        return MISSING
    whole = None
    if of in NOUNS:
        wholes = results.get("denominators") or denominators(results)
        amount, whole_place, noun = wholes.get(of), f"denominators.{of}", NOUNS[of]
    else:
        amount, whole_place = lookup(results, of) if of else None, of
    if amount is not None:
        whole = Whole(whole_place, amount, noun)
    return Number(place, value, form(value), label, whole)


def shared_noun(nouns: Iterable[str]) -> str:
    """What all shares, if there are several, are shares of; empty if that differs."""
    first, *others = [noun for noun in nouns if noun] or [""]
    return first if others and set(others) == {first} else ""


def denominators(results: Results) -> dict[str, int]:
    """What shares are shares of, by the names of `NOUNS`; what the results do not tell is left out."""
    n, lists, digits = results["list_len"], results["n_val_used"], results["n_digits"]
    training = lookup(results, "train.n_lists")
    places = ("alpha_swap_full_model.n_lists", "order.n_lists", "logit_difference.n_examples")
    found = {
        "outputs": n * lists,
        "lists": lists,
        "training_outputs": None if training is None else n * training,
        "training_lists": training,
        "different": next((x for x in (lookup(results, place) for place in places) if x is not None), None),
        "pairs": digits * (digits - 1) // 2,
        "points": 2 * lists,
        "edges": len(lookup(results, "ablation.zero.edges")),
    }
    return {name: amount for name, amount in found.items() if amount is not None}


def lookup(results: Results | None, place: str) -> Any:
    """What `results` holds at a place such as `val.accuracy`; None where something on the way is missing."""
    value: Any = results
    for key in place.split("."):
        if value is None:
            return None
        value = value.get(key) if isinstance(value, Mapping) else value[int(key)]
    return value
