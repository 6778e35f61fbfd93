"""Turns a published PyTorch checkpoint into one of ours.

    orderscale import-torch --source=2layer_100dig_64d.pt --output=runs/theirs

The variant (layers, heads, list length, LayerNorm, biases, learned projections)
is read off the arrays. .npz files with the same arrays need no PyTorch.
"""

from __future__ import annotations

import jax

from orderscale_jax import convert
from orderscale_jax.checkpoint import save_checkpoint
from orderscale_jax.cli import arguments, machine
from orderscale_jax.config import task_config
from orderscale_jax.formatting import count
from orderscale_jax.model.metrics import is_correct
from orderscale_jax.task import make_split

SOURCE = arguments.define("source", "str", None, "the published checkpoint, .pt or .npz.", shown="FILE")
OUTPUT = arguments.define("output", "str", None, "the directory of the checkpoint to write.", shown="DIR")

BATCH_SIZE = 4096  # lists; bounds the memory of the logits


def main():
    source, output = arguments.required(SOURCE), arguments.required(OUTPUT)
    machine.use_compilation_cache()
    with machine.output_directory(output) as directory:
        model, config = convert.from_torch(convert.read_arrays(source))
        save_checkpoint(directory, model, config)
    print(f"{directory}: {_describe(model.config)}; {_validation_accuracy(model, task_config(config))}")


def _validation_accuracy(model, task) -> str:
    lists = make_split(task).validation
    correct = jax.jit(lambda lists: is_correct(model(lists), lists).sum())
    hits = sum(int(correct(lists[i : i + BATCH_SIZE])) for i in range(0, len(lists), BATCH_SIZE))
    which = "lists of the published validation split" if task.is_exhaustive else "sampled lists"
    return f"accuracy {hits / lists.size:.4f} on {len(lists):,} {which}"


def _describe(config) -> str:
    variants = {
        "LayerNorm": config.layer_norm,
        "biases": config.bias,
        "learned W_V": config.learn_wv,
        "learned W_O": config.learn_wo,
        "MLP": config.mlp,
        "block heads": config.frozen_heads == "block",
    }
    return ", ".join(
        [
            count(config.n_layers, "layer"),
            count(config.n_heads, "head"),
            f"d_model {config.d_model}",
            f"lists of {config.list_len} of {config.n_digits} digits",
            *(name for name, is_on in variants.items() if is_on),
        ]
    )
