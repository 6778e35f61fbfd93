"""What a command does when it is told to end: Ctrl-C, SIGTERM from a cluster, SIGHUP from a terminal.

The first signal lets training save what it has; all else ends at once. Where that takes too long, in a
compiler or a long stretch, and at a second Ctrl-C, the process leaves without more ado: what is on disk is
always whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from orderscale_jax.training.interruption import Interruption

PATIENCE = 10.0  # seconds from a signal to the moment at which saving must have begun
SAME = 0.5  # seconds within which two Ctrl-C are one, which a wrapper has passed on
AGAIN = 0.05  # seconds from a moment at which nothing may be raised to the next try
ALARM = getattr(signal, "SIGALRM", None)  # where there is none, Python's handlers are all there is
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Ended(KeyboardInterrupt):
    """A signal came at a moment at which nothing has to be saved."""


class OnSignal(Interruption):
    """Wants training to end as soon as a signal has come."""

    def __init__(self):
        self.signal: int | None = None  # the first that came
        self._is_heard = self._is_deferred = self._has_raised = False
        self._has_answer = threading.Event()

    @property
    def is_wanted(self) -> bool:
        if self.signal is not None:
            self._has_answer.set()
        return self.signal is not None

    def hear(self):
        """From here on a signal raises `Ended`; one that has come does so at once."""
        self._is_heard = True
        if self.signal is not None:
            self._has_raised = True
            raise Ended

    def hear_no_more(self):
        """From here on a signal raises nothing; one for which the moment has not come does so now."""
        self._is_heard = False
        if self.signal is not None and not self._has_raised and not self._has_answer.is_set():
            self._has_raised = True
            raise Ended

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        if self.is_wanted:
            raise Ended
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self.is_wanted:  # and nobody has asked
            raise Ended("interrupted; what was trained is saved, and the same command goes on")

    def handle(self, number: int, frame: FrameType | None):
        """The handler of Python: it runs in the main thread, between two instructions."""
        self.signal = self.signal or number
        self.try_again(number, frame)

    def try_again(self, number: int, frame: FrameType | None):
        """The handler of the alarm."""
        if not self._is_heard or self._is_deferred or self._has_raised:
            return
        if ALARM is not None and _is_importing(frame):  # compiled modules can crash if that is disturbed
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        self._has_raised = True  # another one does not disturb what is being put in order
        raise Ended

    def swallowed(self, unraisable):
        """The hook for errors that Python ignores: where one of ours met such a moment, it comes again."""
        if not isinstance(unraisable.exc_value, Ended):
            sys.__unraisablehook__(unraisable)
            return
        if ALARM is not None:
            self._has_raised = False
            signal.setitimer(signal.ITIMER_REAL, AGAIN)

    def end(self):
        """Nobody is waited for any more."""
        self._has_answer.set()

    def watch(self, numbers: socket.socket):
        """Reads the numbers of signals as they come, in a thread of its own: the main thread may be busy
        for long in compiled code."""
        came = None  # when the first of them did
        while read := numbers.recv(1):
            number = read[0]
            if number not in SIGNALS:  # the alarm, or what others listen to
                continue
            if came is None:
                came = time.monotonic()
                self.signal = self.signal or number
                if self._is_deferred:
                    name = signal.Signals(self.signal).name
                    _say(f"{name}: saving after the running stretch; Ctrl-C leaves at once")
                threading.Thread(target=self._wait, daemon=True).start()
            elif number == signal.SIGINT and time.monotonic() - came > SAME:
                self._leave("left at once")

    def _wait(self):
        if not self._has_answer.wait(PATIENCE):
            what = "the running stretch" if self._is_deferred else "what was running"
            self._leave(f"{what} has not ended within {PATIENCE:.0f} s")

    def _leave(self, sentence: str):
        kept = ": nothing after the last saved state is kept; the same command goes on from there"
        _say(f"error: {sentence}{kept * self._is_deferred}")
        os._exit(exit_code(self))


_current = OnSignal()


def interruption() -> OnSignal:
    """What signals want of the command that runs."""
    return _current


def exit_code(wanted: OnSignal) -> int:
    """128 and the number of the signal that came, as shells have it; without one that of Ctrl-C."""
    return 128 + (wanted.signal or signal.SIGINT)


@contextlib.contextmanager
def handled() -> Iterator[OnSignal]:
    """Within it signals are handled so; those that are ignored, as by nohup, stay ignored.

    What is given is to `hear` them where `Ended` is caught.
    """
    global _current
    _current = wanted = OnSignal()
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, wanted.handle)
    if ALARM is not None:
        before[ALARM] = signal.signal(ALARM, wanted.try_again)
    hook, sys.unraisablehook = sys.unraisablehook, wanted.swallowed
    watcher = threading.Thread(target=wanted.watch, args=(ours,), daemon=True)
    watcher.start()
    try:
        yield wanted
    finally:
        wanted.end()
        sys.unraisablehook = hook
        if ALARM is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():  # of a process that is ending, the next one is its end
            signal.signal(number, handler if wanted.signal is None else signal.SIG_DFL)
        signal.set_wakeup_fd(woken)
        theirs.close()
        watcher.join()
        ours.close()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _say(text: str):
    with contextlib.suppress(OSError, ValueError):
        print(f"\n{text}", file=sys.stderr, flush=True)
