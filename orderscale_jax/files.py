"""Files that are either whole or as they were, whoever else writes them at the same time.

A place is local or in an object store (`gs://…`). A store has no directories to make, no renaming and no
file that grows, but what is written there is whole or not there.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

from orderscale_jax.errors import MissingPackage, UserError

CHUNK = 2**20  # bytes that are written at once
SEAL = "sha256_of_the_rest"  # in a note, by which its damage is noticed
Place = PurePath  # a pathlib.Path, or an epath.Path of etils where it is remote
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}  # which etils needs


def place(path: str | os.PathLike) -> Place:
    """A path as this package takes it: with a scheme (`gs://…`) it is remote, otherwise local.

    Raises:
      UserError: it is no path, or the scheme is unknown, was spoilt by pathlib, or needs a package that is
        not installed.
      OSError: the store cannot be reached.
    """
    text = as_text(path)
    found = re.match(r"([a-z][a-z0-9+.-]+):(//?)", text)  # a drive has one letter
    if not found:
        return Path(path)
    from etils import epath

    if isinstance(path, epath.Path):
        return path
    scheme, slashes = found.groups()
    try:
        there = epath.Path(f"{scheme}://{text[found.end() :]}")
    except KeyError:
        if slashes == "/":
            return Path(path)
        known = ", ".join(f"{name}://" for name in PACKAGES)
        raise UserError(f"{text} cannot be reached: give a local path, or one with {known}") from None
    if slashes == "/":
        raise UserError(f"{text} is no place: give {there} as text, pathlib makes {scheme}:/ of {scheme}://")
    _see_others(scheme)
    try:
        there.exists()
    except ImportError as error:
        package = PACKAGES.get(scheme, "what it names")
        raise MissingPackage(f"{text} needs another package ({error}): pip install {package}") from error
    except Exception as error:
        raise OSError(f"{text} cannot be reached: {error or type(error).__name__}") from error
    return there


def as_text(path: str | os.PathLike) -> str:
    """A path as text; UserError if it is none."""
    if not isinstance(path, str | os.PathLike) or not isinstance(text := os.fspath(path), str):
        raise UserError(f"a path is text or a pathlib.Path, got {path!r}")
    return text


def _see_others(scheme: str):
    """Listings are asked for anew each time, so that what other processes wrote is seen."""
    from fsspec.config import conf

    conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)


def check_length(path: Place, more: int):
    """UserError if files whose paths are `more` characters longer than `path` are not allowed here."""
    if is_remote(path):
        return
    path = path.absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    longest = os.pathconf(there, "PC_PATH_MAX") if hasattr(os, "pathconf") else 260
    if len(os.fsencode(path)) + more >= longest:
        raise UserError(
            f"the path {path} is too long: files in it would have paths of up to "
            f"{len(os.fsencode(path)) + more} bytes, and here {longest - 1} are allowed; give a shorter one"
        )


def is_remote(path: Place) -> bool:
    return not isinstance(path, Path)


def absolute(path: Place) -> Place:
    return path if is_remote(path) else path.absolute()


def make_directory(path: Place):
    """Makes a directory and those above it, where there are directories."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_directory(path: Place):
    """Removes a directory with all that is in it, if it is there and as far as that is allowed."""
    if not is_remote(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
        return
    with contextlib.suppress(Exception):  # every kind of store has errors of its own
        path.rmtree()


def copy_files(source: Place, target: Place, first: str = "", last: str = ""):
    """Copies what is in the directory `source` to `target`, `first` before and `last` after the others."""

    def copy(name: str):
        make_directory((target / name).parent)
        write_bytes(target / name, (source / name).read_bytes())

    names = [file.relative_to(source).as_posix() for file in files_in(source)]
    for name in filter(first.__eq__, names):
        copy(name)
    with ThreadPoolExecutor() as pool:  # a store answers slowly, but many at once
        list(pool.map(copy, (name for name in names if name not in (first, last))))
    for name in filter(last.__eq__, names):
        copy(name)


def files_in(directory: Place) -> list[Place]:
    """All files below a directory."""
    found = []
    for entry in directory.iterdir():
        if entry != directory:  # some stores list a directory in itself
            found += files_in(entry) if entry.is_dir() else [entry]
    return found


def write_bytes(path: Place, content: bytes) -> Place:
    """Writes a file beside its place and moves it there when it is on the disk; returns `path`."""
    if is_remote(path):
        path.write_bytes(content)
        return path
    partial = beside(path)
    try:
        with _naming(path), open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_room(path: Path, n_bytes: int):
    """OSError with the name of `path` unless so many bytes can be written beside it now."""
    with _naming(path), tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
        if not _allocated(file.fileno(), n_bytes):
            for start in range(0, n_bytes, CHUNK):
                file.write(bytes(min(CHUNK, n_bytes - start)))


def _allocated(opened: int, n_bytes: int) -> bool:
    """Whether the system has given an open file so many bytes; False where it cannot without writing."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(opened, 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
        return False
    return True


def sync(directory: Path):
    """Returns when all that is below a local directory is on the disk."""
    for file in files_in(directory):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    for folder in (directory, *(entry for entry in directory.rglob("*") if entry.is_dir())):
        sync_directory(folder)


def sync_directory(path: Path):
    """Returns when the names in a local directory are on the disk, where directories can be synced."""
    if os.name == "nt":
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(opened)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Gives an error of the system the name of the file; of a full disk it has none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a store says what it refused, and where
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Place, text: str) -> Place:
    """`write_bytes` of text in UTF-8."""
    return write_bytes(path, text.encode())


def write_json(path: Place, content: Any) -> Place:
    """`write_bytes` of JSON, in which no number is NaN or infinite."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Place) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: the file holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise damaged(path)
    return found


def write_note(path: Place, content: Mapping[str, Any]) -> Place:
    """`write_json` of an object, with a digest by which `read_note` tells damage."""
    return write_json(path, {**content, SEAL: _digest(content)})


def read_note(path: Place) -> dict[str, Any]:
    """What `write_note` wrote.

    Raises:
      UserError: the file holds something else.
    """
    found = read_json(path)
    if found.pop(SEAL, None) != _digest(found):
        raise damaged(path)
    return found


def damaged(path: Place) -> UserError:
    return UserError(f"{path} is damaged: put back a copy of it, or give another directory")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_csv(path: str | os.PathLike, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]):
    """Writes a header and a line per row so that the file is either whole or as it was."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(place(path), text.getvalue())


def plain(value: Any) -> Any:
    """Arrays and NumPy numbers, in dictionaries and lists too, as JSON can hold them; NaN becomes None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def beside(path: Path) -> Path:
    """A place in the same folder that no other process on any machine uses."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")


class Growing:
    """A text file to which is added. In an object store, where no file grows, it grows with `keep` only."""

    def __init__(self, path: Place, text: str = ""):
        """Args:
        path: of the file.
        text: with which the file begins; what stands behind it there goes.
        """
        self._path, self._text, self._file = path, text, None
        begin = text.encode(errors="surrogateescape")
        self._sum, self.size = hashlib.sha256(begin), len(begin)
        if not is_remote(path):
            self._file = open(path, "ab", buffering=0)  # what could not be written is not tried again
            with _naming(path):
                self._file.truncate(self.size)

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def sha256(self) -> str:
        """The digest of all that the file is to hold, of `size` bytes."""
        return self._sum.hexdigest()

    def add(self, text: str):
        """Adds text; a crash of this process does not lose it where the file is local."""
        content = text.encode(errors="surrogateescape")
        if self._file is None:
            self._text += text
        else:
            left = memoryview(content)
            with _naming(self._path):
                while left:
                    left = left[self._file.write(left) :]
        self._sum.update(content)
        self.size += len(content)

    def keep(self):
        """Returns when what was added outlasts all but the disk or the store."""
        with _naming(self._path):
            if self._file is None:
                write_text(self._path, self._text)
            else:
                os.fsync(self._file.fileno())

    def close(self):
        with _naming(self._path):
            if self._file is not None:
                self._file.close()
