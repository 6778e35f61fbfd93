"""Writes docs/api.md from the docstrings: `python docs/api.py [FILE]`. It needs the extra `docs` (pdoc)."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pdoc.doc
import pdoc.docstrings

PACKAGE = "orderscale_jax"
MODULES = {  # in the order of the page, and of modules that have no `__all__` what is meant to be called
    "": None,
    ".task": ("TaskConfig", "Split", "make_split", "tokens", "check_lists"),
    ".graph": None,
    ".model": None,
    ".config": ("default_config", "as_drawn", "check_config", "TrainConfig", "RunConfig", "SweepConfig"),
    ".checkpoint": (
        "load_pretrained",
        "pretrained_names",
        "load_checkpoint",
        "save_checkpoint",
        "named_arrays",
        "from_named_arrays",
    ),
    ".convert": ("read_arrays", "from_torch", "to_torch"),
    ".training.workdir": ("train",),
    ".training.sweep_training": ("train",),
    ".training.sweep_results": ("summarize", "compare_survival", "wilson_interval"),
    ".analysis": None,
    ".circuits": None,
    ".sae": None,
    ".census": ("examine", "summarize", "jaccard"),
    ".explorer": None,
    ".figures": None,
    ".report": None,
    ".errors": None,
}
HEAD = """# API

Every public function and class, from its docstring. This page is made by `python docs/api.py` with
[pdoc](https://pdoc.dev) (the extra `docs`); do not edit it. In shapes, letters stand for lengths: B lists,
n digits of a list, T = 2n + 1 positions, L layers, H heads, D width, V vocabulary. `UserError` is raised,
with one sentence, for what a caller can correct. Code to start from is in the [recipes](recipes.md); words
are explained in the [glossary](glossary.md).

"""


def public_names(module: str) -> tuple[str, ...]:
    """What of a module is on the page."""
    found = importlib.import_module(PACKAGE + module)
    if MODULES[module] is not None:
        return MODULES[module]
    if hasattr(found, "__all__"):
        return tuple(found.__all__)
    return tuple(
        name
        for name, value in vars(found).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == found.__name__
    )


def page() -> str:
    """The whole page, as Markdown."""
    parts, seen = [HEAD], {}
    for module in MODULES:
        name = PACKAGE + module
        names = ", ".join(f"`{member}`" for member in public_names(module))
        parts.append(f"- [`{name}`](#{_anchor(name)}): {names}\n")
    for module in MODULES:
        name = PACKAGE + module
        found = importlib.import_module(name)
        parts.append(f"\n## {name}\n\n{_prose(found.__doc__)}\n")
        for member in public_names(module):
            value = getattr(found, member)
            if not isinstance(value, type) and not callable(value):
                parts.append(f"\n### {member}\n\n`{value!r}`\n")
            elif (home := seen.setdefault(value, name)) != name:
                parts.append(f"\n### {member}\n\nSee [`{home}`](#{_anchor(home)}).\n")
            else:
                parts.append(f"\n### {member}\n\n{_described(member, value)}")
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


def _described(name: str, value) -> str:
    if not isinstance(value, type):
        return _function(pdoc.doc.Function(value.__module__, name, value, (value.__module__, name)))
    of = pdoc.doc.Class(value.__module__, value.__qualname__, value, (value.__module__, value.__qualname__))
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    text = f"```python\nclass {name}{f'({bases})' if bases else ''}\n```\n\n{_prose(of.docstring)}\n"
    for member in of.own_members:
        if (member.name.startswith("_") and member.name != "__call__") or not member.docstring:
            continue
        if isinstance(member, pdoc.doc.Function):
            text += f"\n#### {name}.{member.name}\n\n{_function(member)}"
        elif isinstance(getattr(value, member.name, None), property):
            text += f"\n- `{member.name}`: {_prose(member.docstring)}\n"
    return text


def _function(of: pdoc.doc.Function) -> str:
    signature = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", str(of.signature))  # types without modules
    return f"```python\n{of.name}{signature}\n```\n\n{_prose(of.docstring)}\n"


def _prose(docstring: str | None) -> str:
    """Google's sections as Markdown; what is written like `[B, n]` stays as it is."""
    text = pdoc.docstrings.google(inspect.cleandoc(docstring or ""))
    return re.sub(r"^#+ (\w+):?$", r"**\1**", text, flags=re.MULTILINE).strip()


def _anchor(name: str) -> str:
    return re.sub(r"[^\w-]", "", name.lower())


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "api.md").write_text(page(), "utf-8")
