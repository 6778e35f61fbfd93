"""Published PyTorch checkpoints as ours, and our arrays under their names.

A published `state_dict` (TransformerLens names) writes everything out: frozen projections as full
arrays, unused biases as zeros. Which variant it is can therefore be read off its arrays alone.

Dimensions: D model, H heads, C head, T positions, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from flax import nnx

from orderscale_jax import files
from orderscale_jax.checkpoint import from_named_arrays, named_arrays
from orderscale_jax.config import default_config
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model import ListTransformer, ModelConfig, frozen_projections
from orderscale_jax.model.config import FROZEN_HEADS
from orderscale_jax.weight_files import read_npz, read_torch

FROZEN_TOLERANCE = 1e-5  # how far an array may lie from the identity slice and still be frozen
BUFFERS = ("mask", "IGNORE")  # constants that TransformerLens stores beside the weights


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a published checkpoint: a PyTorch `state_dict`, or `.npz` with the same names.

    A file is read as data only, and PyTorch is not needed: nothing in it is run.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file is no checkpoint, is damaged, or holds a tensor that is no plain array.
      OSError: the system refuses.
    """
    path = Path(files.as_text(path))
    return read_npz(path) if path.suffix == ".npz" else read_torch(path)


def from_torch(arrays: Mapping[str, np.ndarray]) -> tuple[ListTransformer, ml_collections.ConfigDict]:
    """The model that published arrays describe, and its configuration (groups `task` and `model`).

    Biases count as learned where any is not zero, a projection where any layer or head differs from
    its frozen slice.

    Raises:
      UserError: an array is missing, unknown, not finite, or has a shape that fits no model.
    """
    check_kind("arrays", arrays, Mapping)
    arrays = {name: _as_float32(name, array) for name, array in arrays.items() if not _is_buffer(name)}
    config = _infer(arrays)
    written_out = _written_out(config)
    bias_names = {name for name in written_out if _is_bias(name)}
    if not bias_names & set(arrays):
        arrays |= {name: np.zeros(written_out[name], np.float32) for name in bias_names}
    _check_shapes(arrays, written_out)

    config = dataclasses.replace(config, bias=any(arrays[name].any() for name in bias_names))
    config = _frozen_form(config, arrays)
    left_out = set() if config.bias else bias_names
    left_out |= {name for name in arrays if name.endswith(".W_V") and not config.learn_wv}
    left_out |= {name for name in arrays if name.endswith(".W_O") and not config.learn_wo}
    trainable = {name: array for name, array in arrays.items() if name not in left_out}
    return from_named_arrays(config, trainable), _config_dict(config)


def is_state_dict(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays look like those of a published checkpoint, and not like stored activations."""
    return "embed.W_E" in arrays


def to_torch(model: ListTransformer) -> dict[str, np.ndarray]:
    """A model's arrays as a published `state_dict` has them, frozen ones and zero biases included."""
    arrays, config = named_arrays(model), model.config
    W_V, W_O = frozen_projections(config)
    for name, shape in _written_out(config).items():
        if name not in arrays:
            arrays[name] = {"W_V": W_V, "W_O": W_O}.get(name.rsplit(".", 1)[1], np.zeros(shape, np.float32))
    return dict(sorted(arrays.items()))


def _infer(arrays: Mapping[str, np.ndarray]) -> ModelConfig:
    """The shape of the model, from the arrays that every model has."""
    layers = {int(match[1]) for name in arrays if (match := re.match(r"blocks\.(\d+)\.", name))}
    for name, n_axes in {"embed.W_E": 2, "pos_embed.W_pos": 2, "blocks.0.attn.W_Q": 3}.items():
        if name not in arrays:
            raise UserError(f"array {name} is missing: this is not the state_dict of a list transformer")
        if arrays[name].ndim != n_axes:
            raise UserError(f"array {name} must have {n_axes} axes, got shape {list(arrays[name].shape)}")
    if gaps := sorted(set(range(len(layers))) - layers):
        raise UserError(f"layer {gaps[0]} has no arrays, but layer {max(layers)} has")
    n_positions, d_vocab = len(arrays["pos_embed.W_pos"]), len(arrays["embed.W_E"])
    if n_positions % 2 == 0 or n_positions < 3:
        raise UserError(
            f"array pos_embed.W_pos has {n_positions} positions, expected 2n+1: n digits, SEP and n outputs"
        )
    if d_vocab < 4:
        raise UserError(f"array embed.W_E has {d_vocab} tokens, expected two digits or more, MASK and SEP")
    return ModelConfig(
        n_layers=len(layers),
        n_heads=len(arrays["blocks.0.attn.W_Q"]),
        d_model=arrays["embed.W_E"].shape[1],
        list_len=n_positions // 2,
        n_digits=d_vocab - 2,
        layer_norm="blocks.0.ln1.w" in arrays or "ln_final.w" in arrays,
        mlp="blocks.0.mlp.W_in" in arrays,
    )


def _written_out(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array that a published `state_dict` of this shape holds."""
    one_layer = dataclasses.replace(config, n_layers=1, bias=True, learn_wv=True, learn_wo=True)
    state = nnx.state(nnx.eval_shape(lambda: ListTransformer(one_layer, rngs=nnx.Rngs(0))))
    shapes = {".".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}
    return {
        name.replace("blocks.0.", f"blocks.{layer}."): shape
        for name, shape in shapes.items()
        for layer in range(config.n_layers if name.startswith("blocks.0.") else 1)
    }


def _check_shapes(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]):
    if missing := sorted(set(expected) - set(arrays)):
        raise UserError(f"array {missing[0]} is missing")
    if unknown := sorted(set(arrays) - set(expected)):
        raise UserError(f"array {unknown[0]} has no place in a list transformer")
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(f"array {name} has shape {list(arrays[name].shape)}, expected {list(shape)}")


def _frozen_form(config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> ModelConfig:
    """Which projections are learned, and the form of the frozen ones that leaves fewest learned."""

    def differs(kind: str, frozen: np.ndarray) -> bool:
        layers = [array for name, array in arrays.items() if name.endswith(f".{kind}")]
        return not all(np.allclose(array, frozen, rtol=0, atol=FROZEN_TOLERANCE) for array in layers)

    forms = []
    for form in FROZEN_HEADS:
        candidate = dataclasses.replace(config, frozen_heads=form)
        W_V, W_O = frozen_projections(candidate)
        forms.append(
            dataclasses.replace(candidate, learn_wv=differs("W_V", W_V), learn_wo=differs("W_O", W_O))
        )
    return min(forms, key=lambda form: form.learn_wv + form.learn_wo)


def _config_dict(model: ModelConfig) -> ml_collections.ConfigDict:
    groups = {}
    for name, defaults in default_config().items():
        if name in ("task", "model"):
            groups[name] = {key: getattr(model, key, value) for key, value in defaults.items()}
    return ml_collections.ConfigDict(groups)


def _is_bias(name: str) -> bool:
    """Whether this array exists only with biases switched on (the shift of a LayerNorm always does)."""
    return name.rsplit(".", 1)[-1].startswith("b_")


def _is_buffer(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in BUFFERS


def _as_float32(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"array {name} holds {array.dtype}, expected floating-point numbers")
    if not array.size:
        raise UserError(f"array {name} is empty, with shape {list(array.shape)}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"array {name} holds numbers that are not finite")
    return array
