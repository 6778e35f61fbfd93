"""Several processes, on one host or many, as one program: who takes which runs, what they tell each other.

Every process computes on its own devices alone. What they exchange is small and goes through the
key-value store of JAX's coordination service, which lives in process 0. A process that dies ends the
others: their work is on disk, and waiting for it would be for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np

PERIOD = 0.5  # seconds between two signs of life
PATIENCE = 40  # periods without one, after which a process counts as gone
LAST_WORD = 2.0  # seconds that process 0 stays so that the others hear why it ends
ABORT_TIME = signal.SIGABRT  # seconds that abort() takes, see _hold_aborts
MEETING_TIME = 120  # seconds in which all processes must have come

_exchange = itertools.count()
_watch: _Watch | None = None


def join(
    on_loss: Callable[[str], None],
    coordinator: str | None = None,
    n_processes: int | None = None,
    index: int | None = None,
):
    """Meets the other processes; must come before anything else is asked of JAX.

    Args:
      on_loss: called from another thread, with one sentence, when a process is gone or has failed.
        It must end this process (`os._exit`), because the main thread may wait for ever.
      coordinator: `host:port` of process 0. It, `n_processes` and `index` may be left out where JAX
        finds them itself (TPU pods, SLURM, Open MPI).

    Raises:
      ValueError: JAX cannot find out who takes part.
    """
    global _watch
    local = coordinator is not None and coordinator.rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"the coordinator must be given as host:port, got {coordinator!r}")
    if index is not None and n_processes is not None and not 0 <= index < n_processes:
        raise ValueError(f"there is no process {index} of {n_processes}: they count from 0")
    late = threading.Timer(
        MEETING_TIME,
        on_loss,
        [f"not all processes came within {MEETING_TIME} s: start all of them, with the same coordinator"],
    )
    late.daemon = True
    late.start()
    _hold_aborts()
    try:
        jax.distributed.initialize(
            coordinator,
            n_processes,
            index,
            initialization_timeout=2 * MEETING_TIME,
            coordinator_bind_address=coordinator if local else None,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"JAX does not know which processes take part ({error}): name the coordinator, "
            "the number of processes and this one's"
        ) from error
    finally:
        late.cancel()
    _watch = _Watch(on_loss)


def leave():
    """Waits until all processes have come here and lets them go; does nothing in a process that is alone."""
    global _watch
    if _watch is not None:
        gather(b"")
        _watch.stop()
        _watch = None
        jax.distributed.shutdown()


def fail(reason: str):
    """Tells the others that this process ends, and why; does nothing in a process that is alone."""
    global _watch
    if _watch is not None:
        _watch.say(f"process {index()} of {count()} stopped: {reason}")
        _watch = None


def joined() -> bool:
    """Whether other processes wait for this one."""
    return _watch is not None


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def index() -> int:
    """Which of them this is."""
    return jax.process_index()


def share(n_runs: int) -> np.ndarray:
    """The indices of the runs that this process takes: a contiguous block, of even sizes.

    Raises:
      ValueError: there are more processes than runs.
    """
    if count() > n_runs:
        raise ValueError(
            f"there are more processes ({count()}) than runs ({n_runs}): "
            f"start at most {n_runs}, or train at least {count()} runs"
        )
    return np.array_split(np.arange(n_runs), count())[index()]


def gather(value: bytes) -> list[bytes]:
    """What each process gave, in order of process; waits for all of them.

    All processes must call it equally often.

    Raises:
      ConnectionError: process 0 cannot be reached.
    """
    if count() == 1:
        return [value]
    client, exchange = _distributed().client, f"orderscale/gather/{next(_exchange)}"
    try:
        client.key_value_set_bytes(f"{exchange}/{index()}", zlib.compress(value, 1))
        return [zlib.decompress(_wait(client, f"{exchange}/{i}")) for i in range(count())]
    except jax.errors.JaxRuntimeError as error:
        time.sleep(ABORT_TIME)  # the watch can tell who is gone, and ends this process
        raise ConnectionError("the other processes cannot be reached") from error


def _wait(client, key: str) -> bytes:
    """The value of a key as soon as there is one; can be interrupted from the keyboard."""
    while True:
        try:
            return client.blocking_key_value_get_bytes(key, 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


class _Watch:
    """Gives signs of life and listens for those of the others, until `over` is set.

    One thread talks to the store, another judges by its own clock what was heard, so that a store
    that does not answer any more is noticed too.
    """

    def __init__(self, on_loss: Callable[[str], None]):
        self.over = threading.Event()
        self._client, self._on_loss = _distributed().client, on_loss
        self._beats: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._judge)]
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Ends the threads: one that is in C++ when Python exits would crash it."""
        self.over.set()
        for thread in self._threads:
            thread.join()

    def say(self, reason: str):
        """The last word: the other processes will end with this sentence."""
        self.over.set()
        try:
            self._client.key_value_set(f"orderscale/end/{index()}", reason, allow_overwrite=True)
        except jax.errors.JaxRuntimeError:
            return  # process 0 is gone, and the others know
        if index() == 0:
            time.sleep(LAST_WORD)

    def _talk(self):
        place = f"orderscale/beat/{index()}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: silence says so
            for beat in itertools.count():
                self._client.key_value_set(place, str(beat), allow_overwrite=True)
                self._beats = dict(self._client.key_value_dir_get("orderscale/beat/"))
                self._reasons = dict(self._client.key_value_dir_get("orderscale/end/"))
                if self.over.wait(PERIOD):
                    return

    def _judge(self):
        others = [i for i in range(count()) if i != index()]
        heard, silent = dict.fromkeys(others), dict.fromkeys(others, 0)
        while not self.over.wait(PERIOD):
            for i in others:
                beat = self._beats.get(f"orderscale/beat/{i}")
                silent[i] = silent[i] + 1 if beat == heard[i] else 0
                heard[i] = beat
            gone = [i for i in others if silent[i] >= PATIENCE or (i == 0 and silent[0] > 1 and _refused())]
            if self._reasons or gone:
                reason = next(iter(self._reasons.values()), None) or (
                    f"process {gone[0]} of {count()} is gone: start all {count()} again with the same "
                    "command, and they go on from their last states"
                )
                if index() == 0:
                    self.say(reason)
                self._on_loss(reason)
                return


def _distributed():
    """JAX's state of the processes, with their key-value store; it has no public name."""
    from jax._src.distributed import global_state

    return global_state


def _refused() -> bool:
    """Whether nobody is at the place of process 0 any more."""
    host, port = _distributed().coordinator_address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PERIOD).close()
    except ConnectionError:
        return True
    except OSError:  # it does not answer: it may be slow
        return False
    return False


def _hold_aborts():
    """Makes abort() take six seconds.

    When process 0 dies, a thread of JAX's aborts this process at once, with a page about C++. In
    those seconds the watch finds out who is gone and says it last. The handler is the C library's
    sleep(), called with the signal's number: no Python runs in a thread that is about to die.
    """
    if os.name == "posix":
        library = ctypes.CDLL(None)
        library.signal.argtypes = ctypes.c_int, ctypes.c_void_p
        library.signal.restype = ctypes.c_void_p
        library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
