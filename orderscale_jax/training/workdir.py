"""From a configuration to trained models in a directory.

A work directory holds `config.json`, `metrics.jsonl` (a line per validation and run), `states/` while
the runs train, and at the end `checkpoint/` (the best run's weights), `members/` (every run's, where
there are several) and `summary.json`. It belongs to this configuration from the end
of the first stretch on, and to one process at a time (`owner`).

Where several processes share the runs (`shares`), each has its states and its log in `parts/I_of_P`
until all are complete; then the directory is what one process would have left.

It may be in an object store (`gs://…`). There the log is written with each state and at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import ml_collections
import numpy as np

from orderscale_jax import checkpoint, files, storage
from orderscale_jax.config import Setup, model_config, task_config, validation_lists_seen
from orderscale_jax.errors import MissingPackage, UserError
from orderscale_jax.model import bind
from orderscale_jax.task import Split
from orderscale_jax.training import claim
from orderscale_jax.training.claim import LOG, PART, SUMMARY
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, Result, make_setup, result
from orderscale_jax.training.interruption import NEVER, Interrupted, Interruption
from orderscale_jax.training.owner import owned
from orderscale_jax.training.progress import Progress
from orderscale_jax.training.run import Run
from orderscale_jax.training.shares import ALL, Share, check_processes

logger = logging.getLogger(__name__)
STATE_KEYS = {"seconds": float, "config": dict, "log_size": int, "log_sha256": str}  # of a state's metadata


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    share: Share = ALL,
    *,
    overwrite: bool = False,
    interruption: Interruption = NEVER,
) -> dict[str, Any] | None:
    """Trains what `config` says and leaves the best weights in `workdir`.

    Called again with the same configuration it goes on from the last state, or, if all runs had
    ended, returns their summary.

    Args:
      config: what to train.
      workdir: local or `gs://…`, made if need be; all shares must see the same one.
      share: which of the runs.
      overwrite: begin anew: remove what an earlier training has left in `workdir`.
      interruption: asked after every stretch.

    Returns:
      The summary of all runs, or None while other shares are not complete.

    Raises:
      UserError: the configuration is wrong or for sweeps only; `workdir` holds runs of another one or of
        another number of shares, or is in use by another process; its states or notes are damaged, or the
        checkpoint of its finished runs is; there are more shares than runs.
      FileExistsError: `workdir/checkpoint` is not a checkpoint.
      Interrupted: it was wanted; the runs are saved as they were after the last stretch.
      OSError: the system refuses to read or write.
    """
    workdir = files.place(workdir)
    setup, split = make_setup(config, share.count)
    if setup.train.scores not in ("free", "penalized"):
        raise UserError(
            f"train.scores={setup.train.scores!r} changes the model while it trains, and the weights would "
            "be kept without that: it is for sweeps, which keep none"
        )
    mine = share.of(config.runs)
    check_processes(share)
    if overwrite and share.count > 1:
        raise UserError(
            f"each of {share.count} processes would remove what the others write: delete {workdir} "
            "before they start, instead of overwriting it"
        )
    if config.wandb.enabled:
        _import_wandb()
    files.check_length(workdir, storage.DEEPEST)
    if not overwrite and not claim.is_to_be_cleaned(workdir):
        if (found := claim.finished(workdir, config)) is not None:
            return found
    files.make_directory(workdir)
    with owned(workdir, share) as check:
        if overwrite:
            claim.clear(workdir)
        if (found := claim.finished(workdir, config)) is not None:  # by who has just given it up
            claim.clean(workdir)
            return found
        claim.refuse_others(workdir, config, share, mine)
        place = claim.place_of(workdir, share)
        with contextlib.ExitStack() as until_whole:
            if not (place / PART).exists():
                course = _Course(config, setup, split, workdir, place, check)
                part = course.train(mine, interruption, until_whole)
                check()
                files.write_note(place / PART, part)
            return _complete(workdir, config, setup, share)


class _Course:
    """The runs of one share on their way, with states and log in `place`.

    `check` raises if `workdir` is no longer where it was.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        setup: Setup,
        split: Split,
        workdir: files.Place,
        place: files.Place,
        check: Callable[[], None],
    ):
        self.config, self.setup, self.split = config, setup, split
        self.workdir, self.place, self.check = workdir, place, check
        self.said = claim.describe(config)

    def train(
        self, mine: range, interruption: Interruption, until_whole: contextlib.ExitStack
    ) -> dict[str, Any]:
        """Trains the runs `mine` to their ends; returns what is to be said of them.

        From the first stretch on there is something to lose, and interruptions wait until `until_whole`
        is left.
        """
        config, first = self.config, mine[0]
        started = start_runs(self.setup, config.seed + np.array(mine))
        self.steps, runs, metadata, logged = _resume(self.place, self.said, started)
        self.began = time.perf_counter() - metadata["seconds"]
        wandb = _weights_and_biases(config) if first == 0 else None
        with Progress(self.setup, runs) as progress:
            self.ensemble = ensemble = Ensemble(self.setup, self.split, runs)
            placement = "nothing left to run" if ensemble.done else str(ensemble.placement)
            lines = [] if ensemble.done else ensemble.advance()
            self.check()
            claim.claim(self.workdir, self.said)  # now that a first stretch has run
            files.make_directory(self.place)
            total_steps, saved_at = np.array(runs.total_steps), time.perf_counter()
            until_whole.enter_context(interruption.deferred())
            with files.Growing(self.place / LOG, logged) as self.log:
                while lines:
                    progress.show(lines)
                    before = total_steps.copy()
                    for line in lines:
                        total_steps[line["index"]] = line["total_steps"]
                        line["index"] += first
                        self.log.add(json.dumps(line, allow_nan=False) + "\n")
                        if wandb:
                            wandb.log(line, step=line["total_steps"])
                    self.steps += int((total_steps - before).max())
                    if ensemble.done:
                        break
                    if interruption.is_wanted:
                        self._leave()
                    if time.perf_counter() - saved_at >= config.save_seconds:
                        self._save()
                        saved_at = time.perf_counter()
                    lines = ensemble.advance()
                self.log.keep()
                members = self._write_members(len(mine), interruption)
        if wandb:
            best = members[_best(members)]
            wandb.log({f"final/{name}": best[name] for name in ("accuracy", "sequence_accuracy")})
            wandb.finish()
        return {
            "config": self.said,
            "members": members,
            "seconds": time.perf_counter() - self.began,
            "placement": placement,
            "log_sha256": self.log.sha256,
        }

    def _save(self):
        """Saves the state from which a killed process goes on."""
        self.check()
        self.log.keep()  # before the state, so that none goes on from where lines are missing
        seconds = time.perf_counter() - self.began
        log = {"log_size": self.log.size, "log_sha256": self.log.sha256}
        about = {"seconds": seconds, "config": self.said, **log}
        checkpoint.save_state(self.place / "states", self.steps, self.ensemble.state(), about)

    def _leave(self) -> NoReturn:
        self._save()
        raise Interrupted(f"stopped after step {self.steps:,}, which is saved in {self.place / 'states'}")

    def _write_members(self, n_runs: int, interruption: Interruption) -> list[dict[str, Any]]:
        """Writes the weights of all runs; returns their lines of the summary."""
        runs, members = self.ensemble.state(), []
        for i in range(n_runs):
            self.check()
            try:
                members.append(_write_member(self.workdir, self.config, self.setup, result(runs, i)))
            except OSError:
                with contextlib.suppress(OSError):
                    self._save()  # so that nothing is trained again
                raise
            if interruption.is_wanted and i + 1 < n_runs:
                self._leave()
        return members


def _resume(place: files.Place, said: dict[str, Any], runs: Run):
    """The last state (steps, runs, metadata, log up to it), or the start."""

    def like(metadata: dict[str, Any]) -> Run:
        if not all(isinstance(metadata.get(key), kind) for key, kind in STATE_KEYS.items()):
            raise UserError(
                f"the state in {place / 'states'} does not say what training writes into one: delete it to "
                "go on from an older one, or begin anew with --overwrite"
            )
        claim.refuse_other(metadata["config"], said, place)
        return runs

    latest = checkpoint.restore_latest(place / "states", like)
    if latest is None:
        return 0, jax.device_get(runs), {"seconds": 0.0}, ""
    logger.info("going on from step %d, the latest state in %s", latest[0], place / "states")
    return *latest, _logged(place / LOG, *latest[::2])


def _logged(log: files.Place, step: int, metadata: Mapping[str, Any]) -> str:
    """What a log held when a state was saved; it may have grown since.

    Raises:
      UserError: something in it is missing or has changed.
    """
    if not log.exists():
        logger.warning("%s is gone: it begins again after step %d", log, step)
        return ""
    kept = log.read_bytes()[: metadata["log_size"]]
    if hashlib.sha256(kept).hexdigest() != metadata["log_sha256"]:
        raise UserError(
            f"{log} is not what training had written by step {step}: put back a copy of it, or delete it to "
            "go on with a log that begins there"
        )
    return kept.decode()


def _write_member(workdir: files.Place, config, setup: Setup, run: Result) -> dict[str, Any]:
    """Writes a run's weights; returns its line of the summary."""
    alone = ml_collections.ConfigDict(config.to_dict())
    alone.seed, alone.runs = run.seed, 1
    model = bind(setup.model, run.params)
    checkpoint.save_checkpoint(claim.weights_of(workdir, config, run.seed), model, alone)
    arrays = checkpoint.named_arrays(model)
    said = {name: value for name, value in vars(run).items() if name != "params"}
    return {
        **said,
        "weights_sha256": storage.weight_digest(arrays),
        "parameters": sum(array.size for array in arrays.values()),
    }


def _complete(workdir: files.Place, config, setup: Setup, share: Share) -> dict[str, Any] | None:
    """Writes what belongs to all runs, if all shares have ended; doing it twice gives the same."""
    places = [claim.place_of(workdir, Share(i, share.count)) for i in range(share.count)]
    try:
        parts = [files.read_note(place / PART) for place in places]
        logs = [_whole_log(place / LOG, part) for place, part in zip(places, parts, strict=True)]
    except FileNotFoundError as error:
        if share.count == 1:
            raise UserError(
                f"{error.filename} is missing, which this training has written: put back a copy of it, or "
                "begin anew with --overwrite"
            ) from error
        # A share goes on, or another process has just completed all.
        return claim.finished(workdir, config)
    for part, place in zip(parts, places, strict=True):
        claim.refuse_other(part["config"], claim.describe(config), place)
    members = [member for part in parts for member in part["members"]]
    best = members[_best(members)]
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
        storage.copy(claim.weights_of(workdir, config, best["seed"]), workdir / "checkpoint")
    if len(parts) > 1:
        logs = [_merge_logs(logs)]
        files.write_text(workdir / LOG, logs[0])
    summary["metrics_sha256"] = hashlib.sha256(logs[0].encode()).hexdigest()
    files.write_note(workdir / SUMMARY, summary)
    claim.clean(workdir)
    return summary


def _best(members: list[dict[str, Any]]) -> int:
    """Which run is the most accurate; one that was never finite is last."""
    reached = [-1.0 if member["accuracy"] is None else member["accuracy"] for member in members]
    return reached.index(max(reached))


def _whole_log(log: files.Place, part: Mapping[str, Any]) -> str:
    """The log of a share that is complete."""
    content = log.read_bytes()
    if hashlib.sha256(content).hexdigest() != part["log_sha256"]:
        raise files.damaged(log)
    return content.decode()


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
    return _import_wandb().init(
        project=config.wandb.project, name=run_name(config), config=claim.describe(config)
    )


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
