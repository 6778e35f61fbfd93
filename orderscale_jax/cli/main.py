"""The command `orderscale`; from here on signals are answered, before anything slow is imported."""

from __future__ import annotations

import sys

from orderscale_jax.cli import signals


def main(command: str | None = None):
    """Runs a command with the arguments of the process; without a name the first argument is it."""
    with signals.handled() as wanted:
        from orderscale_jax.cli import app, commands

        app.answer(wanted, lambda: commands.run(command, sys.argv[1:]))
