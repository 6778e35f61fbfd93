"""The recipes in docs/recipes.md run as they stand, and give the output that is shown."""

import math
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text("utf-8")
VARIES = "<!-- the numbers differ between machines -->"
BLOCKS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```\Z", re.DOTALL)


def recipe(section: str) -> tuple[str, bool, str, str]:
    """Title, whether its numbers vary, code and output of a section: text, then one block of each."""
    title, _, text = section.strip().partition("\n")
    return title, VARIES in text, *BLOCKS.search(text).groups()


RECIPES = [recipe(section) for section in TEXT.split("\n## ")[1:]]
NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?|\bNone\b")


def numbers(words: str) -> list[float]:
    return [float(x.replace(",", "").replace("−", "-")) for x in NUMBER.findall(words) if x != "None"]


def close(a: float, b: float) -> bool:
    """Equal up to a few lists that another order of additions decides otherwise."""
    return math.isclose(a, b, rel_tol=0.01, abs_tol=0.0051 if max(abs(a), abs(b)) <= 1 else 0.11)


def differs(shown: str, printed: str, varies: bool) -> str | None:
    """What of the printed output is not as shown; None if all is."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return "words"
    fits = varies or all(map(close, numbers(shown), numbers(printed)))
    return None if fits else "numbers"


def test_all_are_found_and_counted():
    assert len(RECIPES) == TEXT.count("```python") == TEXT.count("```text") >= 10
    assert [title.partition(".")[0] for title, *_ in RECIPES] == [str(i + 1) for i in range(len(RECIPES))]
    assert sum(varies for _, varies, *_ in RECIPES) == 1


@pytest.mark.parametrize(
    ("title", "varies", "code", "shown"), RECIPES, ids=[title.partition(".")[0] for title, *_ in RECIPES]
)
def test_it_gives_what_is_shown(title, varies, code, shown, capsys):
    assert 3 <= len([line for line in code.splitlines() if line.strip()]) <= 20
    exec(compile(code, title, "exec"), {"__name__": "recipe"})
    printed = capsys.readouterr().out
    assert shown.strip() and not (what := differs(shown, printed, varies)), f"{what}:\n{printed}"


@pytest.mark.parametrize(
    ("shown", "printed", "what"),
    [
        ("o1 0.98", "o1 0.983", None),
        ("o1 0.98", "o1 0.9", "numbers"),
        ("o1 98.50 %", "o1 98.55 %", None),
        ("o1 98.50 %", "o1 90.50 %", "numbers"),
        ("o1 right", "o1 wrong", "words"),
        ("a 1 2", "a 1", "words"),
    ],
)
def test_a_wrong_output_is_noticed(shown, printed, what):
    assert differs(shown, printed, varies=False) == what
    if what == "numbers":
        assert differs(shown, printed, varies=True) is None
