"""Finds the file of the command that was asked for, and runs it; says which commands there are.

Only that file is imported, because importing all takes seconds.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import orderscale_jax
from orderscale_jax.cli import app, arguments
from orderscale_jax.errors import UserError

COMMANDS = (
    "train",
    "reproduce",
    "analyze",
    "explore",
    "circuits",
    "census",
    "import-torch",
    "sweep",
    "sae-train",
    "sae-sweep",
    "sae-analyze",
    "sae-import",
    "benchmark",
    "compile",
)


def run(command: str | None, given: list[str]):
    """Runs a command with the given arguments; without a name the first of them is it.

    Raises:
      UserError: there is no such command.
    """
    if command is None:
        command, *given = given or ["--help"]
    if command in app.HELP:
        print(_overview(), flush=True)
    elif command == "--version":
        print(f"orderscale {orderscale_jax.__version__}", flush=True)
    elif command in COMMANDS:
        module = importlib.import_module(f"orderscale_jax.cli.{_module(command)}")
        app.run(module, [f"orderscale {command}", *given])
    else:
        raise UserError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")


def _overview() -> str:
    """Every command with its first sentence, which is read without importing it."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command.ljust(width)}  {_summary(command)}" for command in COMMANDS]
    about = arguments.wrap(orderscale_jax.__doc__.strip(), "")
    return "\n".join([*about, "", "orderscale COMMAND --help says more:", "", *lines])


def _summary(command: str) -> str:
    source = Path(__file__).with_name(f"{_module(command)}.py").read_text(encoding="utf-8")
    return app.first_line(ast.get_docstring(ast.parse(source)))


def _module(command: str) -> str:
    return command.replace("-", "_")
