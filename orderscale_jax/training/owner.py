"""One owner of a work directory at a time, by a lock that ends with its process."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

from orderscale_jax import files
from orderscale_jax.errors import UserError
from orderscale_jax.training.shares import Share

logger = logging.getLogger(__name__)
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def owned(directory: files.Place, share: Share) -> Iterator[Callable[[], None]]:
    """Within it no other process on any machine owns this share of `directory`, which exists, or a share of
    another number of shares.

    The lock is `flock`'s on a file that tells host and pid, and goes when it is given up. In an object
    store, and where the file system has no locks (a warning says so), nothing is locked.

    Yields:
      A function to call before something is written: it raises FileNotFoundError if the directory is no
      longer there, or is another one.

    Raises:
      UserError: another owns it.
    """
    if files.is_remote(directory):
        yield lambda: None
        return
    with _held(directory / f".owner_{share}") as check:
        for other in directory.glob(".owner_*"):
            if not other.name.endswith(f"_of_{share.count}"):
                with _held(other):
                    pass  # it was left by a process that was killed
        yield check


@contextlib.contextmanager
def _held(path: files.Place) -> Iterator[Callable[[], None]]:
    """Within it the file is this process's; yields what raises an error where it is not."""
    opened = _lock(path)
    if opened is None:
        logger.warning("%s cannot be locked here: make sure that no other process writes there", path.parent)
        yield lambda: None
        return

    def check():
        if not _is_at(path, opened):
            raise FileNotFoundError(
                f"{path.parent} was moved, deleted or replaced while it was in use: nothing more is written"
            )

    try:
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(opened, 0)
        os.pwrite(opened, json.dumps(me).encode(), 0)
        yield check
    finally:
        if _is_at(path, opened):
            path.unlink(missing_ok=True)
        os.close(opened)


def _lock(path: files.Place) -> int | None:
    """The descriptor of a locked file, None where there are no locks."""
    if fcntl is None:
        return None
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, opened):
                return opened
            os.close(opened)  # its owner has just given it up, and it is nobody's
        except BlockingIOError:
            owner = _owner(opened)
            os.close(opened)
            raise UserError(
                f"{path.parent} is in use by {owner}: wait until that has ended, stop it, or give "
                "another directory"
            ) from None
        except OSError as error:
            os.close(opened)
            if error.errno not in UNSUPPORTED:
                raise
            path.unlink(missing_ok=True)
            return None


def _is_at(path: files.Place, opened: int) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(opened))
    except FileNotFoundError:
        return False


def _owner(opened: int) -> str:
    """Who says in the file to be the owner."""
    try:
        owner = json.loads(os.pread(opened, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (ValueError, TypeError, KeyError):  # it has not said so yet
        return "another process"
