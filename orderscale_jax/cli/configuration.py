"""The flag `--config`: a file or a configuration that is shipped, and `--config.OPTION=VALUE`."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from orderscale_jax.cli import arguments
from orderscale_jax.config import GROUPS, SweepConfig, check_config, check_sweep, options
from orderscale_jax.errors import UserError
from orderscale_jax.options import meanings

PACKAGE = Path(__file__).parents[1]
# In an installed package they are in it, in a clone beside it.
SHIPPED = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
NOT_OF_A_SWEEP = ("min_accuracy", "max_attempts")  # its runs are tried once, and short
HEADING = "Options of the configuration, with their defaults (the command line wins over the file)"


class Configuration:
    """`--config`, and a flag for every option of a run or of a sweep; made before flags are read."""

    def __init__(self, *, sweep: bool = False):
        self._sweep = sweep
        self._shipped = ", ".join(name for name in shipped() if name.startswith("sweeps/") == sweep)
        self._file = arguments.define(
            "config",
            "str",
            None,
            f"a Python file with get_config(), or what is shipped: {self._shipped}.",
            shown="NAME",
        )
        self._options = []
        for place, name, kind, meaning, shown in _options(sweep):
            flag = f"config.{place}{name}"
            holder = arguments.define(flag, kind, None, meaning, shown=shown, heading=HEADING)
            self._options.append((place, name, holder))

    def load(self) -> ml_collections.ConfigDict:
        """The configuration that was asked for, with what was given on the command line.

        Raises:
          UserError: there is none of that name, its file fails, or an option does not exist or fit.
        """
        name, colon, argument = arguments.required(self._file).partition(":")  # get_config may take one
        path = find(name)
        config = call_file(path, [argument] if colon else [])
        if "grid" in config:
            check_sweep(config)
        given = [(place, name, holder.value) for place, name, holder in self._options if holder.present]
        fixed = {field for fields, _ in config.get("grid", ()) for field in fields}
        with config.unlocked(), config.ignore_type():
            for place, name, value in given:
                if (field := f"{place.removeprefix('base.')}{name}") in fixed:
                    raise UserError(f"--config.{place}{name} would change nothing: the grid sets {field}")
                _group(config, place, path)[name] = value
        (check_sweep if self._sweep else check_config)(config)
        return config


def shipped() -> dict[str, Path]:
    """The configurations that are shipped, by name: `two_layer`, `sweeps/table4`, …"""
    found = [path for folder in (SHIPPED, SHIPPED / "sweeps") for path in sorted(folder.glob("*.py"))]
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in found}


def find(name: str) -> Path:
    """The file of a configuration: `name` is its path, or the name of one that is shipped.

    Raises:
      UserError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    known = shipped()
    if name not in known:
        if Path(name).exists():
            raise UserError(f"{name} is no file: give a Python file with get_config()")
        raise UserError(
            f"there is no configuration file {name!r}, and none of that name is shipped: "
            f"there are {', '.join(known)}"
        )
    return known[name]


def load(name: str) -> ml_collections.ConfigDict:
    """A configuration as its file has it; `name` as in `find`."""
    return call_file(find(name))


def _options(sweep: bool) -> Iterator[tuple[str, str, str, str, str]]:
    """Place (`base.model.`), name, kind, meaning and default of every option that may be given."""
    if sweep:
        meaning = meanings(SweepConfig)
        for field in dataclasses.fields(SweepConfig):
            yield "", field.name, field.type, meaning[field.name], "AS IN THE FILE"
    for group, cls in GROUPS.items():
        if sweep and group in ("", "wandb"):  # a sweep has seeds, and a log, of its own
            continue
        place = "base." * sweep + f"{group}." * bool(group)
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        for name, default, meaning in options(group):
            if sweep and name in NOT_OF_A_SWEEP:
                continue
            yield place, name, kinds[name], meaning, arguments.in_words(default)


def _group(config: ml_collections.ConfigDict, place: str, path: Path) -> Any:
    """What holds the options of a place such as `base.model.`."""
    for name in place.split(".")[:-1]:
        if name not in config:
            raise UserError(f"{path} has no group {name!r}, in which --config.{place}… sets an option")
        config = config[name]
    return config


def call_file(path: Path, given: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """What `get_config` of a file returns for the words that are given to it.

    Raises:
      UserError: the file fails, or is no configuration file.
    """
    loader = importlib.machinery.SourceFileLoader("orderscale_configuration", str(path))
    try:
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        exec(loader.get_code(loader.name), vars(module))  # as no import, which a signal would wait for
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"{path} is no configuration file: it defines no function get_config()")
        config = module.get_config(*given)
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"{path}: the configuration file ended the program: leave out sys.exit()") from error
    except Exception as error:  # the file is a program, and can fail in any way
        frames = traceback.extract_tb(error.__traceback__)
        line = [str(frame.lineno) for frame in frames if frame.filename == str(path)][-1:]
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if isinstance(error, AttributeError):  # ml_collections goes on with all options there are
            text = text.partition(". ")[0]
        raise UserError(
            f"{':'.join([str(path), *line])}: the configuration file failed: {type(error).__name__}: " + text
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{path}: get_config() must return a ConfigDict, not a {type(config).__name__}")
    if isinstance(config, ml_collections.FrozenConfigDict):
        return ml_collections.ConfigDict(config).lock()
    return config
