"""What the paper claims, and whether it holds: a rule for each claim, applied to numbers.

The same rules (`rules.py`) judge the published checkpoints and our models.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.formatting import NONE, enumerate_words
from orderscale_jax.report.measures import UNKNOWN, VERDICTS, NotMeasured, check_learnt
from orderscale_jax.report.numbers import Number
from orderscale_jax.report.published import Results, check_results
from orderscale_jax.report.rules import HERE, Rule, rules

MODELS = {"two_layer": "two layers", "three_layer": "three layers"}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What was measured of one model, and the verdict on it.

    Attributes:
      verdict: `holds`, `holds only partly`, `does not hold` or `not measured`.
      numbers: all that the rule looks at.
      reason: why it was not measured; else empty.
    """

    verdict: str
    numbers: tuple[Number, ...] = ()
    reason: str = ""

    @property
    def text(self) -> str:
        said = (f"{number.label}: {number.text}" for number in self.numbers)
        return "; ".join(said) or self.reason or NONE


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim beside what was measured.

    Attributes:
      model: `two_layer` or `three_layer`, which model it is about.
      rule: what is claimed, by whom, and how the verdict follows from the numbers.
      ours, published: our model, and the published checkpoint; None if it was not given.
    """

    model: str
    rule: Rule
    ours: Judgement | None
    published: Judgement | None


def judge_claims(ours: Mapping[str, Results], published: Mapping[str, Results] | None = None) -> list[Claim]:
    """Judges every claim about the models that are given.

    Args:
      ours: what `tabulate` says of our models, by `two_layer` and `three_layer`, either or both.
      published: the same of the published checkpoints.
    """
    published = {} if published is None else published
    for name, models in (("ours", ours), ("published", published)):
        check_kind(name, models, Mapping)
        for model, results in models.items():
            if model not in MODELS:
                raise UserError(f"{name} must be by {' and '.join(MODELS)}, got {model!r}")
            check_results(f"{name}[{model!r}]", results)
    return [
        Claim(model, rule, _judge(rule, ours.get(model)), _judge(rule, published.get(model)))
        for model in MODELS
        if model in ours or model in published
        for rule in rules(model)
    ]


def count_verdicts(claims: Iterable[Claim], source: str) -> dict[str, int]:
    """How many of the paper's claims got each verdict, of `ours` or `published`; no entry for none."""
    found = [getattr(claim, source) for claim in claims if claim.rule.by != HERE]
    counts = {verdict: sum(of is not None and of.verdict == verdict for of in found) for verdict in VERDICTS}
    return {verdict: amount for verdict, amount in counts.items() if amount}


def verdicts_text(counts: Mapping[str, int]) -> str:
    """`12 hold, 2 hold only partly and 1 does not hold`."""
    several = {"holds": "hold", "holds only partly": "hold only partly", "does not hold": "do not hold"}
    words = [
        f"{amount} {verdict if amount == 1 else several.get(verdict, verdict)}"
        if verdict != UNKNOWN
        else f"{amount} {'is' if amount == 1 else 'are'} {verdict}"
        for verdict, amount in counts.items()
    ]
    return enumerate_words(words) if words else "none was judged"


def claims_text(claims: list[Claim], width: int = 110) -> str:
    """The claims as a table for a terminal of `width` columns, verdicts last."""
    has_published = any(claim.published is not None for claim in claims)
    heads = ["claim", "paper", *(["published checkpoint"] if has_published else []), "ours", "verdict"]
    shares = [34, 13, *([18] if has_published else []), 18, 12]
    room = width - 2 * (len(heads) - 1)
    widths = [share * room // sum(shares) for share in shares]

    def line(cells):
        wrapped = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, widths, strict=True)]
        height = max(map(len, wrapped))
        rows = zip(*(cell + [""] * (height - len(cell)) for cell in wrapped), strict=True)
        return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]

    out = [*line(heads), "-" * width]
    for model, title in MODELS.items():
        about = [claim for claim in claims if claim.model == model]
        if about:
            out.append(f"{title.capitalize()}")
        for claim in about:
            theirs = [_text(claim.published)] if has_published else []
            verdict = claim.ours.verdict if claim.ours else UNKNOWN
            out += line([claim.rule.statement, claim.rule.paper, *theirs, _text(claim.ours), verdict])
    for source, whose in (("published", "the published checkpoints"), ("ours", "our models")):
        if counts := count_verdicts(claims, source):
            out += textwrap.wrap(f"Of the paper's claims about {whose} {verdicts_text(counts)}.", width)
    return "\n".join(out)


def _text(judged: Judgement | None) -> str:
    return judged.text if judged else NONE


def _judge(rule: Rule, results: Results | None) -> Judgement | None:
    if results is None:
        return None
    try:
        if rule.of_training:
            check_learnt(results)
        numbers, verdict = rule.measure(results)
    except NotMeasured as reason:
        return Judgement(UNKNOWN, reason=str(reason))
    return Judgement(verdict, tuple(numbers))
