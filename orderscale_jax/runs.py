"""From a configuration to trained models in a directory.

A work directory holds `config.json`, `metrics.jsonl` (a line per validation and run), `states/` while
the runs go on, and at the end `checkpoint/` (the best run's weights), `members/` (every run's, where
there are several) and `summary.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from tqdm.auto import tqdm

from orderscale_jax import checkpoint, training
from orderscale_jax.config import model_config, task_config
from orderscale_jax.devices import start_runs
from orderscale_jax.ensemble import Ensemble, Result, make_setup, results
from orderscale_jax.training import Run, Setup


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains what `config` says and leaves the best weights in `workdir`; returns the summary.

    Called again with the same configuration it goes on from the last state, or, if all runs had
    ended, returns their summary.

    Raises:
      ValueError: the configuration is wrong, or `workdir` holds runs of another one.
    """
    workdir = Path(workdir)
    setup, split = make_setup(config)
    if config.runs < 1:
        raise ValueError(f"runs must be at least 1, got {config.runs}")
    finished = _claim(workdir, config)
    if finished is not None:
        return finished
    runs, seconds = _resume(workdir, start_runs(setup, config.seed + np.arange(config.runs)))
    began = time.perf_counter() - seconds
    ensemble = Ensemble(setup, split, runs)
    logger = _weights_and_biases(config)
    first = saved = int(np.max(runs.total_steps))
    with Progress(setup, runs) as progress, open(workdir / "metrics.jsonl", "a") as log:
        while not ensemble.done:
            lines = ensemble.advance()
            for line in lines:
                log.write(json.dumps(line) + "\n")
                logger(line)
            log.flush()
            progress.show(lines)
            steps = max(line["total_steps"] for line in lines)
            if steps - saved >= setup.train.checkpoint_every and not ensemble.done:
                saved = steps
                metadata = {"seconds": time.perf_counter() - began}
                checkpoint.save_state(workdir / "states", steps, ensemble.state(), metadata)
    runs = ensemble.state()
    seconds = time.perf_counter() - began
    placement = str(ensemble.placement) if first < int(np.max(runs.total_steps)) else "nothing left to run"
    summary = _finish(workdir, config, setup, results(setup, split, runs), seconds, placement)
    logger({f"final/{name}": summary[name] for name in ("accuracy", "sequence_accuracy")}, last=True)
    return summary


class Progress:
    """A bar over the steps of all runs, with rate, loss and accuracies; silent when nobody watches."""

    def __init__(self, setup: Setup, runs: Run):
        self.total = {i: int(steps) for i, steps in enumerate(np.asarray(runs.total_steps))}
        self.attempts = {i: int(attempt) for i, attempt in enumerate(np.asarray(runs.attempt))}
        self.best = {i: float(best) for i, best in enumerate(np.asarray(runs.best_accuracy))}
        self.ended, self.max_steps = set(), setup.train.max_steps
        self.bar = tqdm(
            total=self._expected(),
            initial=sum(self.total.values()),
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def show(self, lines: list[dict[str, Any]]):
        """Takes in the reports of one stretch."""
        for line in lines:
            i = line["index"]
            self.total[i], self.attempts[i] = line["total_steps"], line["attempt"]
            self.best[i] = line["best_accuracy"]
            if line["done"]:
                self.ended.add(i)
        self.bar.total = self._expected()
        numbers = {
            "loss": f"{np.mean([line['train_loss'] or np.nan for line in lines]):.4f}",
            "acc": f"{np.mean([line['val_accuracy'] for line in lines]):.4f}",
            "best": f"{max(self.best.values()):.4f}",
        }
        if len(self.total) > 1:
            numbers["done"] = f"{len(self.ended)}/{len(self.total)}"
        self.bar.set_postfix(numbers, refresh=False)
        self.bar.update(sum(self.total.values()) - self.bar.n)

    def _expected(self) -> int:
        """Steps there will be at most, as far as is known."""
        going = [(self.attempts[i] + 1) * self.max_steps for i in self.total if i not in self.ended]
        return sum(going) + sum(self.total[i] for i in self.ended)


def _claim(workdir: Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """Makes `workdir` this configuration's; the summary if its runs have ended."""
    workdir.mkdir(parents=True, exist_ok=True)
    description = json.loads(config.to_json_best_effort())
    note, summary = workdir / "config.json", workdir / "summary.json"
    if not note.exists():
        write_json(note, description)
        return None
    if json.loads(note.read_text()) != description:
        raise ValueError(
            f"{workdir} holds a run of another configuration ({note.name}): "
            "give the same configuration again or another directory"
        )
    return json.loads(summary.read_text()) if summary.exists() else None


def _resume(workdir: Path, runs: Run):
    """Runs as of the last state and the seconds they took, and a log cut back to that moment."""
    latest = checkpoint.restore_latest(workdir / "states", runs)
    _, runs, metadata = (0, jax.device_get(runs), {"seconds": 0.0}) if latest is None else latest
    log = workdir / "metrics.jsonl"
    kept = []
    for text in log.read_text().splitlines() if log.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # a kill can cut the last line
            line = json.loads(text)
            if line["total_steps"] <= runs.total_steps[line["index"]]:
                kept.append(text)
    log.write_text("".join(f"{text}\n" for text in kept))
    return runs, metadata["seconds"]


def _finish(
    workdir: Path, config, setup: Setup, found: list[Result], seconds: float, placement: str
) -> dict[str, Any]:
    """Writes the checkpoints and the summary."""
    members = []
    for result in found:
        model = training.bind(setup.model, result.params)
        arrays = checkpoint.named_arrays(model)
        if len(found) > 1:
            member_config = ml_collections.ConfigDict(config.to_dict())
            member_config.seed, member_config.runs = result.seed, 1
            checkpoint.save_checkpoint(workdir / "members" / f"seed_{result.seed}", model, member_config)
        members.append(
            {
                "seed": result.seed,
                "accuracy": result.accuracy,
                "sequence_accuracy": result.sequence_accuracy,
                "position_accuracy": result.position_accuracy,
                "loss": result.loss,
                "steps": result.steps,
                "best_step": result.best_step,
                "transition_step": result.transition_step,
                "attempts": result.attempts,
                "weights_sha256": checkpoint.weight_digest(arrays),
                "parameters": sum(array.size for array in arrays.values()),
            }
        )
    best = max(range(len(found)), key=lambda i: found[i].accuracy)
    place = workdir / "checkpoint"
    checkpoint.save_checkpoint(place, training.bind(setup.model, found[best].params), config)
    steps = sum(member["steps"] for member in members)
    summary = {
        **members[best],
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "batches": setup.train.batches,
        "device": jax.local_devices()[0].device_kind,
        "placement": placement,
        "checkpoint": str(place.absolute()),
    }
    if len(members) > 1:
        summary["runs"] = members
    write_json(workdir / "summary.json", summary)
    shutil.rmtree(workdir / "states", ignore_errors=True)
    return summary


def write_json(path: Path, content) -> None:
    """Writes JSON so that the file is either whole or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


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
