"""What a report says beyond the study, in the same form: published numbers, claims and the training run.

Added to the results of `tabulate`:

    denominators   what shares are shares of, by name
    paper          `results`: the paper's numbers, in the form of `tabulate`; `figure_1`: its labels by edge
    published      `checkpoint`: the name of the published checkpoint of this architecture; `results`: its
                   numbers; `by_this_library`, `derived`: how the places of those begin that its authors'
                   code did not compute; `grid`, `recipe`, `fixed_set`: runs of this architecture
    claims         each claim with its rule, and for `ours` and `published` the verdict, its reason where
                   nothing was measured, and the numbers that the rule looks at
    verdicts       how many of the paper's claims got which verdict, of `ours` and `published`
    history        the validations of the training run, a curve per attempt
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orderscale_jax.figures import Curve
from orderscale_jax.files import plain
from orderscale_jax.report.claims import Claim, Judgement, count_verdicts, judge_claims
from orderscale_jax.report.numbers import denominators
from orderscale_jax.report.published import (
    BY_THIS_LIBRARY,
    CHECKPOINT_NAMES,
    DERIVED,
    PAPER,
    PAPER_FIGURE_1,
    Results,
    check_results,
    published_checkpoints,
    published_fixed_set,
    published_grid,
    published_kind,
    recipe_grid,
)


def complete(results: Results, history: Sequence[Curve] = ()) -> dict[str, Any]:
    """The results of `tabulate` and all else that a report says of the model."""
    check_results("results", results)
    kind = published_kind(results)
    theirs = published_checkpoints()[kind] if kind else None
    claims = judge_claims({kind: results}, {kind: theirs}) if kind else []
    curves = [vars(curve) for curve in history]
    return dict(results) | plain(
        {
            "denominators": denominators(results),
            "paper": {"results": _nested(PAPER.get(kind, {})), "figure_1": _labels(kind)},
            "published": {
                "checkpoint": CHECKPOINT_NAMES.get(kind),
                "results": theirs | {"denominators": denominators(theirs)} if theirs else None,
                "by_this_library": BY_THIS_LIBRARY,
                "derived": DERIVED,
                "grid": published_grid(results),
                "recipe": recipe_grid(results),
                "fixed_set": published_fixed_set(results),
            },
            "claims": [_claim(claim) for claim in claims],
            "verdicts": {source: count_verdicts(claims, source) for source in ("ours", "published")},
            "history": curves,
        }
    )


def _nested(numbers: dict[str, float]) -> dict[str, Any]:
    """Numbers by place as dictionaries in dictionaries."""
    out: dict[str, Any] = {}
    for place, value in numbers.items():
        *path, last = place.split(".")
        inner = out
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return out


def _labels(kind: str | None) -> list[dict[str, Any]]:
    labels = PAPER_FIGURE_1.get(kind, {})
    return [{**edge._asdict(), "delta": label} for edge, label in labels.items()]


def _claim(claim: Claim) -> dict[str, Any]:
    rule = claim.rule
    names = ("key", "title", "statement", "by", "paper", "rule")
    return {name: getattr(rule, name) for name in names} | {
        "ours": _judgement(claim.ours),
        "published": _judgement(claim.published),
    }


def _judgement(judged: Judgement | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    numbers = [
        {"label": x.label, "place": x.place, "value": x.value, "text": x.text}
        | ({"of": vars(x.of)} if x.of else {})
        for x in judged.numbers
    ]
    return {"verdict": judged.verdict, "reason": judged.reason, "numbers": numbers}
