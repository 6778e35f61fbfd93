"""What a model is and how good it is, in a few plain sentences made from the results."""

from __future__ import annotations

from orderscale_jax.formatting import count, enumerate_words, percent
from orderscale_jax.report.published import Results


def headline(results: Results) -> str:
    """How good the model is, in a few sentences."""
    val, n = results["val"], results["list_len"]
    text = f"Of {_lists(results)} it writes {percent(val['sequence_accuracy'])} entirely right"
    if n > 1:
        each = [f"o{i + 1} {percent(x)}" for i, x in enumerate(val["per_position_accuracy"])]
        digits = n * results["n_val_used"]
        text += f", and of their {digits:,} digits {percent(val['accuracy'])} ({', '.join(each)})"
    text += "."
    if seen := results["train"]:
        text += (
            f" Of the {count(seen['n_lists'], 'training list')} it writes "
            f"{percent(seen['sequence_accuracy'])} entirely right, and {percent(seen['accuracy'])} of their "
            f"{n * seen['n_lists']:,} digits."
        )
    if results["validation_lists_seen"]:
        text += (
            " Its training drew validation lists too. So these numbers say what it can hold, not how well it "
            "generalises."
        )
    return text


def description(results: Results) -> str:
    """What the model is."""
    config, variant = results["config"], results["variant"]
    parts = [
        f"A transformer of {count(config['n_layers'], 'layer')} and {count(config['n_heads'], 'head')}, "
        f"{config['d_model']} wide, with {results['parameters']['trainable']:,} trainable parameters."
    ]
    extras = {
        "LayerNorm": config["use_ln"],
        "biases": config["use_bias"],
        "a learned value projection": config["use_wv"],
        "a learned output projection": config["use_wo"],
        "an MLP after attention": variant["mlp"],
    }
    has = [name for name, on in extras.items() if on]
    lacks = [name.removeprefix("a ").removeprefix("an ") for name, on in extras.items() if not on]
    parts.append(f"It has {enumerate_words(has)}." if has else "It consists of attention layers only.")
    if lacks:
        parts.append(f"It has no {enumerate_words(lacks, 'or')}.")
    n, largest = results["list_len"], results["n_digits"] - 1
    reads = f"It reads a list of {count(n, 'digit')} between 0 and {largest}. "
    if n == 1:
        reads += "It must store it in one token, SEP, and write the digit again. The output sees only SEP."
    else:
        reads += (
            "It must store them in one token, SEP, and write them again in the same order. The outputs see "
            "only SEP and the outputs before them."
        )
    return " ".join([*parts, reads])


def fixed_set(results: Results) -> str:
    """What the authors' newer runs of this architecture reach, in a sentence; empty if there are none."""
    found = results["published"]["fixed_set"]
    if found is None:
        return ""
    given = {name: percent(value, None) for name, value in found.items() if name != "runs"}
    if "mean" in given:
        reach = f"a mean accuracy of {given['mean']}"
        reach += f" (standard deviation {given['deviation']})" if "deviation" in given else ""
        reach += f", median {given['median']}" if "median" in given else ""
        reach += f", {given['min']} to {given['max']}" if "min" in given else ""
    else:
        reach = f"{given['min']} to {given['max']}"
    runs = f"{found['runs']} newer runs" if "runs" in found else "newer runs"
    return f"On the fixed training set the authors' {runs} of this architecture reach {reach}."


def _lists(results: Results) -> str:
    used, total = results["n_val_used"], results["n_val_total"]
    drawn = ", drawn at random," if results["n_train"] is None else ""
    every = f"the {count(total, 'validation list')}{drawn}".rstrip(",")
    return every if used == total else f"the first {used:,} of {total:,} validation lists"
