"""The numbers of one model beside the published checkpoint's and the paper's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orderscale_jax.formatting import NONE, number, percent
from orderscale_jax.report import published
from orderscale_jax.report.statements import TERMS

Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One number as text: ours, the published checkpoint's and the paper's (`–` where there is none)."""

    label: str
    ours: str
    checkpoint: str
    paper: str


def number_table(results: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """Groups of rows, each with a heading; what `results` does not have is left out."""
    kind = published.kind(results)
    theirs = published.checkpoints().get(kind)
    paper = published.PAPER.get(kind, {})
    table = []
    for heading, entries in _groups(results["list_len"]):
        rows = []
        for label, path, form in entries:
            ours = published.lookup(results, path)
            if ours is not None or published.lookup(results, path[:1]) is not None:
                texts = (form(x) for x in (ours, published.lookup(theirs, path), paper.get(path)))
                rows.append(Row(label, *texts))
        if rows:
            table.append((heading, rows))
    return table


def number_text(results: Mapping[str, Any]) -> str:
    """`number_table` for a terminal."""
    rows = [("", "ours", "published checkpoint", "paper")]
    for heading, group in number_table(results):
        rows.append((heading, "", "", ""))
        rows += [(f"  {row.label}", row.ours, row.checkpoint, row.paper) for row in group]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    first, *rest = widths
    lines = (
        row[0].ljust(first)
        + "".join(f"  {cell.rjust(width)}" for cell, width in zip(row[1:], rest, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _groups(n: int) -> list[tuple[str, list[tuple[str, Path, Any]]]]:
    """Headings with (label, place in `results`, form), for lists of n digits."""
    answers = [
        ("outputs right", ("val", "accuracy"), percent),
        *((f"o{i + 1} right", ("val", "per_position_accuracy", i), percent) for i in range(n)),
        ("lists entirely right", ("val", "sequence_accuracy"), percent),
        ("loss, nats", ("val", "loss"), _plain),
        ("trained parameters", ("parameters", "trainable"), _count),
    ]
    interventions = [("outputs right with mean patterns", ("mean_pattern_accuracy",), percent)]
    moderation = []
    last, sources = f"o{n}", "o1" if n == 2 else f"o1 … o{n - 1}"
    for mode, how in (("renormalize", "row rescaled"), ("zero", "row as it was")):
        place = ("ablation", mode)
        interventions += [
            (f"critical edges, {how}", (*place, "critical"), _length),
            (f"outputs right, all others cut, {how}", (*place, "accuracy_without_non_critical"), percent),
        ]
        place = ("moderation_edge_ablation", mode)
        entries = [
            ("outputs right", (*place, "accuracy"), percent),
            ("loss, nats", (*place, "loss"), _plain),
            ("o1 wrong", (*place, "o1_wrong"), _count),
            (f"{last} wrong", (*place, f"{last}_wrong"), _count),
            (
                f"{last} wrong, says what o1 says",
                (*place, f"{last}_equals_o1_pred_given_{last}_wrong"),
                percent,
            ),
            (f"{last} wrong, says d1", (*place, f"{last}_equals_d1_given_{last}_wrong"), percent),
            (f"{last} wrong, o1 right", (*place, f"o1_correct_given_{last}_wrong"), percent),
        ]
        moderation.append((f"With {last}←{sources} cut in the last layer, {how}", entries))
    swap = [
        ("o1 says d2", ("alpha_swap_full_model", "o1_is_d2"), percent),
        ("o2 says d1", ("alpha_swap_full_model", "o2_is_d1"), percent),
        ("both", ("alpha_swap_full_model", "both_reversed"), percent),
        ("o1 says d2, in the equations", ("alpha_swap", "o1_predicts_d2"), percent),
        ("o1 says d1, in the equations", ("alpha_swap", "o1_predicts_d1"), percent),
    ]
    attention = [
        ("gap of SEP's scores, right lists", ("sep_attention", "score_gap_mean_correct"), _plain),
        ("gap of SEP's scores, wrong lists", ("sep_attention", "score_gap_mean_incorrect"), _plain),
    ]
    shares = [(f"α{i + 1}", f"alpha_d{i + 1}") for i in range(n)] + [
        (f"β of {source}", f"beta_o{n}_{source.lower()}")
        for source in ("SEP", *(f"o{i}" for i in range(1, n)))
    ]
    for label, key in shares:
        attention += [
            (f"{label}, {what}", ("sep_attention", f"{key}_{name}"), _plain)
            for what, name in (("mean", "mean"), ("standard deviation", "std"))
        ]
    difference = [
        ("in l_o1", ("logit_difference", "base_l_o1"), number),
        *((name, ("logit_difference", "terms", key), number) for key, name in TERMS.items()),
        ("in l_o2", ("logit_difference", "final"), number),
    ]
    alpha = [
        ("o2 right, α as it is", ("logit_difference", "o2_accuracy_alpha_unchanged"), percent),
        ("o2 right, α₁ = 0, α₂ = 1", ("logit_difference", "o2_accuracy_alpha1_0_alpha2_1"), percent),
        ("o2 right, α₁ = 1, α₂ = 0", ("logit_difference", "o2_accuracy_alpha1_1_alpha2_0"), percent),
    ]
    geometry = [
        ("o1, o2: points on the right side of the plane", ("separability", "accuracy"), percent)
        if n == 2
        else ("outputs on the right side of the plane, worst pair", ("separability", "accuracy"), percent),
        ("margin of the plane", ("separability", "margin"), _plain),
        ("outputs right from the span of the positions", ("position_span", "accuracy"), percent),
        (
            "closed form: largest difference in o1's logits (ours in float64)",
            ("circuit", "max_abs_diff_o1"),
            _tiny,
        ),
        (
            "closed form: largest difference in o2's logits (ours in float64)",
            ("circuit", "max_abs_diff_o2"),
            _tiny,
        ),
        ("closed form: outputs right", ("circuit", "reconstructed_accuracy"), percent),
    ]
    return [
        ("How good it is", answers),
        ("With patterns replaced and edges cut", interventions),
        *moderation,
        ("With α₁ and α₂ exchanged", swap),
        ("Attention", attention),
        ("Logit of d2 minus logit of d1", difference),
        ("With α replaced in the difference", alpha),
        ("Geometry", geometry),
    ]


def _plain(value: float | None) -> str:
    return number(value, 4)


def _tiny(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _length(value: list | None) -> str:
    return NONE if value is None else str(len(value))
