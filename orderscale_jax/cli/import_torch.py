"""Turns a published PyTorch checkpoint into one of ours.

    python -m experiments.import_torch --source=2layer_100dig_64d.pt --output=runs/published_two_layer

The variant (layers, heads, list length, LayerNorm, biases, learned projections) is read off the
arrays. `.npz` files with the same arrays need no PyTorch.
"""

import jax
from absl import flags

from orderscale_jax import convert
from orderscale_jax.checkpoint import save_checkpoint
from orderscale_jax.config import task_config
from orderscale_jax.model.metrics import is_correct
from orderscale_jax.task import make_split

SOURCE = flags.DEFINE_string("source", None, "Published checkpoint, .pt or .npz.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Directory of the checkpoint to write.", required=True)

BATCH_SIZE = 4096  # lists; bounds the memory of the logits


def main(argv):
    del argv
    launch.use_compilation_cache()
    with launch.output_directory(OUTPUT.value) as output:
        model, config = convert.from_torch(convert.read_arrays(SOURCE.value))
        save_checkpoint(output, model, config)
    print(f"{output}: {_describe(model.config)}; {_validation_accuracy(model, task_config(config))}")


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
            f"{config.n_layers} layer{'s' * (config.n_layers > 1)}",
            f"{config.n_heads} head{'s' * (config.n_heads > 1)}",
            f"d_model {config.d_model}",
            f"lists of {config.list_len} of {config.n_digits} digits",
            *(name for name, is_on in variants.items() if is_on),
        ]
    )


if __name__ == "__main__":
    launch.run(main)
