"""From a configuration to a trained model in a directory: the host's side of training.

A work directory holds `config.json`, `metrics.jsonl` (a line per validation), `states/` while the
run goes on, and at the end `checkpoint/` and `summary.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tqdm.auto import tqdm

from orderscale_jax import checkpoint, training
from orderscale_jax.config import model_config, task_config, train_config
from orderscale_jax.devices import Advance, place, retry_runs, start_runs
from orderscale_jax.task import Split, make_split
from orderscale_jax.training import Setup


def make_setup(config: ml_collections.ConfigDict) -> tuple[Setup, Split]:
    """What a configuration trains, and on which lists.

    Raises:
      ValueError: an option is wrong, or the batch is larger than the training set.
    """
    setup = Setup(model_config(config), task_config(config), train_config(config))
    split = make_split(setup.task)
    if split.train is None:
        setup = dataclasses.replace(setup, train=dataclasses.replace(setup.train, batches="sampled"))
    elif setup.train.batches != "sampled" and setup.train.batch_size > len(split.train):
        raise ValueError(
            f"train.batch_size={setup.train.batch_size} is larger than the training set of "
            f"{len(split.train)} lists: give --config.train.batch_size={len(split.train)} or less"
        )
    return setup, split


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains what `config` says and leaves the best weights in `workdir`; returns the summary.

    Called again with the same configuration it goes on from the last state, or, if the run had
    ended, returns its summary.

    Raises:
      ValueError: the configuration is wrong, or `workdir` holds a run of another one.
    """
    workdir = Path(workdir)
    setup, split = make_setup(config)
    placement = place(1, setup.train.batch_size)
    finished = _claim(workdir, config)
    if finished is not None:
        return finished
    advance = Advance(setup, placement)
    lists = jnp.asarray(split.train if split.train is not None else split.validation[:1])
    validation = jnp.asarray(split.validation)
    runs, seconds = _resume(workdir, start_runs(setup, [config.seed]))
    runs = advance.load(runs)
    began = time.perf_counter() - seconds
    saved = steps = int(np.max(advance.fetch(runs.total_steps)))
    logger = _weights_and_biases(config)
    with _progress(setup, steps) as bar, open(workdir / "metrics.jsonl", "a") as log:
        done = bool(np.all(advance.fetch(runs.done)))
        while not done:
            runs, reports = advance(runs, lists, validation)
            line = {name: _plain(values[0]) for name, values in reports.items()}
            log.write(json.dumps(line) + "\n")
            log.flush()
            logger(line)
            done, steps = line["done"], line["total_steps"]
            if done and training.retries_left(setup, runs).any():
                runs = advance.load(retry_runs(setup, advance.fetch(runs)))
                done = False
            _show(bar, setup, line)
            if steps - saved >= setup.train.checkpoint_every and not done:
                saved = steps
                metadata = {"seconds": time.perf_counter() - began}
                checkpoint.save_state(workdir / "states", steps, advance.fetch(runs), metadata)
    run = jax.tree.map(lambda x: x[0], advance.fetch(runs))
    seconds = time.perf_counter() - began
    summary = _finish(workdir, config, setup, run, validation, seconds)
    logger({f"final/{name}": summary[name] for name in ("accuracy", "sequence_accuracy")}, last=True)
    return summary


def _claim(workdir: Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """Makes `workdir` this configuration's; the summary if its run has ended."""
    workdir.mkdir(parents=True, exist_ok=True)
    description = json.loads(config.to_json_best_effort())
    note = workdir / "config.json"
    if note.exists():
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(note.read_text()) != description:
                raise ValueError(
                    f"{workdir} holds a run of another configuration ({note.name}): "
                    "give the same configuration again or another --workdir"
                )
    summary = workdir / "summary.json"
    if note.exists() and summary.exists():
        return json.loads(summary.read_text())
    write_json(note, description)
    return None


def _resume(workdir: Path, runs):
    """Runs as of the last state and the seconds they took, and a log cut back to that moment."""
    latest = checkpoint.restore_latest(workdir / "states", runs)
    step, runs, metadata = (0, runs, {"seconds": 0.0}) if latest is None else latest
    log = workdir / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    kept = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # a kill can cut the last line
            if json.loads(line)["total_steps"] <= step:
                kept.append(line)
    log.write_text("".join(f"{line}\n" for line in kept))
    return runs, metadata["seconds"]


def _finish(workdir: Path, config, setup: Setup, run, validation, seconds: float) -> dict[str, Any]:
    """Writes the checkpoint of the best weights and the summary."""
    params = jax.tree.map(jnp.asarray, run.best_params)
    scores = jax.device_get(jax.jit(training.evaluate, static_argnums=0)(setup, params, validation))
    model = training.bind(setup.model, params)
    place_of_checkpoint = workdir / "checkpoint"
    checkpoint.save_checkpoint(place_of_checkpoint, model, config)
    arrays = checkpoint.named_arrays(model)
    steps = int(run.total_steps)
    summary = {
        "accuracy": float(scores["val_accuracy"]),
        "sequence_accuracy": float(scores["val_sequence_accuracy"]),
        "position_accuracy": _plain(scores["val_position_accuracy"]),
        "loss": float(scores["val_loss"]),
        "steps": steps,
        "best_step": int(run.best_step),
        "transition_step": int(run.transition_step) if run.transition_step >= 0 else None,
        "attempts": int(run.attempt) + 1,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "seed": int(config.seed),
        "weights_sha256": checkpoint.weight_digest(arrays),
        "parameters": int(sum(array.size for array in arrays.values())),
        "batches": setup.train.batches,
        "device": jax.local_devices()[0].device_kind,
        "checkpoint": str(place_of_checkpoint.absolute()),
    }
    write_json(workdir / "summary.json", summary)
    shutil.rmtree(workdir / "states", ignore_errors=True)
    return summary


def write_json(path: Path, content) -> None:
    """Writes JSON so that the file is either whole or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def _progress(setup: Setup, steps: int):
    """A bar over steps, silent when nobody watches."""
    return tqdm(total=setup.train.max_steps, initial=steps, unit="step", disable=None, dynamic_ncols=True)


def _show(bar, setup: Setup, line: dict[str, Any]):
    bar.total = max(bar.total or 0, setup.train.max_steps * (line["attempt"] + 1))
    bar.set_postfix(
        loss=f"{line['train_loss']:.4f}",
        acc=f"{line['val_accuracy']:.4f}",
        best=f"{line['best_accuracy']:.4f}",
        refresh=False,
    )
    bar.update(line["total_steps"] - bar.n)


def _weights_and_biases(config: ml_collections.ConfigDict):
    """A function that logs a line to Weights & Biases, or does nothing."""
    if not config.wandb.enabled:
        return lambda line, last=False: None
    try:
        import wandb
    except ImportError:
        raise ModuleNotFoundError(
            "config.wandb.enabled needs the package wandb: pip install 'orderscale-jax[wandb]'"
        ) from None
    session = wandb.init(
        project=config.wandb.project, name=run_name(config), config=json.loads(config.to_json_best_effort())
    )

    def log(line, last=False):
        session.log(line, step=line.get("total_steps"))
        if last:
            session.finish()

    return log


def run_name(config: ml_collections.ConfigDict) -> str:
    """`config.name`, or one that tells the configuration: `L2_H1_D64_V100_len3_ln-bias_seed0`."""
    if config.name:
        return config.name
    model, task = model_config(config), task_config(config)
    options = {
        f"len{task.list_len}": task.list_len != 2,
        "ln": model.layer_norm,
        "bias": model.bias,
        "wv": model.learn_wv,
        "wo": model.learn_wo,
        "mlp": model.mlp,
    }
    flags = "-".join(name for name, is_set in options.items() if is_set)
    base = f"L{model.n_layers}_H{model.n_heads}_D{model.d_model}_V{task.n_digits}"
    return "_".join(part for part in (base, flags, f"seed{config.seed}") if part)


def _plain(value):
    """An array as JSON can hold it; what is not a number becomes None."""
    value = np.asarray(value)
    if value.ndim:
        return [_plain(entry) for entry in value]
    value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
