"""What every command goes through: its flags are read, and what can be expected to fail is one sentence."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from orderscale_jax.cli import arguments, signals
from orderscale_jax.errors import UserError
from orderscale_jax.training.interruption import Interrupted

HELP = ("--help", "-h", "-help", "-?", "--helpshort", "--helpfull")


def run(command: ModuleType, argv: list[str]) -> NoReturn:
    """Runs `command.main()` under absl, with its flags as `argv` sets them; ends the process.

    Args:
      command: has a docstring, flags made by `arguments.define`, and `main`; perhaps `ARGUMENT`, the flag
        that may be given as a bare word, too.
      argv: the name of the command as it is called, then its arguments.
    """
    if any(argument in HELP for argument in argv[1:]):
        print(arguments.help_text(argv[0], command.__doc__), flush=True)
        sys.exit()

    def main(rest: list[str]):
        del rest  # there is none, see `_parse`
        command.main()
        if sys.stdout is not None:  # as where it was closed
            sys.stdout.flush()  # here a closed pipe is noticed while `answer` listens

    app.run(main, _named(command, argv), flags_parser=_parse)


def guard(command: Callable[[], None]):
    """Runs what is no command of `orderscale` as one, see `answer`."""
    with signals.handled() as wanted:
        answer(wanted, command)


def answer(wanted: signals.OnSignal, command: Callable[[], None]):
    """Runs `command`; of what can be expected to fail it makes one sentence on stderr and an exit code.

    That is what a user can put right and what the system refuses (a full disk, a missing permission), with
    code 1, and an interruption, with 128 and the number of its signal. Every other error keeps its
    traceback; `--verbosity=1` shows that of these too.

    Args:
      wanted: of `signals.handled`.
      command: takes and returns nothing.
    """
    try:
        try:
            wanted.hear()
            command()
        finally:
            wanted.hear_no_more()
    except BrokenPipeError:  # nobody reads any more, and Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        if absl_logging.get_verbosity() >= absl_logging.DEBUG:
            traceback.print_exception(error)
        _fail(_sentence(error))
    except Interrupted as error:
        _leave(f"{error}; the same command goes on", wanted)
    except KeyboardInterrupt as error:
        _leave(str(error) or "interrupted", wanted)


def first_line(docstring: str | None) -> str:
    """The summary of a docstring, without the full stop."""
    return (docstring or "").strip().partition("\n")[0].removesuffix(".")


def _named(command: ModuleType, argv: list[str]) -> list[str]:
    """The arguments with the name of the flag before a bare word that stands first, where there is one."""
    holder = getattr(command, "ARGUMENT", None)
    if holder is None or len(argv) < 2 or argv[1].startswith("-"):
        return argv
    if any(argument.lstrip("-").partition("=")[0] == holder.name for argument in argv[2:]):
        raise UserError(f"{argv[1]!r} and --{holder.name} say the same thing: give one of them")
    return [argv[0], f"--{holder.name}={argv[1]}", *argv[2:]]


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags; nothing else may be left."""
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, arguments.names(), n=1)
        hint = f": did you mean --{near[0]}?" if near else ", see --help"
        raise UserError(f"there is no option --{error.flagname}{hint}") from error
    except flags.Error as error:
        raise UserError(str(error).removeprefix("flag ")) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options are written --name=value")
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = absl_logging.WARNING  # absl would raise it to INFO, at which JAX chatters
    _show_warnings()
    return rest


def _show_warnings():
    """What the library says and warns of is a line on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    logger = logging.getLogger("orderscale_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _sentence(error: Exception) -> str:
    """The error's text on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or type(error).__name__


def _fail(sentence: str, code: int = 1) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


def _leave(sentence: str, wanted: signals.OnSignal) -> NoReturn:
    """`_fail` with a signal's exit code; at once, because Python's own end waits for compiled code."""
    try:
        _fail(sentence, signals.exit_code(wanted))
    finally:
        if wanted.signal is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
            os._exit(signals.exit_code(wanted))
