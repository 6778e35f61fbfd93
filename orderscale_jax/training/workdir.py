"""From a configuration to trained models in a directory.

A work directory holds `config.json`, `metrics.jsonl` (a line per validation and run), `states/` while
the runs go on, and at the end `checkpoint/` (the best run's weights), `members/` (every run's, where
there are several) and `summary.json`.

Where several processes share the runs (`shares`), each has its states and its log in `parts/I_of_P`
until all are complete; then the directory is what one process would have left.

It may be in an object store (`gs://…`). There the log is written with each state and at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from orderscale_jax import checkpoint, files
from orderscale_jax.config import Setup, model_config, task_config, validation_lists_seen
from orderscale_jax.errors import MissingPackage, UserError
from orderscale_jax.model import bind
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, Result, make_setup, result
from orderscale_jax.training.progress import Progress
from orderscale_jax.training.run import Run
from orderscale_jax.training.shares import Share, check_processes

ALL = Share()


def train(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, share: Share = ALL
) -> dict[str, Any] | None:
    """Trains what `config` says and leaves the best weights in `workdir`.

    Called again with the same configuration it goes on from the last state, or, if all runs had
    ended, returns their summary.

    Args:
      config: what to train.
      workdir: local or `gs://…`, made if need be; all shares must see the same one.
      share: which of the runs.

    Returns:
      The summary of all runs, or None while other shares are not complete.

    Raises:
      UserError: the configuration is wrong or for sweeps only, `workdir` holds runs of another one or of
        another number of shares, its states are damaged, or there are more shares than runs.
    """
    workdir = files.place(workdir)
    setup, split = make_setup(config)
    if setup.train.scores not in ("free", "penalized"):
        raise UserError(
            f"train.scores={setup.train.scores!r} changes the model while it trains, and the weights would "
            "be kept without that: it is for sweeps, which keep none"
        )
    mine = share.of(config.runs)
    check_processes(share)
    if config.wandb.enabled:
        _import_wandb()
    finished = _claim(workdir, config)
    if finished is not None:
        _clean(workdir)
        return finished
    _check_shares(workdir, share)
    place = _place(workdir, share)
    files.make_directory(place)
    if not (place / "part.json").exists():
        part = _train_share(config, setup, split, workdir, place, mine)
        files.write_json(place / "part.json", part)
    return _complete(workdir, config, setup, share)


def _train_share(
    config, setup: Setup, split, workdir: files.Place, place: files.Place, mine
) -> dict[str, Any]:
    """Trains the runs `mine`, with states and log in `place`; returns what is to be said of them."""
    first, states = int(mine[0]), place / "states"
    steps, runs, seconds, logged = _resume(place, start_runs(setup, config.seed + mine), first)
    began = time.perf_counter() - seconds
    total_steps, saved = np.array(runs.total_steps), steps
    wandb = _weights_and_biases(config) if first == 0 else None
    with Progress(setup, runs) as progress, files.Growing(place / "metrics.jsonl", logged) as log:
        ensemble = Ensemble(setup, split, runs)
        placement = "nothing left to run" if ensemble.done else str(ensemble.placement)
        while not ensemble.done:
            lines = ensemble.advance()
            progress.show(lines)
            before = total_steps.copy()
            for line in lines:
                total_steps[line["index"]] = line["total_steps"]
                line["index"] += first
                log.add(json.dumps(line) + "\n")
                if wandb:
                    wandb.log(line, step=line["total_steps"])
            steps += int((total_steps - before).max())
            if steps - saved >= setup.train.checkpoint_every and not ensemble.done:
                saved = steps
                metadata = {"seconds": time.perf_counter() - began}
                log.keep()  # before the state, so that none goes on from where lines are missing
                checkpoint.save_state(states, steps, ensemble.state(), metadata)
        log.keep()
    runs = ensemble.state()
    members = [_write_member(workdir, config, setup, result(runs, i)) for i in range(len(mine))]
    if wandb:
        best = max(members, key=lambda member: member["accuracy"])
        wandb.log({f"final/{name}": best[name] for name in ("accuracy", "sequence_accuracy")})
        wandb.finish()
    return {
        "config": _describe(config),
        "members": members,
        "seconds": time.perf_counter() - began,
        "placement": placement,
    }


def _place(workdir: files.Place, share: Share) -> files.Place:
    """Where a share keeps its states and its log."""
    return workdir if share.count == 1 else workdir / "parts" / str(share)


def _check_shares(workdir: files.Place, share: Share):
    """UserError if another number of shares has begun here."""
    parts = workdir / "parts"
    begun = {entry.name.rpartition("_")[2] for entry in parts.iterdir()} if parts.is_dir() else set()
    begun |= {"1"} if (workdir / "states").exists() else set()
    if others := begun - {str(share.count)}:
        raise UserError(
            f"{workdir} was begun with {others.pop()} process(es), now there are {share.count}: start as "
            f"many as before, or delete {parts if parts.is_dir() else workdir / 'states'} to begin anew"
        )


def _describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _claim(workdir: files.Place, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """Makes `workdir` this configuration's; the summary if its runs have ended."""
    files.make_directory(workdir)
    note, summary = workdir / "config.json", workdir / "summary.json"
    if (workdir / "results.csv").exists():
        raise UserError(f"{workdir} holds a sweep: give another directory")
    if not note.exists():
        files.write_json(note, _describe(config))
        return None
    there, here = _read_json(note), _describe(config)
    if there != here:
        raise UserError(
            f"{workdir} holds a run of another configuration ({_difference(there, here)}): "
            "give the same configuration again or another directory"
        )
    return _read_json(summary) if summary.exists() else None


def _difference(there: Any, here: Any, place: str = "") -> str:
    """The first option of two configurations that differs, in words."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return f"{place or 'all of it'} is {there!r} there and {here!r} here"
    name = next(name for name in {**there, **here} if there.get(name) != here.get(name))
    return _difference(there.get(name), here.get(name), f"{place}.{name}" if place else name)


def _read_json(path: files.Place) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is damaged: put back a copy of it, or give another directory") from error


def _resume(place: files.Place, runs: Run, first: int):
    """The last state (steps, runs, seconds, log), the file of the log being cut back to that moment."""
    latest = checkpoint.restore_latest(place / "states", runs)
    steps, runs, metadata = (0, jax.device_get(runs), {"seconds": 0.0}) if latest is None else latest
    log, kept = place / "metrics.jsonl", []
    for text in log.read_bytes().decode().splitlines() if log.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # a kill can cut the last line
            line = json.loads(text)
            if line["total_steps"] <= runs.total_steps[line["index"] - first]:
                kept.append(text)
    logged = "".join(f"{text}\n" for text in kept)
    files.write_text(log, logged)
    return steps, runs, metadata["seconds"], logged


def _write_member(workdir: files.Place, config, setup: Setup, run: Result) -> dict[str, Any]:
    """Writes a run's weights; returns its line of the summary."""
    alone = ml_collections.ConfigDict(config.to_dict())
    alone.seed, alone.runs = run.seed, 1
    model = bind(setup.model, run.params)
    checkpoint.save_checkpoint(_weights(workdir, config, run.seed), model, alone)
    arrays = checkpoint.named_arrays(model)
    said = {name: value for name, value in vars(run).items() if name != "params"}
    return {
        **said,
        "weights_sha256": checkpoint.weight_digest(arrays),
        "parameters": sum(array.size for array in arrays.values()),
    }


def _weights(workdir: files.Place, config, seed: int) -> files.Place:
    """Where the weights of one run are."""
    return workdir / "members" / f"seed_{seed}" if config.runs > 1 else workdir / "checkpoint"


def _complete(workdir: files.Place, config, setup: Setup, share: Share) -> dict[str, Any] | None:
    """Writes what belongs to all runs, if all shares have ended; doing it twice gives the same."""
    places = [_place(workdir, Share(i, share.count)) for i in range(share.count)]
    try:
        parts = [_read_json(place / "part.json") for place in places]
        logs = [(place / "metrics.jsonl").read_bytes().decode() for place in places]
    except FileNotFoundError:  # a share goes on, or another process has just completed all
        return _claim(workdir, config)
    if any(part["config"] != _describe(config) for part in parts):
        raise UserError(
            f"the shares in {workdir} were given different configurations: start all with the same"
        )
    members = [member for part in parts for member in part["members"]]
    best = max(members, key=lambda member: member["accuracy"])
    seconds = max(part["seconds"] for part in parts)
    placements = "; ".join(dict.fromkeys(part["placement"] for part in parts))
    summary = {
        **best,
        "seconds": seconds,
        "steps_per_second": sum(member["steps"] for member in members) / seconds,
        "batches": setup.train.batches,
        "validation_lists_seen": validation_lists_seen(config),
        "device": jax.local_devices()[0].device_kind,
        "placement": (f"{len(parts)} processes: " if len(parts) > 1 else "") + placements,
        "checkpoint": str(files.absolute(workdir / "checkpoint")),
    }
    if len(members) > 1:
        summary["runs"] = members
        checkpoint.copy_checkpoint(_weights(workdir, config, best["seed"]), workdir / "checkpoint")
    if len(parts) > 1:
        files.write_text(workdir / "metrics.jsonl", _merge_logs(logs))
    files.write_json(workdir / "summary.json", summary)
    _clean(workdir)
    return summary


def _clean(workdir: files.Place):
    """Removes what nothing needs once the summary is there."""
    for done in (workdir / "parts", workdir / "states"):
        files.remove_directory(done)
    (workdir / "part.json").unlink(missing_ok=True)


def _merge_logs(logs: list[str]) -> str:
    """The shares' logs in the order in which one process would have written them."""
    lines = [text for log in logs for text in log.splitlines()]
    validations: dict[int, int] = {}
    order = []
    for i in (json.loads(text)["index"] for text in lines):
        validations[i] = validations.get(i, 0) + 1
        order.append((validations[i], i))
    merged = (text for _, text in sorted(zip(order, lines, strict=True)))
    return "".join(f"{text}\n" for text in merged)


def _weights_and_biases(config: ml_collections.ConfigDict):
    """A session of Weights & Biases, None where it is not wanted."""
    if not config.wandb.enabled:
        return None
    return _import_wandb().init(project=config.wandb.project, name=run_name(config), config=_describe(config))


def _import_wandb():
    try:
        import wandb
    except ImportError:
        raise MissingPackage(
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
