"""Compiles all programs for an accelerator that need not be here.

    orderscale compile --target=h100 --output=h100.jsonl

One JSON line per program: its kernels, the bytes they move, the memory that it
takes, and how often a second the device could do that at best: steps of runs
where it trains, calls where not. Needs XLA's compiler for the target: libtpu
for v5e and v6e (pip install 'orderscale-jax[tpu]'), NVIDIA's for h100.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence

import jax
from tqdm import tqdm

from orderscale_jax.accelerators import targets
from orderscale_jax.accelerators.costs import costs
from orderscale_jax.accelerators.programs import Program, all_programs
from orderscale_jax.cli import app, arguments, machine
from orderscale_jax.cli.configuration import load
from orderscale_jax.config import Setup, default_config
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import count
from orderscale_jax.host import in_words
from orderscale_jax.sae import SAEConfig
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.size import state_bytes

BATCH_SIZE = 1024
MANY_RUNS = 1024
TRAINED = {"from_set": "two_layer", "drawn_afresh": "two_layer_fresh", "three_layers": "three_layer"}
ANALYSED = {"two_layers": (2, 2), "three_layers": (3, 2), "three_digits": (3, 3)}  # layers, digits

TARGET = arguments.define("target", "str", None, "the device: v5e, v6e or h100.", shown="NAME")
RUNS = arguments.define("runs", "int", 256, "how many runs train together, beside 1 and 1,024.", least=1)
ONLY = arguments.define("only", "str", "", "only programs with this word in their name.", shown="WORD")
OUTPUT = arguments.define(
    "output", "path", None, "a file for the lines; they are printed in any case.", shown="FILE"
)


def main():
    target = targets.find(arguments.required(TARGET))
    file = None if OUTPUT.value is None else machine.Lines(OUTPUT.value)
    os.environ.update(targets.environment(target))
    jax.config.update("jax_platforms", "cpu")  # JAX read the variable when it was imported
    wanted = [program for program in every_program(target, RUNS.value) if ONLY.value in program.name]
    if not wanted:
        raise UserError(f"--only={ONLY.value}: no program has that in its name")
    with _silence():
        devices = targets.devices(target)
    compile_all(wanted, target, devices, file)


def compile_all(
    wanted: Sequence[Program],
    target: targets.Target,
    devices: Sequence[jax.Device],
    file: machine.Lines | None = None,
):
    """Compiles programs; every line is printed, and written to `file` if there is one.

    Raises:
      UserError: a program does not compile, or does not fit; all the others are told first.
    """
    wrong = []
    progress = tqdm(wanted, disable=None)
    for program in progress:
        progress.set_description(program.name)
        try:
            with _silence():
                line = costs(program, target, devices)
        except Exception as error:  # compilers fail in many ways
            wrong.append(f"{program.name} does not compile ({app.first_line(str(error))})")
            continue
        if not line["fits"]:
            wrong.append(f"{program.name} takes {line['memory_bytes'] / 1e9:.1f} GB, more than there is")
        print(json.dumps(line), flush=True)
        if file is not None:
            file.add(json.dumps(line))
    if wrong:
        number = f"{len(wrong)} of {count(len(wanted), 'program')}"
        raise UserError(f"{number} cannot run on {target.name}: {'; '.join(wrong)}")


def every_program(target: targets.Target, n_runs: int) -> list[Program]:
    """What is compiled for a target."""
    trained, sizes = {}, sorted({1, n_runs, MANY_RUNS})
    for name, config_name in TRAINED.items():
        config = load(config_name)
        config.train.batch_size = BATCH_SIZE
        trained[name] = (*make_setup(config), [n_runs] if config.model.n_layers > 2 else sizes)
        check_target(trained[name][0], target, n_runs)
    analysed = {}
    for name, (n_layers, list_len) in ANALYSED.items():
        config = default_config()
        config.model.n_layers, config.task.list_len = n_layers, list_len
        setup, split = make_setup(config)
        analysed[name] = setup.model, split
    saes = [SAEConfig()]
    return list(all_programs(trained, analysed, n_runs, target.n_devices, target.kernel, saes))


def check_target(setup: Setup, target: targets.Target, n_runs: int):
    """UserError if a target cannot even hold the states of so many runs."""
    if (needed := n_runs * state_bytes(setup)) > target.memory_bytes:
        raise UserError(
            f"--runs={n_runs} takes at least {in_words(needed)} of memory, and {target.name} has "
            f"{in_words(target.memory_bytes)}: give a smaller one"
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps compilers from writing to stderr, which they do past Python, and JAX from warning that numbers of
    a run, which a step leaves alone, were given away in vain."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
