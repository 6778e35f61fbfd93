"""Kills, interrupts and damages what this package writes, and counts what comes of it.

    python -m experiments.faults
    python -m experiments.faults --kills=5 --terms=2 --flips=100

Real processes of `orderscale train` and `orderscale sweep` get SIGKILL and SIGTERM at random instants and
are started again until they end; what they leave must be that of a run which nothing disturbed, bit for bit.
Single bits are flipped in every file of a checkpoint, a state, a work directory, the results of a sweep, an
.npz and a .pt; nothing that is damaged may be read as something else. A line of JSON for each part; exit
code 1 if one of them failed. Some twenty minutes on 2 CPU cores.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from orderscale_jax import checkpoint, convert, files, report, storage
from orderscale_jax.cli import app, arguments
from orderscale_jax.config import default_config
from orderscale_jax.errors import UserError
from orderscale_jax.training.sweep_rows import read_results
from orderscale_jax.training.workdir import train

KILLS = arguments.define(
    "kills", "int", 50, "SIGKILLs of a training; of a sweep 2/5, of 8 runs together 1/5 of it.", least=0
)
TERMS = arguments.define("terms", "int", 20, "SIGTERMs of a training.", least=0)
FLIPS = arguments.define("flips", "int", 1000, "flipped bits of each kind of thing.", least=0)
SEED = arguments.define("seed", "int", 0, "of the random instants and bits.", least=0)

ROOT = Path(__file__).parents[1]
TASK = ["task.n_digits=30", "train.batch_size=256", "train.target_accuracy=1.1"]
TRAINING = ["train", "--config=two_layer", *(f"--config.{x}" for x in (*TASK, "train.max_attempts=1"))]
SWEEP = ["sweep", f"--config={ROOT / 'configs/sweeps/batch_recipe_small.py'}"]
SLOWEST_END = 15  # seconds that a process may take from a signal to its end
NOT_COMPARED = {"seconds", "steps_per_second", "checkpoint", "placement"}


def main():
    draw = random.Random(SEED.value)
    with tempfile.TemporaryDirectory(prefix="orderscale_faults_") as folder:
        parts = [*interruptions(Path(folder), draw), *damages(Path(folder), draw)]
    if failed := [part["part"] for part in parts if part["failed"]]:
        raise UserError(f"what must hold does not: {', '.join(failed)}")


def interruptions(folder: Path, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Processes that are killed and interrupted."""
    one, long = ([*TRAINING, f"--config.train.max_steps={steps}"] for steps in (30_000, 150_000))
    eight = [*TRAINING, "--config.runs=8", "--config.train.max_steps=8000"]
    often = "--config.save_seconds=1"
    sweep = [*SWEEP, "--config.seeds=4", "--config.base.train.max_steps=4000", often]
    for name, command, number, count, longest in (
        ("SIGKILL, one run", [*one, often], signal.SIGKILL, KILLS.value, 10),
        ("SIGKILL, one run, saved every 30 s", long, signal.SIGKILL, min(4, KILLS.value), 60),
        ("SIGTERM, one run", one, signal.SIGTERM, TERMS.value, 10),
        ("SIGKILL, 8 runs", [*eight, often], signal.SIGKILL, KILLS.value // 5, 10),
        ("SIGTERM, 8 runs", eight, signal.SIGTERM, TERMS.value // 5, 10),
        ("SIGKILL, sweep", sweep, signal.SIGKILL, 2 * KILLS.value // 5, 10),
        ("SIGTERM, sweep", sweep, signal.SIGTERM, TERMS.value // 5, 10),
    ):
        if count:
            yield told(name, **disturb(folder, command, number, count, longest, draw))


def disturb(
    folder: Path, command: Sequence[str], number: int, count: int, longest: float, draw: random.Random
) -> dict[str, Any]:
    """Sends a signal to a command so often, starting it again, and compares with one left alone.

    Args:
      folder: exists.
      command: of `orderscale`, without its work directory.
      number: of the signal.
      count: how often it must have met a running process.
      longest: seconds until it is sent.
      draw: of the instants.

    Returns:
      How often it was sent, how many ends differed, how many processes ended in another way than they
      should, the most steps of a training that were lost and the seconds they take, and the longest time
      from a signal to the end of its process.
    """
    alone = folder / "alone"
    shutil.rmtree(alone, ignore_errors=True)
    began = time.monotonic()
    Process(command, alone).wait(0)
    whole = time.monotonic() - began
    expected, found = left(alone), {"signals": 0, "ends": 0, "different": 0, "wrong_exits": 0}
    lost, slowest = 0, 0.0
    while found["signals"] < count:
        place, loss = folder / "disturbed", Loss()
        shutil.rmtree(place, ignore_errors=True)
        while True:
            process = Process(command, place)
            code = process.wait(0, draw.uniform(0, longest) if found["signals"] < count else None)
            was_met = code is None
            if was_met:
                found["signals"] += 1
                sent = time.monotonic()
                code = process.wait(number)
                slowest = max(slowest, time.monotonic() - sent)
            loss.note(place, process.said)
            codes = {0, -number} if number == signal.SIGKILL else {0, -number, 128 + number}
            found["wrong_exits"] += code not in (codes if was_met else {0}) or "Traceback" in process.said
            if not was_met:
                break
        lost = max(lost, loss.steps)
        found["ends"] += 1
        found["different"] += left(place) != expected
    failed = found["different"] + found["wrong_exits"] + (slowest > SLOWEST_END)
    if "summary" in expected:  # a sweep has no log
        failed += number != signal.SIGKILL and lost > 0
        found["lost_steps"] = lost
        found["lost_seconds"] = round(lost * whole / expected["summary"]["steps"], 1)
    return {**found, "slowest_end_seconds": round(slowest, 1), "failed": failed}


class Loss:
    """The most steps that one run had logged and had to train again."""

    def __init__(self):
        self.steps, self._logged = 0, 0

    def note(self, place: Path, said: str):
        """Takes in what a process has logged, and what it said of the state it went on from."""
        logged = 0
        with contextlib.suppress(FileNotFoundError):
            lines = (place / "metrics.jsonl").read_bytes().splitlines(keepends=True)
            logged = max([0, *(json.loads(line)["total_steps"] for line in lines if line.endswith(b"\n"))])
        if found := re.search(r"going on from step (\d+)", said):
            self.steps = max(self.steps, self._logged - int(found[1]))
        elif logged < self._logged:
            self.steps = max(self.steps, self._logged)  # it began again
        self._logged = logged


class Process:
    """A running command of this clone."""

    def __init__(self, command: Sequence[str], workdir: Path, **options: Any):
        variables = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orderscale_jax", *command, f"--workdir={workdir}"],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.said = ""

    def wait(self, number: int, timeout: float | None = None) -> int | None:
        """Sends a signal, unless it is 0; the exit code, or None after so many seconds without one."""
        if number:
            self._process.send_signal(number)
        try:
            _, self.said = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return None
        return self._process.returncode


def left(workdir: Path) -> dict[str, Any]:
    """What a training or a sweep has left, without what differs between two of the same."""
    found: dict[str, Any] = {"names": sorted(entry.name for entry in workdir.iterdir())}
    if (workdir / "results.csv").exists():
        return {**found, "rows": [_comparable(row) for row in read_results(workdir / "results.csv")]}
    summary = files.read_note(workdir / "summary.json")
    runs = [_comparable(run) for run in summary.pop("runs", [])]
    log = (workdir / "metrics.jsonl").read_text()
    return {**found, "summary": _comparable(summary), "runs": runs, "log": log}


def _comparable(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in NOT_COMPARED}


def damages(folder: Path, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Flipped bits in what this package writes and reads."""
    if not FLIPS.value:
        return
    logging.getLogger("orderscale_jax").setLevel(logging.ERROR)  # of a thousand damages
    for name, place, read in readers(folder):
        yield told(f"flipped bits, {name}", **flip(place, read, FLIPS.value, draw))


def readers(folder: Path) -> Iterator[tuple[str, Path, Callable[[Path], Any]]]:
    """Things to damage: their name, the file or directory, and what is read from it."""
    shutil.copytree(checkpoint.PRETRAINED / "two_layer", folder / "checkpoint")
    yield "checkpoint", folder / "checkpoint", read_checkpoint
    model, _ = checkpoint.load_checkpoint(folder / "checkpoint")
    state = {"arrays": checkpoint.named_arrays(model)}
    checkpoint.save_state(folder / "states", 7, state, {"seconds": 1.5})
    yield "state", folder / "states", lambda place: read_state(place, state)
    config = small_config()
    train(config, folder / "training")
    yield "work directory", folder / "training", lambda place: read_training(place, config)
    shutil.copyfile(ROOT / "experiments/results/transition_step.csv", folder / "results.csv")
    yield "results of a sweep", folder / "results.csv", read_results
    published = convert.to_torch(model)
    np.savez(folder / "weights.npz", **published)
    yield ".npz", folder / "weights.npz", read_weights
    with contextlib.suppress(ModuleNotFoundError):
        import torch

        torch.save({name: torch.tensor(array) for name, array in published.items()}, folder / "weights.pt")
        yield ".pt", folder / "weights.pt", read_weights


def small_config() -> ml_collections.ConfigDict:
    """Some seconds of training."""
    config = default_config()
    config.task.n_digits, config.model.d_model = 8, 8
    config.train.update(batch_size=16, max_steps=20, eval_every=5, max_attempts=1)
    return config


def read_training(place: Path, config: ml_collections.ConfigDict) -> Any:
    history = [vars(curve) for curve in report.read_history(place / "checkpoint")]
    return train(config, place), history


def read_weights(place: Path) -> Any:
    return storage.weight_digest(checkpoint.named_arrays(convert.from_torch(convert.read_arrays(place))[0]))


def read_checkpoint(place: Path) -> Any:
    model, config = checkpoint.load_checkpoint(place)
    return storage.weight_digest(checkpoint.named_arrays(model)), config.to_json()


def read_state(place: Path, like: Any) -> Any:
    found = checkpoint.restore_latest(place, like)
    if found is None:
        return None
    step, state, metadata = found
    return step, storage.weight_digest(state["arrays"]), metadata


def flip(place: Path, read: Callable[[Path], Any], count: int, draw: random.Random) -> dict[str, Any]:
    """Flips single bits, one at a time, of files below `place`, each file as often as another.

    Returns:
      How many bits were flipped, how often that was refused in one sentence, was read as what it was,
      was read as something else, or ended in another error.
    """
    expected = read(place)
    found = {"flips": count, "refused": 0, "read_the_same": 0, "read_as_another": 0, "other_errors": 0}
    there = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    there = [file for file in there if file.stat().st_size]
    for i in range(count):
        file = there[i % len(there)]
        content = file.read_bytes()
        bit = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            found["read_the_same" if read(place) == expected else "read_as_another"] += 1
        except UserError as error:
            found["refused" if "\n" not in str(error) else "other_errors"] += 1
        except Exception:
            found["other_errors"] += 1
        finally:
            file.write_bytes(content)
    return {**found, "failed": found["read_as_another"] + found["other_errors"]}


def told(part: str, **found: Any) -> dict[str, Any]:
    """Prints a line of JSON and returns it."""
    line = {"part": part, **found, "failed": bool(found["failed"])}
    print(json.dumps(line), flush=True)
    return line


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.faults", *sys.argv[1:]]))
