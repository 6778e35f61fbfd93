"""What every launcher shares: errors of one line, output directories, the compilation cache.

A launcher ends with `launch.run(main)`, where `main(argv)` is as for `absl.app.run`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from orderscale_jax import hosts
from orderscale_jax.errors import UserError

EXPECTED_ERRORS = (ValueError, OSError, ModuleNotFoundError)  # what bad input and bad places raise
FAILED_FILE = "the configuration file failed"
SHORTEST_CACHED_COMPILATION = 0.2  # seconds; below it reading the cache hardly pays


def run(main: Callable[[list[str]], None]):
    """Runs `main(argv)` under absl; an expected error is one line on stderr and exit code 1.

    `--verbosity=1` shows where such an error came from. Any other error keeps its traceback.
    """

    def guarded(argv: list[str]):
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: options are written --name=value")
            main(argv)
            hosts.leave()
        except EXPECTED_ERRORS as error:
            logging.debug("the error came from here", exc_info=True)
            _fail(_sentence(error))
        except KeyboardInterrupt:
            _fail("interrupted")
        except Exception:
            hosts.fail("an unexpected error, see its output")
            raise

    app.run(guarded, flags_parser=_parse)


def define_config():
    """The required flag `--config=FILE`, with `--config.group.field=value` to change a field."""
    # Without a default: config_flags would parse the command line here, before errors are caught.
    holder = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
    flags.mark_flag_as_required("config")
    return holder


def define_hosts():
    """The flags with which one command, started on every host, becomes one program; see `join_hosts`."""
    flags.DEFINE_bool(
        "distributed", False, "Take part in what the cluster started (TPU pod, SLURM, Open MPI)."
    )
    flags.DEFINE_string("coordinator", None, "Several processes without a cluster: HOST:PORT of process 0.")
    flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.")
    flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.")


def join_hosts():
    """Meets the other processes if the flags of `define_hosts` say so; before any computation."""
    given = {name: flags.FLAGS[name].value for name in ("coordinator", "num_processes", "process_id")}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3 and not flags.FLAGS.distributed:
        return
    if missing and not flags.FLAGS.distributed:
        raise UserError(f"--{missing[0]} is required with --{next(n for n in given if n not in missing)}")

    def end(sentence: str):
        _say(sentence)
        os._exit(1)

    hosts.join(end, *given.values())


@contextlib.contextmanager
def output_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Makes the directory and checks that it can be written, before the work inside the block.

    If the block fails, the directories made here go again, unless something was written to them.

    Raises:
      OSError: it cannot be made or written.
    """
    path = Path(path).absolute()
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
    cores = os.cpu_count() or 1
    n_devices = cores if n_runs is None else max(d for d in range(1, cores + 1) if n_runs % d == 0)
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not given and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", n_devices)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; an error in them is one line."""
    given = re.search(r"^--?config(?:=|\n)([^:\n]*)", "\n".join(argv), re.MULTILINE)
    if given and not Path(given[1]).is_file():
        _fail(f"there is no configuration file {given[1]!r}")
    try:
        arguments = flags.FLAGS(argv)
    except flags.Error as error:
        missing = re.search(r"Flag --(\S+) must have a value other than None", str(error))
        _fail(f"--{missing[1]} is required, see --help" if missing else _flag_sentence(error))
    except (AttributeError, KeyError) as error:  # how ml_collections reports an unknown field
        _fail(f"unknown configuration field {_sentence(error)}")
    except EXPECTED_ERRORS as error:
        _fail(_sentence(error))
    except Exception as error:  # a configuration file is a program and can fail in any way
        _fail(f"{FAILED_FILE}: {type(error).__name__}: {_sentence(error)}")
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # absl would raise it to INFO, at which JAX chatters
    return arguments


def _flag_sentence(error: flags.Error) -> str:
    """The error's text, with what Python's conversions say put in words."""
    if "Traceback" in str(error):  # the configuration file's own
        return f"{FAILED_FILE}: {str(error).strip().splitlines()[-1]}"
    text = _sentence(error)
    for said, meant in {
        "invalid literal for int": "expected a whole number",
        "could not convert string to float": "expected a number",
        "('Non-boolean argument": "expected true or false",
    }.items():
        text = text.split(said)[0] + meant if said in text else text
    if "'config." in text:
        text += ": --config=FILE must come with it"
    return text


def _sentence(error: BaseException) -> str:
    """The error's text on one line."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or type(error).__name__


def _fail(message: str):
    _say(message)
    if hosts.joined():
        hosts.fail(message)
        os._exit(1)  # JAX's own end would wait for the others
    sys.exit(1)


def _say(message: str):
    print(f"error: {message}", file=sys.stderr, flush=True)
