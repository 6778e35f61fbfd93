"""What training takes in memory, by arithmetic on the configuration alone: nothing is traced or allocated.

The estimates are low, compilers plan one to four times as much: what is refused here is impossible.
"""

from __future__ import annotations

import dataclasses

from orderscale_jax.config import GROUPS, Setup
from orderscale_jax.host import check_memory
from orderscale_jax.model import scales
from orderscale_jax.model.config import FLOAT
from orderscale_jax.training.run import lists_scored

SIZES = (
    ("task", "list_len"),
    ("task", "n_digits"),
    ("model", "d_model"),
    ("model", "n_layers"),
    ("train", "batch_size"),
    ("train", "eval_batch_size"),
)
COPIES = 4  # of the weights in the state of a run: themselves, both moments, the best ones
DEVICE_OVER_HOST = 4  # a device may have several times its host's memory, and is not asked here


def state_bytes(setup: Setup) -> int:
    """Memory of the state of one run."""
    return FLOAT * COPIES * setup.model.n_parameters


def run_bytes(setup: Setup) -> int:
    """Memory that a device needs at least for one run: its state, the gradient, what a batch leaves for the
    way back, and the tables of the scale form or the mask of the other."""
    model, train = setup.model, setup.train
    n, T = model.list_len, model.n_positions
    logits = n * model.d_vocab
    if scales.is_faster(model):
        table, per_list = logits * model.n_digits, logits
    else:
        per_layer = T * model.d_model * (1 + 4 * model.mlp) + n * n * model.n_heads
        table, per_list = T * T, 2 * logits + per_layer * model.n_layers
    scored = min(train.eval_batch_size, max(lists_scored(setup.task)))
    of_lists = max(per_list * train.batch_size, logits * scored)
    return FLOAT * ((COPIES + 1) * model.n_parameters + table + of_lists)


def check_size(setup: Setup, n_runs: int):
    """UserError if this machine cannot train so many runs, for their memory or for what compiling takes.

    The host holds the states of all runs. A device needs memory for one at least: the others wait.
    """
    needed = run_bytes(setup)
    saved = {option: needed - run_bytes(other) for option, other in _smaller(setup).items()}
    option = max(saved, key=saved.get, default="model.d_model")
    group, _, name = option.partition(".")
    what = f"training with {option}={getattr(getattr(setup, group), name)} takes"
    check_memory(needed, what, f"give a smaller {option}", DEVICE_OVER_HOST)
    setup.model.check_layers(needed)
    advice = "give a smaller config.runs, or share them out over several machines"
    check_memory(n_runs * state_bytes(setup), f"{n_runs:,} runs take", advice)


def _smaller(setup: Setup) -> dict[str, Setup]:
    """By each option that is larger than by default, the setup with its default."""
    return {
        f"{group}.{name}": _replaced(setup, name, default)
        for group, name in SIZES
        if getattr(getattr(setup, group), name) > (default := getattr(GROUPS[group], name))
    }


def _replaced(setup: Setup, name: str, value: int) -> Setup:
    """The setup with another value of an option, in every group that has it."""
    parts = {}
    for group in ("model", "task", "train"):
        part = getattr(setup, group)
        if hasattr(part, name):
            heads = {"n_heads": 1} if name == "d_model" and group == "model" else {}  # which must divide it
            part = dataclasses.replace(part, **{name: value}, **heads)
        parts[group] = part
    return Setup(**parts)
