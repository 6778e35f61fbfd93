"""Which model a command studies, and on which lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from absl import flags

from orderscale_jax import files
from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, pretrained_names
from orderscale_jax.cli import arguments
from orderscale_jax.errors import UserError
from orderscale_jax.model.interventions import check_mode
from orderscale_jax.task import Split
from orderscale_jax.training.claim import SUMMARY


def define_checkpoint() -> flags.FlagHolder:
    """The flag --checkpoint, for `load`."""
    meaning = f"the directory of a checkpoint, or a model that is shipped: {', '.join(pretrained_names())}."
    return arguments.define("checkpoint", "str", None, meaning, shown="DIR")


def define_examples() -> flags.FlagHolder:
    """The flag --examples, for `examples`."""
    meaning = "use only the first so many validation lists."
    return arguments.define("examples", "int", None, meaning, least=1, shown="NUMBER")


def define_cuts(default: Sequence[str]) -> flags.FlagHolder:
    """The flag --cuts, for `cuts`."""
    meaning = (
        "what it means to cut an edge: one or more of renormalize, zero, mean and resample, with commas."
    )
    return arguments.define("cuts", "str", ",".join(default), meaning)


def define_tolerance() -> flags.FlagHolder:
    """The flag --tolerance, for `check_tolerance`."""
    meaning = "a set of edges is sufficient within so much of the model's accuracy."
    return arguments.define("tolerance", "float", 0.01, meaning)


def words(holder: flags.FlagHolder) -> list[str]:
    """The different words of a flag, between which there are commas; UserError if one is empty."""
    found = list(dict.fromkeys(word.strip() for word in holder.value.split(",")))
    if "" in found:
        raise UserError(
            f"--{holder.name}={holder.value}: expected words with commas between them, and one is empty"
        )
    return found


def cuts(holder: flags.FlagHolder) -> list[str]:
    """The meanings of a cut that a flag names; UserError if one does not exist."""
    modes = words(holder)
    for mode in modes:
        check_mode(mode)
    return modes


def examples(split: Split, wanted: int | None) -> np.ndarray:
    """The first so many validation lists, all of them for None; UserError if there are fewer."""
    there_are = len(split.validation)
    if wanted is not None and wanted > there_are:
        raise UserError(f"--examples={wanted} asks for more than the {there_are} validation lists there are")
    return split.validation[:wanted]


def load(checkpoint: str):
    """Model, configuration and name of a checkpoint or of a shipped model.

    Raises:
      UserError: there is none, or it is another kind of file or directory.
    """
    path = files.place(checkpoint)
    if checkpoint in pretrained_names() and not path.exists():
        return *load_pretrained(checkpoint), checkpoint
    if path.is_file():
        raise UserError(
            f"{path} is a file, not the directory of a checkpoint: turn .pt and .npz files into one with "
            f"orderscale import-torch --source={path} --output=DIR"
        )
    if not path.exists():
        names = ", ".join(pretrained_names()) or "none"
        raise UserError(
            f"there is no checkpoint at {files.absolute(path)}, and no shipped model of that name ({names})"
        )
    if (path / SUMMARY).is_file() and (path / "checkpoint").is_dir():
        raise UserError(f"{path} is the directory of a run: its checkpoint is {path / 'checkpoint'}")
    model, config = load_checkpoint(path)
    resolved = files.absolute(path)
    name = resolved.parent.name if resolved.name == "checkpoint" else resolved.name
    name = config.get("name", "") or name
    return (
        model,
        config,
        name.encode("utf-8", "replace").decode(),
    )  # a directory may have any bytes as its name
