"""Models and training states on disk.

A checkpoint is one directory of orbax with two items: `arrays`, named as in the published
`state_dict`s (`blocks.0.attn.W_Q`), and `config`, JSON that holds the configuration, the format's
number and the digest of the arrays. A training state is the same with other arrays, its step and `metadata`.
What a directory is, and when it is whole, is in `storage`.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from orderscale_jax import files, storage
from orderscale_jax.config import RunConfig, model_config
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model import ListTransformer, ModelConfig, bind
from orderscale_jax.storage import DamagedError

logger = logging.getLogger(__name__)

PRETRAINED = Path(__file__).parent / "pretrained"
KEPT_STATES = 2  # the latest state and one to fall back on


def save_checkpoint(path: str | os.PathLike, model: ListTransformer, config: ml_collections.ConfigDict):
    """Writes a model and its configuration to the directory `path`, which may be `gs://…`.

    An older checkpoint at `path` is replaced only when the new one is complete. Where JAX counts several
    processes, as on a TPU pod, each writes what it is told, without the others.

    Raises:
      UserError: `config` describes another model, the model's arrays are not finite, `path` is nowhere, or
        `jax.distributed` has joined this process to others.
      FileExistsError: `path` holds something that is not a checkpoint.
      OSError: `path` cannot be written.
    """
    if not isinstance(model, ListTransformer) or not isinstance(config, ml_collections.ConfigDict):
        raise UserError("save_checkpoint takes a path, a ListTransformer and a ConfigDict, in this order")
    if model_config(config) != model.config:
        raise UserError(
            f"the configuration describes {model_config(config)}, but the model is {model.config}"
        )
    arrays = named_arrays(model)
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"array {wrong[0]} holds numbers that are not finite: no such model is saved")
    storage.write(path, arrays, {"config": json.loads(config.to_json_best_effort())})


def load_checkpoint(path: str | os.PathLike) -> tuple[ListTransformer, ml_collections.ConfigDict]:
    """The model in the directory `path`, on the default device, and its configuration.

    The configuration has at least the groups `task` and `model`.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      UserError: `path` is not a checkpoint, is damaged, contradicts itself, or is too new.
    """
    arrays, about = storage.read(path)
    if about["format"] == 1:
        _from_first_format(about)
    if not isinstance(about.get("config"), dict):
        raise UserError(f"{path} is not a checkpoint of a model: it holds no configuration")
    config = ml_collections.ConfigDict(about["config"])
    try:
        return from_named_arrays(model_config(config), arrays), config
    except UserError as error:
        raise UserError(f"the checkpoint {path} contradicts its configuration: {error}") from error


def load_pretrained(name: str) -> tuple[ListTransformer, ml_collections.ConfigDict]:
    """A model that comes with the package, one of `pretrained_names`, and its configuration.

    Raises:
      UserError: there is no such model.
    """
    names = pretrained_names()
    if name not in names:
        raise UserError(f"no pretrained model {name!r}; there is {', '.join(names) or 'none'}")
    return load_checkpoint(PRETRAINED / name)


def pretrained_names() -> tuple[str, ...]:
    """The names that `load_pretrained` knows."""
    if not PRETRAINED.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in PRETRAINED.iterdir() if storage.is_ours(entry)))


def named_arrays(model: ListTransformer) -> dict[str, np.ndarray]:
    """The trainable arrays on the host under their published names, sorted by name."""
    check_kind("model", model, ListTransformer)
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    arrays = {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in leaves}
    return dict(sorted(arrays.items()))


def from_named_arrays(config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> ListTransformer:
    """A model with the given arrays; the inverse of `named_arrays`.

    Raises:
      UserError: an array is missing, is not of this model, has another shape, or is not finite.
    """
    check_kind("config", config, ModelConfig)
    check_kind("arrays", arrays, Mapping)
    state = nnx.state(nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    leaves = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    if missing := sorted(set(leaves) - set(arrays)):
        raise UserError(f"array {missing[0]} is missing")
    if unknown := sorted(set(arrays) - set(leaves)):
        raise UserError(f"array {unknown[0]} does not belong to this model")
    for name, (_, leaf) in leaves.items():
        if arrays[name].shape != leaf.shape:
            raise UserError(f"array {name} has shape {list(arrays[name].shape)}, expected {list(leaf.shape)}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"array {name} holds numbers that are not finite, so this is no trained model")
    filled = [
        (path, leaf.replace(jnp.asarray(arrays[name], leaf.dtype))) for name, (path, leaf) in leaves.items()
    ]
    return bind(config, nnx.from_flat_state(filled))


def save_state(directory: str | os.PathLike, step: int, state: Any, metadata: Mapping[str, Any]):
    """Writes the training state after `step` steps, from which a killed run can go on.

    The last two states are kept. States of later steps belong to a course that was given up, and go.

    Args:
      directory: of this process's states only.
      step: not negative.
      state: any pytree of arrays, fully addressable from this process, without typed keys.
      metadata: what JSON can hold.

    Raises:
      UserError: an array is empty, there is none, or two have the same name; the step is negative.
      OSError: the state cannot be written; what was there stays.
    """
    directory, step = files.place(directory), operator.index(step)
    if step < 0:
        raise UserError(f"a step must not be negative, got {step}")
    place = directory / _name(step)
    if place.exists() and not storage.is_ours(place):  # what is left of a damaged state that was passed over
        storage.clear(place)
    storage.write(place, _flatten(state), {"step": step, "metadata": dict(metadata)})
    if not files.is_remote(directory):
        for left in directory.glob(".step_*.partial*"):  # by a process that was killed while saving
            shutil.rmtree(left, ignore_errors=True)
    steps = _steps(directory)
    kept = [other for other in steps if other <= step][-KEPT_STATES:]
    for other in set(steps) - set(kept):
        files.remove_directory(directory / _name(other))


def restore_latest(
    directory: str | os.PathLike, like: Any | Callable[[dict[str, Any]], Any]
) -> tuple[int, Any, dict[str, Any]] | None:
    """The latest whole training state in `directory`: (step, state, metadata), or None if there is none.

    A state whose files are damaged, or which is named after another step than its own, is passed over, with
    a warning in the log, for the one before. Leaves are NumPy arrays in the structure of `like`, a pytree of
    arrays or of their shapes, or what gives one for the state's metadata.

    Raises:
      DamagedError: there are states, and all of them are damaged.
      UserError: a state is of another structure, thus of another configuration, or too new.
      OSError: a state cannot be read for another reason; nothing is known to be lost.
    """
    directory, damaged = files.place(directory), []
    for step in reversed(_steps(directory)):
        try:
            arrays, about = storage.read(directory / _name(step))
        except DamagedError:
            about = None
        if about is None or about.get("step", step) != step:
            damaged.append(step)
            continue
        metadata = about.get("metadata")
        if not isinstance(metadata, dict):
            raise UserError(f"{directory / _name(step)} is not a training state: it has no metadata")
        state = _unflatten(arrays, like(metadata) if callable(like) else like, directory)
        if damaged:
            found = " and ".join(map(str, damaged))
            logger.warning(
                "in %s the state of step %s is damaged or renamed: going on from step %d",
                directory,
                found,
                step,
            )
        return step, state, metadata
    if damaged:
        raise DamagedError(
            f"no state in {directory} is whole: put back a copy of it, or delete it to train from the start"
        )
    return None


def _from_first_format(about: dict[str, Any]):
    """Gives the configuration of the first format the option of today for the one that is no more."""
    config = about.get("config")
    if isinstance(config, dict) and isinstance(config.get("train"), dict):
        config["train"].pop("checkpoint_every", None)
        config.setdefault("save_seconds", RunConfig.save_seconds)


def _steps(directory: files.Place) -> list[int]:
    """The steps of which `directory` has a state, ascending."""
    if not directory.is_dir():
        return []
    names = (entry.name for entry in directory.iterdir() if storage.is_there(entry))
    steps = {name: int(match[1]) for name in names if (match := re.fullmatch(r"step_(\d{9,})", name))}
    return sorted(step for name, step in steps.items() if name == _name(step))


def _name(step: int) -> str:
    return f"step_{step:09d}"


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    arrays = {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    if len(arrays) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two arrays of the state have the same name {name!r}: rename one of them")
    if not arrays or not all(array.size for array in arrays.values()):
        raise UserError("a state needs arrays, and each of them a number: orbax saves no empty ones")
    return arrays


def _unflatten(arrays: Mapping[str, np.ndarray], like: Any, directory: files.Place):
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    expected = {name: np.shape(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    found = {name: array.shape for name, array in arrays.items()}
    if expected != found:
        name = min(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise UserError(
            f"the run in {directory} was made with another configuration ({name} differs): "
            "give the same configuration again or another directory"
        )
    return jax.tree_util.tree_unflatten(structure, [arrays[name] for name in names])
