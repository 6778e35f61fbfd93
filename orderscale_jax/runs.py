"""From a configuration to trained models in a directory.

A work directory holds `config.json`, `metrics.jsonl` (a line per validation and run), `states/` while
the runs go on, and at the end `checkpoint/` (the best run's weights), `members/` (every run's, where
there are several) and `summary.json`.

Several processes (`hosts.join`) share the runs. Each writes the states and the members of its own runs
where it is; the first writes the rest. Work directories may be one shared directory, which keeps all
members together, or one on each host.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from orderscale_jax import checkpoint, hosts, training
from orderscale_jax.config import check_seeds, model_config, task_config
from orderscale_jax.devices import start_runs
from orderscale_jax.ensemble import Ensemble, Result, make_setup, results
from orderscale_jax.progress import Progress
from orderscale_jax.training import Run, Setup


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains what `config` says and leaves the best weights in `workdir`; returns the summary.

    Called again with the same configuration it goes on from the last state, or, if all runs had
    ended, returns their summary.

    Every process of several must call it, with the same configuration; all get the same summary.

    Raises:
      ValueError: the configuration is wrong, `workdir` holds runs of another one or states of another
        number of processes, or there are more processes than runs.
    """
    workdir = Path(workdir)
    setup, split = make_setup(config)
    if config.runs < 1:
        raise ValueError(f"runs must be at least 1, got {config.runs}")
    check_seeds(config.seed, config.runs)
    _agree(config)
    mine = hosts.share(config.runs)
    if config.wandb.enabled:
        _import_wandb()
    finished = _claim_together(workdir, config)
    if finished is not None:
        return finished
    files = _Files(workdir)
    steps, runs, seconds = _resume(files, start_runs(setup, config.seed + mine), mine)
    began = time.perf_counter() - seconds
    ensemble = Ensemble(setup, split, runs)
    placement = "nothing left to run" if ensemble.done else str(ensemble.placement)
    logger = _weights_and_biases(config)
    saved = steps
    with Progress(setup, runs, placement, int(mine[0])) as progress, open(files.log, "a") as log:
        while not ensemble.done:
            lines = ensemble.advance()
            for line in lines:
                line["index"] += int(mine[0])
                log.write(json.dumps(line) + "\n")
                logger(line)
            log.flush()
            steps += max(line["total_steps"] - progress.total[line["index"]] for line in lines)
            progress.show(lines)
            if steps - saved >= setup.train.checkpoint_every and not ensemble.done:
                saved = steps
                metadata = {"seconds": time.perf_counter() - began}
                checkpoint.save_state(files.states, steps, ensemble.state(), metadata)
    found = results(setup, split, ensemble.state())
    seconds = time.perf_counter() - began
    summary = _finish(files, config, setup, found, seconds, placement)
    logger({f"final/{name}": summary[name] for name in ("accuracy", "sequence_accuracy")}, last=True)
    return summary


class _Files:
    """Where this process writes while the runs go on."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.all_states = self.states = workdir / "states"
        self.log = workdir / "metrics.jsonl"
        if hosts.count() > 1:
            self.states = self.all_states / f"process_{hosts.index()}_of_{hosts.count()}"
            self.log = workdir / f"metrics.process_{hosts.index()}.jsonl"
        entries = self.all_states.iterdir() if self.all_states.is_dir() else ()
        for name in (entry.name for entry in entries):
            process = re.fullmatch(r"process_\d+_of_(\d+)", name)
            n_processes = int(process[1]) if process else 1
            if n_processes != hosts.count():
                raise ValueError(
                    f"{self.all_states} was written by {n_processes} process{'es' * (n_processes > 1)}, now "
                    f"there are {hosts.count()}: start as many as before, or delete it to begin anew"
                )


def _agree(config: ml_collections.ConfigDict):
    """Checks that all processes were given the same configuration."""
    digests = hosts.gather(hashlib.sha256(config.to_json_best_effort(sort_keys=True).encode()).digest())
    if len(set(digests)) > 1:
        other = next(i for i, digest in enumerate(digests) if digest != digests[0])
        raise ValueError(
            f"process {other} has another configuration than process 0: start all with the same command"
        )


def _claim_together(workdir: Path, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """The first process claims before the others, whether they share the directory or not."""
    finished = _claim(workdir, config) if hosts.index() == 0 else None
    finished = json.loads(hosts.gather(json.dumps(finished).encode())[0])
    if hosts.index() > 0:
        _claim(workdir, config)
    return finished


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


def _resume(files: _Files, runs: Run, mine: np.ndarray):
    """The last state (steps, runs, seconds), and a log cut back to that moment."""
    latest = checkpoint.restore_latest(files.states, runs)
    steps, runs, metadata = (0, jax.device_get(runs), {"seconds": 0.0}) if latest is None else latest
    kept = []
    for text in files.log.read_text().splitlines() if files.log.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # a kill can cut the last line
            line = json.loads(text)
            if line["total_steps"] <= runs.total_steps[line["index"] - mine[0]]:
                kept.append(text)
    files.log.write_text("".join(f"{text}\n" for text in kept))
    return steps, runs, metadata["seconds"]


def _finish(
    files: _Files, config, setup: Setup, found: list[Result], seconds: float, placement: str
) -> dict[str, Any]:
    """Writes the members of this process and, with the other processes, the results of all."""
    parts = [
        json.loads(part)
        for part in hosts.gather(
            json.dumps(
                {
                    "members": [_member(files.workdir, config, setup, result) for result in found],
                    "seconds": seconds,
                    "placement": placement,
                }
            ).encode()
        )
    ]
    members = [member for part in parts for member in part["members"]]
    best = max(range(len(members)), key=lambda i: members[i]["accuracy"])
    params = next((result.params for result in found if result.seed == members[best]["seed"]), None)
    params = next(part for part in hosts.gather(_pack(setup, params)) if part)
    logs = hosts.gather(files.log.read_bytes() if hosts.count() > 1 else b"")
    place = files.workdir / "checkpoint"
    seconds = max(part["seconds"] for part in parts)
    placements = list(dict.fromkeys(part["placement"] for part in parts))
    summary = {
        **members[best],
        "seconds": seconds,
        "steps_per_second": sum(member["steps"] for member in members) / seconds,
        "batches": setup.train.batches,
        "device": jax.local_devices()[0].device_kind,
        "placement": (f"{len(parts)} processes: " if len(parts) > 1 else "") + "; ".join(placements),
        "checkpoint": str(place.absolute()),
    }
    if len(members) > 1:
        summary["runs"] = members
    if hosts.index() == 0:
        checkpoint.save_checkpoint(place, _unpack(setup, params), _alone(config, members[best]["seed"]))
        if len(parts) > 1:
            write_text(files.workdir / "metrics.jsonl", _merge_logs(logs))
        write_json(files.workdir / "summary.json", summary)
    summary = json.loads(hosts.gather(json.dumps(summary).encode())[0])
    if len(parts) > 1:
        files.log.unlink()
    shutil.rmtree(files.all_states, ignore_errors=True)
    return summary


def _member(workdir: Path, config, setup: Setup, result: Result) -> dict[str, Any]:
    """A run's line of the summary; where there are several, its checkpoint too."""
    model = training.bind(setup.model, result.params)
    arrays = checkpoint.named_arrays(model)
    if config.runs > 1:
        place = workdir / "members" / f"seed_{result.seed}"
        checkpoint.save_checkpoint(place, model, _alone(config, result.seed))
    return {
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


def _alone(config: ml_collections.ConfigDict, seed: int) -> ml_collections.ConfigDict:
    """The configuration that trains one run of several by itself."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.seed, config.runs = seed, 1
    return config


def _pack(setup: Setup, params) -> bytes:
    """Weights as bytes; none for None."""
    if params is None:
        return b""
    file = io.BytesIO()
    np.savez(file, **checkpoint.named_arrays(training.bind(setup.model, params)))
    return file.getvalue()


def _unpack(setup: Setup, content: bytes):
    """The model of `_pack`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return checkpoint.from_named_arrays(setup.model, dict(arrays))


def _merge_logs(logs: list[bytes]) -> str:
    """The processes' logs in the order in which one process would have written them."""
    lines = [text for log in logs for text in log.decode().splitlines()]
    validations: dict[int, int] = {}
    order = []
    for i in (json.loads(text)["index"] for text in lines):
        validations[i] = validations.get(i, 0) + 1
        order.append((validations[i], i))
    merged = (text for _, text in sorted(zip(order, lines, strict=True)))
    return "".join(f"{text}\n" for text in merged)


def write_json(path: Path, content) -> None:
    """Writes JSON so that the file is either whole or as it was."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text so that the file is either whole or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _weights_and_biases(config: ml_collections.ConfigDict):
    """A function that logs a line to Weights & Biases (from the first process), or does nothing."""
    if not config.wandb.enabled or hosts.index() > 0:
        return lambda line, last=False: None
    wandb = _import_wandb()
    session = wandb.init(
        project=config.wandb.project, name=run_name(config), config=json.loads(config.to_json_best_effort())
    )

    def log(line, last=False):
        session.log(line, step=line.get("total_steps"))
        if last:
            session.finish()

    return log


def _import_wandb():
    try:
        import wandb
    except ImportError:
        raise ModuleNotFoundError(
            "config.wandb.enabled needs the package wandb: pip install 'orderscale-jax[wandb]'"
        ) from None
    return wandb


def run_name(config: ml_collections.ConfigDict) -> str:
    """`config.name`, or one that tells the configuration: `L2_H1_D64_V100_len3-ln-bias_seed0`."""
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
