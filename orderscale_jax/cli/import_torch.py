"""Turns a published PyTorch checkpoint into one of ours.

    orderscale import-torch --source=2layer_100dig_64d.pt --output=runs/theirs

The variant (layers, heads, list length, LayerNorm, biases, learned projections)
is read off the arrays. .npz files with the same arrays do as well. PyTorch is
not needed, and a damaged file is refused.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from orderscale_jax import convert
from orderscale_jax.checkpoint import save_checkpoint
from orderscale_jax.cli import arguments, machine
from orderscale_jax.config import Setup, TrainConfig, task_config
from orderscale_jax.formatting import count
from orderscale_jax.task import make_split
from orderscale_jax.training.step import evaluate

SOURCE = arguments.define("source", "str", None, "the published checkpoint, .pt or .npz.", shown="FILE")
OUTPUT = arguments.define("output", "str", None, "the directory of the checkpoint to write.", shown="DIR")


def main():
    source, output = arguments.required(SOURCE), arguments.required(OUTPUT)
    machine.use_compilation_cache()
    with machine.output_directory(output) as directory:
        model, config = convert.from_torch(convert.read_arrays(source))
        save_checkpoint(directory, model, config)
    print(f"{directory}: {_describe(model.config)}; {_validation_accuracy(model, task_config(config))}")


def _validation_accuracy(model, task) -> str:
    lists = make_split(task).validation
    setup = Setup(model.config, task, TrainConfig())
    scores = jax.jit(evaluate, static_argnums=0)(setup, nnx.state(model, nnx.Param), jnp.asarray(lists))
    which = "lists of the published validation split" if task.is_exhaustive else "sampled lists"
    return f"accuracy {scores['accuracy']:.4f} on {len(lists):,} {which}"


def _describe(config) -> str:
    shape = [
        count(config.n_layers, "layer"),
        count(config.n_heads, "head"),
        f"d_model {config.d_model}",
        f"lists of {config.list_len} of {config.n_digits} digits",
    ]
    blocks = ["block heads"] if config.frozen_heads == "block" else []
    return ", ".join([*shape, *(name for name in config.variants if "heads" not in name), *blocks])
