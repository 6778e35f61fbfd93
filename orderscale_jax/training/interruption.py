"""How training is asked to end early: it keeps what it has and leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Interrupted(Exception):
    """Training ended early because that was asked for; its text says what is kept."""


class Interruption:
    """Asked by training after every stretch; this one never wants it to end.

    The commands have one that wants it as soon as a signal has come (`cli.signals`).
    """

    @property
    def is_wanted(self) -> bool:
        return False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it nothing else ends the process: whoever is within asks `is_wanted` and leaves itself."""
        yield


NEVER = Interruption()
