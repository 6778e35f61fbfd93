"""The numbers of one model beside the published ones, group by group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orderscale_jax.analysis.difference import TERMS
from orderscale_jax.analysis.order import EXCHANGES
from orderscale_jax.formatting import MODE_WORDS, NONE, columns, number, percent, scientific
from orderscale_jax.graph import Edge, position_names
from orderscale_jax.model import MODES
from orderscale_jax.report.numbers import MISSING, Number, read_number, shared_noun
from orderscale_jax.report.published import PAPER, Results, published_checkpoints, published_kind

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SOURCES = ("ours", "beside", "checkpoint", "paper")


@dataclasses.dataclass(frozen=True)
class Row:
    """One number: ours, the published checkpoint's, the paper's, and that of another model of ours.

    `MISSING` stands where there is none.
    """

    label: str
    ours: Number
    checkpoint: Number
    paper: Number
    beside: Number = MISSING


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows with a heading; `key` names it in addresses."""

    key: str
    heading: str
    rows: tuple[Row, ...]

    def has(self, source: str) -> bool:
        """Whether any row has a number of this source (a field of `Row`)."""
        return any(getattr(row, source) != MISSING for row in self.rows)

    @property
    def noun(self) -> str:
        """What all shares of ours are shares of (`shared_noun`)."""
        return shared_noun(row.ours.of.noun for row in self.rows if row.ours.of)

    def has_shares(self, source: str) -> bool:
        """Whether any number of this source is a share of something."""
        return any(getattr(row, source).of for row in self.rows)


def number_table(results: Results, beside: Results | None = None) -> list[Group]:
    """Groups of rows; a row without our number, and a group without rows, are left out.

    `beside` is what `tabulate` says of another model of ours, of the same kind.
    """
    kind = published_kind(results)
    theirs, paper = published_checkpoints().get(kind), PAPER.get(kind, {})
    table = []
    for (key, heading), entries in _groups(results["list_len"]).items():
        rows = []
        for label, place, form, *of in entries:
            ours, checkpoint, other = (
                read_number(x, place, form, label, *of) for x in (results, theirs, beside)
            )
            printed = _as_printed(form)(paper[place]) if place in paper else NONE
            of_paper = Number(place, paper[place], printed) if place in paper else MISSING
            if ours != MISSING:
                rows.append(Row(label, ours, checkpoint, of_paper, other))
        if rows:
            table.append(Group(key, heading, tuple(rows)))
    return table


def number_text(results: Results, beside: Results | None = None) -> str:
    """`number_table` for a terminal; `beside` is a model of ours that was trained as published."""
    names = dict(zip(SOURCES, ("ours", "as published", "published checkpoint", "paper"), strict=True))
    groups = number_table(results, beside)
    shown = [source for source in SOURCES if any(group.has(source) for group in groups)]
    rows = [("", *(names[source] for source in shown))]
    for group in groups:
        rows.append((group.heading,))
        rows += [(f"  {row.label}", *(getattr(row, source).text for source in shown)) for row in group.rows]
    return columns(rows)


def edge_changes(entries: Iterable[Mapping[str, Any]]) -> dict[Edge, float]:
    """Change of accuracy by edge, of the `edges` of an ablation."""
    return {Edge(e["layer"], e["query"], e["key"]): e["delta"] for e in entries}


def _as_printed(form: Callable[[Any], str]) -> Callable[[Any], str]:
    """The form for numbers of the paper, which get no digits that were not printed."""
    return (lambda value: percent(value, None)) if form is percent else form


def _groups(n: int) -> dict[tuple[str, str], list[tuple]]:
    """By key and heading (label, place in the results, form, of what it is a share), for lists of n digits.

    The rest of an entry are the last arguments of `read_number`.
    """
    last, sources = f"o{n}", "o1" if n == 2 else f"o1 … o{n - 1}"
    interventions = [("outputs right with mean patterns", "mean_pattern_accuracy", percent, "outputs")]
    moderation = {}
    for mode in MODES:
        how, place = MODE_WORDS[mode], f"ablation.{mode}"
        rest = f"outputs right with all edges that are not critical cut, {how}"
        interventions += [
            (f"critical edges, {how}", f"{place}.critical", lambda critical: str(len(critical)), "edges"),
            (rest, f"{place}.accuracy_without_non_critical", percent, "outputs"),
        ]
        wrong, place = f"{last} wrong", f"moderation_edge_ablation.{mode}"
        of = (f"{place}.{last}_wrong", "wrong answers")
        moderation[f"moderation-{mode}", f"With {last}←{sources} cut in the last layer, {how}"] = [
            ("outputs right", f"{place}.accuracy", percent, "outputs"),
            ("loss, nats", f"{place}.loss", _plain),
            ("o1 wrong, lists", f"{place}.o1_wrong", _count, "lists"),
            (f"{wrong}, lists", f"{place}.{last}_wrong", _count, "lists"),
            (
                f"{wrong} and says what o1 says",
                f"{place}.{last}_equals_o1_pred_given_{last}_wrong",
                percent,
                *of,
            ),
            (f"{wrong} and says d1", f"{place}.{last}_equals_d1_given_{last}_wrong", percent, *of),
            (f"{wrong} and o1 right", f"{place}.o1_correct_given_{last}_wrong", percent, *of),
        ]
    shares = {f"alpha_d{i + 1}": f"α{i + 1}".translate(SUBSCRIPTS) for i in range(n)}
    shares |= {f"beta_{last}_{x.lower()}": f"β of {x}" for x in position_names(n)[n : 2 * n]}
    attention = [
        (f"{label}, {what}", f"sep_attention.{key}_{name}", _plain)
        for key, label in shares.items()
        for what, name in (("mean", "mean"), ("standard deviation", "std"))
    ]
    terms = [(f"term {term.text}", f"logit_difference.terms.{key}", number) for key, term in TERMS.items()]
    plane = "residuals of o1 and o2 on the right side of the plane"
    plane = plane if n == 2 else "residuals on the right side of the plane, worst pair of outputs"
    equations = "closed form: largest difference in {}'s logits (ours in float64)"
    return {
        ("accuracy", "How good it is"): [
            ("outputs right", "val.accuracy", percent, "outputs"),
            *((f"o{i + 1} right", f"val.per_position_accuracy.{i}", percent, "lists") for i in range(n)),
            ("lists entirely right", "val.sequence_accuracy", percent, "lists"),
            ("outputs right on the training lists", "train.accuracy", percent, "training_outputs"),
            ("training lists entirely right", "train.sequence_accuracy", percent, "training_lists"),
            ("loss, nats", "val.loss", _plain),
            ("trainable parameters", "parameters.trainable", _count),
        ],
        ("cuts", "With patterns replaced and edges cut"): interventions,
        **moderation,
        ("exchange", "With α₁ and α₂ exchanged"): [
            ("o1 says d2", "alpha_swap_full_model.o1_is_d2", percent, "different"),
            ("o2 says d1", "alpha_swap_full_model.o2_is_d1", percent, "different"),
            (
                "both: the list comes out reversed",
                "alpha_swap_full_model.both_reversed",
                percent,
                "different",
            ),
            ("o1 says d2, in the equations", "alpha_swap.o1_predicts_d2", percent, "different"),
            ("o1 says d1, in the equations", "alpha_swap.o1_predicts_d1", percent, "different"),
        ],
        ("order", "Both outputs reversed by other weights in SEP"): [
            *(
                (text, f"order.exchange.{name}.reversed", percent, "different")
                for name, text in EXCHANGES.items()
            ),
            (
                "control: random vector, as long as the change by P₁, P₂ exchanged",
                "order.random_vectors.positions.reversed",
                percent,
                "different",
            ),
        ],
        ("attention", "Attention"): [
            (
                "gap between SEP's two scores, lists that come out right",
                "sep_attention.score_gap_mean_correct",
                _plain,
            ),
            (
                "gap between SEP's two scores, lists that come out wrong",
                "sep_attention.score_gap_mean_incorrect",
                _plain,
            ),
            *attention,
            ("the same digit has the larger α in both orders", "order.same_digit_larger", percent, "pairs"),
        ],
        ("difference", "Logit of d2 minus logit of d1, mean"): [
            ("at o1 (l_o1)", "logit_difference.base_l_o1", number),
            *terms,
            ("at o2 (l_o2)", "logit_difference.final", number),
        ],
        ("alpha", "With α replaced in the difference"): [
            ("o2 right, α as it is", "logit_difference.o2_accuracy_alpha_unchanged", percent, "lists"),
            ("o2 right, α₁ = 0, α₂ = 1", "logit_difference.o2_accuracy_alpha1_0_alpha2_1", percent, "lists"),
            ("o2 right, α₁ = 1, α₂ = 0", "logit_difference.o2_accuracy_alpha1_1_alpha2_0", percent, "lists"),
        ],
        ("geometry", "Geometry and closed form"): [
            (plane, "separability.accuracy", percent, "points"),
            ("margin of the plane", "separability.margin", _plain),
            (
                "outputs right from the part in the span of the position vectors",
                "position_span.accuracy",
                percent,
                "outputs",
            ),
            *((equations.format(o), f"circuit.max_abs_diff_{o}", scientific) for o in ("o1", "o2")),
            ("closed form: outputs right", "circuit.reconstructed_accuracy", percent, "outputs"),
        ],
    }


def _plain(value: float) -> str:
    return number(value, 4)


def _count(value: int) -> str:
    return f"{value:,}"
