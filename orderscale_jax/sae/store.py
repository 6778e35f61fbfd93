"""SAEs on disk, and published ones from PyTorch files.

An SAE is a directory as a checkpoint of a model is, see `storage`: its arrays, and JSON that says its
configuration, its seed and steps, and the digest of the weights of the model that it was trained on.

Dimensions: D model, F latents.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orderscale_jax import checkpoint, files, storage
from orderscale_jax.circuits.checks import real_numbers
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model import ListTransformer
from orderscale_jax.options import shown
from orderscale_jax.sae.autoencoder import SparseAutoencoder, from_named_arrays, named_arrays
from orderscale_jax.sae.config import BY_BATCH, MOST_IN_BATCH, SAEConfig
from orderscale_jax.weight_files import read_npz, read_torch

PRETRAINED = Path(__file__).parent / "pretrained"
KINDS = {  # names in published files: ours, and whether theirs is the transpose
    "encoder.weight": ("W_enc", True),
    "encoder.bias": ("b_enc", False),
    "decoder.weight": ("W_dec", True),
    "W_enc": ("W_enc", False),
    "b_enc": ("b_enc", False),
    "W_dec": ("W_dec", False),
    "b_dec": ("b_dec", False),
    "bias": ("b_dec", False),  # of the library's standard SAE
    "threshold": ("threshold", False),
    "act_mean": ("act_mean", False),
}
IGNORED = ("k", "group_sizes")  # numbers that are read apart


def save_sae(path: str | os.PathLike, sae: SparseAutoencoder, about: Mapping[str, Any] | None = None):
    """Writes an SAE to the directory `path`, whole or not at all.

    Args:
      path: an older SAE there is replaced when the new one is complete.
      sae: what to write.
      about: what else is to be known of it, as JSON can hold it: `seed`, `model_sha256`, ….

    Raises:
      UserError: its arrays are not finite, or it is no SAE.
      FileExistsError: `path` holds something else.
      OSError: it cannot be written.
    """
    arrays = named_arrays(sae)
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"array {wrong[0]} holds numbers that are not finite: no such SAE is saved")
    check_kind("about", about := about or {}, Mapping)
    storage.write(path, arrays, {"sae": dataclasses.asdict(sae.config), "about": files.plain(dict(about))})


def load_sae(path: str | os.PathLike) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The SAE in the directory `path`, and what is said about it.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      UserError: it is no SAE, is damaged, or contradicts itself.
    """
    if files.place(path).is_file():
        raise UserError(
            f"{path} is a file, not the directory of an SAE: turn a .pt or .npz file into one with "
            f"orderscale sae-import --source={path} --output=DIR"
        )
    arrays, said = storage.read(path)
    options, about = said.get("sae"), said.get("about")
    if not isinstance(options, dict) or not isinstance(about, dict):
        raise UserError(f"{path} holds no sparse autoencoder, but a model or a training state")
    known = {field.name for field in dataclasses.fields(SAEConfig)}
    if unknown := sorted(set(options) - known):
        raise UserError(f"{path} has the option {unknown[0]}, which this version does not know")
    try:
        return from_named_arrays(SAEConfig(**options), arrays), about
    except UserError as error:
        raise UserError(f"the SAE {path} contradicts itself: {error}") from error


def check_model(about: Mapping[str, Any], model: ListTransformer):
    """UserError if an SAE says that it was trained on another model than this one."""
    check_kind("about", about, Mapping)
    said = about.get("model_sha256")
    if said is not None and said != model_digest(model):
        name = about.get("model", "another one")
        raise UserError(f"this SAE was trained on another model ({name}): give the checkpoint of that one")


def model_digest(model: ListTransformer) -> str:
    """Names a model by its weights."""
    return storage.weight_digest(checkpoint.named_arrays(model))


def import_sae(
    source: str | os.PathLike, act_mean=None, family: str | None = None
) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """A published SAE: a PyTorch file of the library `dictionary-learning`, or `.npz` with the same names.

    The file is read as data: nothing in it is run, and PyTorch is not needed.

    Args:
      source: the file; a `.pt` may hold a `state_dict` alone or, as published, in a dictionary beside
        `act_mean`.
      act_mean: [D], where the file does not hold it.
      family: for files that could be of several; None for the one that the names tell (BatchTopK, where they
        could be TopK's too).

    Returns:
      (the SAE, what is said about it: `source`).

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it is no such file or is damaged, an array is missing, unknown, not finite or of a wrong
        shape, or `act_mean` is missing.
    """
    path = Path(files.as_text(source))
    found = read_npz(path) if path.suffix == ".npz" else read_torch(path, nested=True)
    arrays = {name.removeprefix("state_dict."): array for name, array in found.items()}
    if len(arrays) < len(found):
        raise UserError(f"{path} holds two arrays of the same name")
    if act_mean is not None:
        if "act_mean" in arrays:
            raise UserError(f"{path} holds its act_mean: give none")
        arrays["act_mean"] = real_numbers("act_mean", act_mean)
    try:
        return _from_arrays(arrays, family), {"source": path.name}
    except UserError as error:
        raise UserError(f"{path} is no SAE that is known here: {error}") from error


def _from_arrays(arrays: Mapping[str, np.ndarray], family: str | None) -> SparseAutoencoder:
    ours: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name in IGNORED:
            continue
        if name not in KINDS:
            raise UserError(f"array {name} has no place in an SAE of the library dictionary-learning")
        own, is_turned = KINDS[name]
        if own in ours or (is_turned and np.ndim(array) != 2):
            raise UserError(f"array {name} is there twice, or has shape {list(np.shape(array))}")
        ours[own] = array.T if is_turned else array
    if "act_mean" not in ours:
        raise UserError("it says no act_mean, the mean [D] of the inputs that was subtracted: give it")
    if np.ndim(ours.get("W_dec")) != 2:
        raise UserError("its decoder is missing, or is no matrix")
    width = len(ours["W_dec"])
    if family is None:
        family = "jumprelu" if np.ndim(ours.get("threshold", 0.0)) == 1 else "batch_topk"
        family = "matryoshka" if "group_sizes" in arrays else family
        family = "l1" if "threshold" not in ours else family
    if family in BY_BATCH and "threshold" not in ours:
        raise UserError(f"array threshold is missing, which an SAE of the family {family} needs")
    if family == "topk" or "threshold" not in ours:
        ours["threshold"] = np.float32(-1)
    if family == "jumprelu" and {"b_enc", "b_dec", "W_enc"} <= set(ours):  # theirs does not subtract b_dec
        ours["b_enc"] = ours["b_enc"] + ours["b_dec"] @ ours["W_enc"]
    k = real_numbers("array k", arrays.get("k", min(3, width)))
    if k.shape != () or k != np.rint(k):
        raise UserError(f"array k must be a whole number, got {shown(arrays['k'])}")
    batch_size = max(1, min(SAEConfig.batch_size, MOST_IN_BATCH // max(1, width)))
    sae = from_named_arrays(SAEConfig(family=family, width=width, k=int(k), batch_size=batch_size), ours)
    if family in BY_BATCH and sae.threshold[...] < 0:
        raise UserError("its threshold is negative: it was trained too short to have one")
    return sae


def name_of(config: SAEConfig, seed: int, source: str = "") -> str:
    """A name for a directory: `batch_topk_w128_k3_lr0.0003_seed0`."""
    sparse = f"p{config.weight_of_penalty:g}" if config.family == "l1" else f"k{config.k}"
    parts = (source, config.family, f"w{config.width}", sparse, f"lr{config.learning_rate:g}", f"seed{seed}")
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", "_".join(part for part in parts if part))


def load_pretrained_sae(name: str) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """An SAE that comes with the package, one of `pretrained_saes`, named as the model that it is of.

    Raises:
      UserError: there is none of that name.
    """
    names = pretrained_saes()
    if name not in names:
        raise UserError(f"no pretrained SAE {name!r}; there is {', '.join(names) or 'none'}")
    return load_sae(PRETRAINED / name)


def pretrained_saes() -> tuple[str, ...]:
    """The names that `load_pretrained_sae` knows."""
    if not PRETRAINED.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in PRETRAINED.iterdir() if storage.is_ours(entry)))
