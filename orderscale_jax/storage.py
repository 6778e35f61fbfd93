"""Arrays and JSON in one directory that is either whole or not there; the only module that uses orbax.

A directory is written beside its final place, read back, and then renamed: what has the final name is
complete. `SHA256SUMS` in it names every other file and tells damage done later. In an object store
(`gs://…`), which renames nothing, it is written last: what has it is complete. Arrays are written from the
host, so that they load on any number and kind of devices.

orbax is imported where it is used: it takes 0.4 s that a program without checkpoints need not take.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from orderscale_jax import files
from orderscale_jax.errors import UserError

FORMAT = 2  # raise it when an older reader could not understand what is written
SUMS = "SHA256SUMS"  # in the form that `sha256sum --check` reads
PLAIN = re.compile(r"[A-Za-z0-9_\-./ :,+=@]+")  # paths that mean the same to orbax and its store as to us
MARK = "arrays/_METADATA"  # with it a directory is one of ours, though perhaps a damaged one
ARRAYS_DIGEST = "arrays_sha256"  # `weight_digest` of the arrays, in the JSON beside them
ROOM = 2**16  # bytes that a directory takes beside its arrays
DEEPEST = 240  # characters that the files of a directory add to its path while it is written


class DamagedError(UserError):
    """Files of a checkpoint are missing or are not what was written."""


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], about: dict[str, Any]):
    """Writes one directory so that it is either whole or not there, and never lost on the way.

    Args:
      path: an older directory there is replaced when the new one is complete.
      arrays: by name, none of them empty.
      about: what JSON can hold; `format` and `arrays_sha256` are added.

    Raises:
      UserError: `jax.distributed` has joined this process to others, or orbax understands no path to it.
      FileExistsError: there is something else at `path`.
      OSError: it cannot be written, or is not read back the same.
    """
    path = files.place(path)
    if jax.distributed.is_initialized():
        raise UserError(
            "jax.distributed has joined this process to others, and orbax would mix up what each saves: let "
            "every process train its own runs (--distributed, or --num_processes), without jax.distributed"
        )
    if files.is_remote(path):
        _write_remote(path, arrays, about)
        return
    path = path.absolute()
    refuse_foreign(path)
    if path.is_symlink():
        path = path.resolve()
    partial, previous = _partial(path), _previous(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_partial(path)
    files.check_room(path, ROOM + sum(array.nbytes for array in arrays.values()))  # orbax is loud
    about = {"format": FORMAT, ARRAYS_DIGEST: weight_digest(arrays), **about}
    try:
        with _understood(partial) as there, _orbax() as (ocp, checkpointer):
            items = ocp.args.Composite(
                arrays=ocp.args.StandardSave(dict(arrays)), config=ocp.args.JsonSave(about)
            )
            with _system_errors(path):
                checkpointer.save(there, items)
        files.write_text(partial / SUMS, _sums(partial))
        files.sync(partial)
        _read_back(partial, path, arrays, about)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        partial.rename(path)
        files.sync_directory(path.parent)
    finally:
        _remove_partial(path)
    shutil.rmtree(previous, ignore_errors=True)


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON of one directory, if no file of them is missing or changed.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      DamagedError: it is none of ours, or files of it are missing or changed.
      UserError: its format is too new.
      OSError: it cannot be read.
    """
    path = files.absolute(files.place(path))
    if not is_there(path):
        if is_there(_previous(path)):
            path = _previous(path)  # killed before `write` had put the new one in its place
        elif not path.exists():
            raise FileNotFoundError(f"there is no checkpoint at {path}")
    if not files.is_remote(path) and path.is_dir():
        os.listdir(path)  # if that is not allowed, nothing can be said of what is in it
    if not is_ours(path):
        raise DamagedError(f"{path} is not a checkpoint of orderscale-jax")
    if not files.is_remote(path):
        return _read_local(path, path)
    with tempfile.TemporaryDirectory() as folder:
        files.copy_files(path, Path(folder))
        return _read_local(Path(folder), path)


def copy(source: str | os.PathLike, target: str | os.PathLike):
    """Copies a directory to `target`; if another process puts one there at the same time, that one stays.

    Raises:
      OSError: it cannot be read or written.
    """
    source, target = files.place(source), files.place(target)
    if files.is_remote(target):
        if not is_there(target):
            _upload(source, target)
        return
    partial = files.beside(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        files.sync(partial)
        partial.rename(target)
        files.sync_directory(target.parent)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_foreign(path: files.Place):
    """FileExistsError if at `path` is something that `write` would not replace."""
    if not files.is_remote(path) and path.is_symlink() and not path.exists():
        raise FileExistsError(f"{path} is a link to what is not there: remove it, or name another place")
    if path.exists() and not (path.is_dir() and (is_ours(path) or not any(path.iterdir()))):
        raise FileExistsError(f"{path} exists and is not a checkpoint: name another place")


def is_there(path: files.Place) -> bool:
    """Whether there is something at `path`; in an object store only what was written to its end."""
    return ((path / SUMS) if files.is_remote(path) else path).exists()


def is_ours(path: files.Place) -> bool:
    """Whether this is one of our directories, though perhaps a damaged one."""
    return (path / SUMS).is_file() or (path / MARK).is_file()


def clear(path: files.Place):
    """Removes what is at `path`, a file or a directory."""
    if not path.is_dir():
        path.unlink()
    elif files.is_remote(path):
        _withdraw(path)
    else:
        shutil.rmtree(path)


def weight_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes, types and values of `arrays`, in the order of their names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read_back(partial: Path, path: Path, arrays: Mapping[str, np.ndarray], about: dict[str, Any]):
    """OSError unless what was just written can be read and is what was to be written."""
    try:
        _check_sums(partial, path)
        is_same = _read_json(partial, path) == about
    except DamagedError:
        is_same = False
    if is_same:
        found = {name: _bits(np.asarray(array)) for name, array in _restore(partial).items()}
        is_same = found == {name: _bits(array) for name, array in arrays.items()}
    if not is_same:
        raise OSError(errno.EIO, "what was written was not read back the same", str(path))


def _bits(array: np.ndarray) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def _restore(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one directory."""
    with _understood(path) as there, _orbax() as (ocp, checkpointer), _system_errors(path):
        items = ocp.args.Composite(arrays=ocp.args.StandardRestore())
        return checkpointer.restore(there, items)["arrays"]


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """What the system refused, as OSError: orbax and its store tell it in texts of several types."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not (found := re.search(r"os_error_code='(\d+)'", str(error))):
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code), str(path)) from error


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[Path]:
    """A name of the place `path` that orbax takes for a name: it reads brackets and such as patterns.

    Raises:
      UserError: such a name cannot be made here.
    """
    if PLAIN.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="orderscale_") as folder:
        link = Path(folder) / "link"
        if not PLAIN.fullmatch(str(link)):
            raise UserError(
                f"orbax understands neither the path {path} nor that of temporary files, {folder}: "
                "use letters and digits in one of them (TMPDIR says where temporary files go)"
            )
        if path.exists():
            link.symlink_to(path, target_is_directory=True)
            yield link
            return
        link.symlink_to(path.parent, target_is_directory=True)
        if PLAIN.fullmatch(path.name):
            yield link / path.name
            return
        name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # it gets its own when it is written
        _remove_partial(path.with_name(name))
        try:
            yield link / _partial(path.with_name(name)).name
            _partial(path.with_name(name)).rename(path)
        finally:
            _remove_partial(path.with_name(name))


def _write_remote(path: files.Place, arrays: Mapping[str, np.ndarray], about: dict[str, Any]):
    """`write` where nothing can be renamed: a whole directory is copied there."""
    refuse_foreign(path)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        write(whole, arrays, about)
        _replace(whole, path)


def _replace(whole: Path, path: files.Place):
    """Puts a local directory in the place of what is in an object store; one of the two is always whole."""
    if is_there(path):
        _upload(path, _previous(path))
    _upload(whole, path)
    with tempfile.TemporaryDirectory() as folder:
        files.copy_files(path, Path(folder))
        if _sums(Path(folder)) != _sums(whole):
            raise OSError(errno.EIO, "what was written was not read back the same", str(path))
    _withdraw(_previous(path))


def _upload(source: files.Place, target: files.Place):
    """Copies a whole directory into an object store."""
    _withdraw(target)
    files.copy_files(source, target, first=MARK, last=SUMS)


def _withdraw(path: files.Place):
    """Removes a directory from an object store: it is at once no longer whole, but ours to the end."""
    if path.is_dir():
        for file in sorted(files.files_in(path), key=lambda file: (file != path / SUMS, file == path / MARK)):
            file.unlink()


def _read_local(path: Path, named: files.Place) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`read` of a directory of ours, of which is said that it is `named`."""
    are_all_summed = _check_sums(path, named)  # first: orbax is loud about damage
    about = _read_json(path, named)
    if about["format"] > FORMAT:
        raise UserError(
            f"the checkpoint {named} has format {about['format']} and this version of orderscale-jax reads "
            f"formats up to {FORMAT}: install a newer version"
        )
    arrays = _restore(path)
    if about["format"] == 1 and not are_all_summed:
        return arrays, about
    if not are_all_summed or about.get(ARRAYS_DIGEST) != weight_digest(arrays):
        raise _damaged(named)
    return arrays, about


def _read_json(path: Path, named: files.Place) -> dict[str, Any]:
    """What orbax's JSON handler wrote beside the arrays; it has a format's number."""
    try:
        about = json.loads((path / "config" / "metadata").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise _damaged(named) from error
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise _damaged(named)
    return about


def _damaged(path: files.Place) -> DamagedError:
    return DamagedError(
        f"the checkpoint {path} is damaged or was written only in part: use another copy or make it again"
    )


def _check_sums(path: Path, named: files.Place) -> bool:
    """DamagedError unless the files are those of which the sums were written down.

    Returns:
      Whether all files are summed: those of the first format were not, their configuration was left out.
    """
    try:
        if not (path / SUMS).is_file():
            raise _damaged(named)
        lines = (path / SUMS).read_text(errors="replace").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        are_all_summed = not all(name.startswith("arrays/") for name in expected)
        items = ("arrays/", "config/") if are_all_summed else ("arrays/",)
        found = {name for name in _names(path) if name in expected or name.startswith(items)}
        if found != expected.keys() or any(_sum(path / name) != expected[name] for name in found):
            raise _damaged(named)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _damaged(named) from error
    return are_all_summed


def _names(path: Path) -> list[str]:
    """The files of a directory, relative to it, but for `SUMS`; what is no plain file is not there."""
    found = (file.relative_to(path).as_posix() for file in files.files_in(path) if file.is_file())
    return sorted(name for name in found if name != SUMS)


def _sums(path: Path) -> str:
    """What `SUMS` says of a directory."""
    return "".join(f"{_sum(path / name)}  {name}\n" for name in _names(path))


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _remove_partial(path: Path):
    """Removes what an unfinished save to `path` has left; orbax puts its own beside ours."""
    for left in path.parent.glob(f"{glob.escape(_partial(path).name)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _previous(path: files.Place) -> files.Place:
    return path.with_name(f".{path.name}.previous")


@contextlib.contextmanager
def _orbax():
    """orbax and a checkpointer for one directory's two items, alone and without chatter."""
    import orbax.checkpoint as ocp

    chatter = logging.getLogger("absl")
    level = chatter.level
    chatter.setLevel(logging.CRITICAL)  # what fails is raised too
    handler = ocp.CompositeCheckpointHandler(
        arrays=ocp.StandardCheckpointHandler(), config=ocp.JsonCheckpointHandler()
    )
    try:
        with _alone(), ocp.Checkpointer(handler) as checkpointer:
            yield ocp, checkpointer
    finally:
        chatter.setLevel(level)


@contextlib.contextmanager
def _alone():
    """Lets orbax take this process for the only one.

    Where JAX counts several, orbax waits for all of them, and whatever its options say, only the first
    writes NumPy arrays: what the others saved would have none.
    """
    count, index = jax.process_count, jax.process_index
    if count() == 1:
        yield
        return
    jax.process_count, jax.process_index = (lambda backend=None: 1), (lambda backend=None: 0)
    try:
        yield
    finally:
        jax.process_count, jax.process_index = count, index
