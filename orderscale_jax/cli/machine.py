"""What a command asks of the machine: a place to write, the cores, the compilation cache, its share."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from orderscale_jax import files
from orderscale_jax.cli import arguments
from orderscale_jax.errors import UserError
from orderscale_jax.host import available_cores
from orderscale_jax.training.shares import Share, share_of_cluster

SHORTEST_CACHED_COMPILATION = 0.2  # seconds; below it reading the cache hardly pays


@contextlib.contextmanager
def output_directory(path: str | os.PathLike) -> Iterator[files.Place]:
    """Makes the directory and checks that it can be written, before the work inside the block.

    If the block fails, the directories made here go again, unless something was written to them.

    Raises:
      UserError: it is in an object store of which nothing is known here.
      OSError: it cannot be made or written.
    """
    path = files.absolute(files.place(path))
    if files.is_remote(path):
        _check_store(path)
        yield path
        return
    made = [directory for directory in (path, *path.parents) if not directory.exists()]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            why = "it is a file" if path.is_file() else error.strerror
            raise OSError(f"the output directory {path} cannot be written: {why}") from error
        yield path
    except BaseException:
        with contextlib.suppress(OSError):
            for directory in made:
                directory.rmdir()
        raise


class Lines:
    """A file to which lines are added. It is whole at any time, and before the first line as it was.

    Raises:
      OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike):
        self._path, self._text = files.absolute(files.place(path)), ""
        if files.is_remote(self._path):
            return
        try:
            if self._path.exists() and not self._path.is_file():
                raise OSError(0, "it is a directory" if self._path.is_dir() else "it is no file")
            tempfile.TemporaryFile(dir=self._path.parent).close()
        except OSError as error:
            raise OSError(f"the file {self._path} cannot be written: {error.strerror}") from error

    def add(self, line: str):
        self._text += f"{line}\n"
        files.write_text(self._path, self._text)


def _check_store(path: files.Place):
    """OSError if nothing can be written to this place in an object store, and removed again."""
    try:
        if path.is_file():
            raise OSError("it is a file")
        files.write_bytes(files.beside(path / "writable"), b"").unlink()
    except Exception as error:  # every kind of store has errors of its own
        raise OSError(f"the output directory {path} cannot be written: {error}") from error


def use_compilation_cache():
    """Keeps compiled programs in `$ORDERSCALE_CACHE`, by default `~/.cache/orderscale_jax/xla`.

    A place that was given to JAX itself (`JAX_COMPILATION_CACHE_DIR`) stays; a place that cannot be
    written leaves JAX without a cache.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    place = os.environ.get("ORDERSCALE_CACHE") or Path("~/.cache/orderscale_jax/xla")
    try:
        place = Path(place).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_CACHED_COMPILATION)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def use_all_cores(n_runs: int | None = None):
    """Makes every core a device, so that runs train side by side on a CPU; before any computation.

    With `n_runs` only as many as share so many runs evenly: one run alone is faster with all cores as
    one device. `JAX_NUM_CPU_DEVICES`, or the flag of XLA, says otherwise.
    """
    cores = available_cores()
    n_devices = cores if n_runs is None else max(d for d in range(1, cores + 1) if n_runs % d == 0)
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not given and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", n_devices)


class ShareFlags:
    """The flags with which one command, started several times, shares out its runs."""

    def __init__(self):
        heading = "Several processes, which share out the runs in one work directory"
        self._count, self._index = (
            arguments.define(name, "int", None, meaning, least=least, shown=shown, heading=heading)
            for name, meaning, least, shown in (
                ("num_processes", "how many processes there are.", 1, "P"),
                ("process_id", "which of them this is, from 0.", 0, "I"),
            )
        )
        meaning = "instead of both: take part in what a cluster started (SLURM, Open MPI, TPU pod)."
        self._cluster = arguments.define("distributed", "bool", False, meaning, heading=heading)

    def share(self) -> Share:
        """Which share of the runs is this process's.

        Raises:
          UserError: the flags contradict each other, or there is no cluster.
        """
        given = {holder.name: holder.value for holder in (self._count, self._index)}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == 1:
            raise UserError(f"--num_processes and --process_id go together: --{missing[0]} is missing")
        if self._cluster.value:
            if not missing:
                raise UserError("--distributed asks the cluster: give it without --num_processes")
            return share_of_cluster()
        return Share() if missing else Share(given["process_id"], given["num_processes"])


def incomplete(share: Share) -> str:
    """What is to be said at the end of a share that is not the last."""
    return (
        f"share {share.index + 1} of {share.count} is complete; the summary is written when all are: "
        "run the same command again to see it"
    )
