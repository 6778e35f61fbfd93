"""Equality bit for bit under the compiler's own settings, which users have and the other tests do not."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, pathlib, sys
import jax, numpy as np
from orderscale_jax import checkpoint
from orderscale_jax.config import default_config
from orderscale_jax.training.workdir import train

def config_of(seed=5, runs=1):
    config = default_config()
    config.seed, config.runs = seed, runs
    config.task.n_digits, config.model.d_model, config.model.n_layers = 20, 16, 1  # compiles in 2/3 the time
    config.train.update(batch_size=32, max_steps=60, eval_every=20, max_attempts=2)
    return config

place, digests = pathlib.Path(sys.argv[1]), {}

def note(name, summary):
    runs = summary.get("runs", [summary])
    digests[name] = {run["seed"]: [run["weights_sha256"], run["accuracy"], run["loss"]] for run in runs}

note("alone", train(config_of(), place / "alone"))
note("again", train(config_of(), place / "again"))
note("of three", train(config_of(seed=4, runs=3), place / "three"))

class Killed(BaseException):
    pass

save, saved = checkpoint.save_state, []

def save_and_die(directory, step, *rest):
    save(directory, step, *rest)
    saved.append(step)
    if step == 80:
        raise Killed

checkpoint.save_state = save_and_die
try:
    train(config_of(), place / "killed")
except Killed:
    assert saved == [20, 40, 60, 80], saved
checkpoint.save_state = save
note("killed", train(config_of(), place / "killed"))
print(json.dumps(digests))
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """By way of training: weights, accuracy and loss of every seed."""
    ours = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("exact"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["again", "of three", "killed"])
def test_the_same_seed_gives_the_same_bits(digests, way):
    """Once more, among others, and after a kill in its second attempt."""
    assert digests[way]["5"] == digests["alone"]["5"]


def test_other_seeds_give_others(digests):
    assert len({weights for weights, *_ in digests["of three"].values()}) == 3
