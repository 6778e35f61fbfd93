"""Trains one configuration.

    orderscale train --config=two_layer --workdir=runs/two_layer
    orderscale train --config=my.py --config.runs=8 --workdir=runs/my

The same command again continues a run that was stopped; Ctrl-C and SIGTERM save
it first. --config.runs=64 trains 64 seeds as one program. Several processes can
divide them: with --distributed under SLURM, Open MPI or on a TPU pod, elsewhere
(a job array) with --num_processes=P --process_id=0 to P-1. All must see the
same work directory, which may be in an object store (--workdir=gs://bucket/my).
"""

from __future__ import annotations

from typing import Any

from orderscale_jax import files
from orderscale_jax.cli import arguments, machine, signals
from orderscale_jax.cli.configuration import Configuration
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import count
from orderscale_jax.training import workdir as work
from orderscale_jax.training.claim import SUMMARY

WORKDIR = arguments.define(
    "workdir", "str", None, "the directory for checkpoint, metrics and summary.", shown="DIR"
)
OVERWRITE = arguments.define(
    "overwrite",
    "bool",
    False,
    "begin anew: first remove what training has left in the work directory. One process only.",
)
SHARE = machine.ShareFlags()
CONFIG = Configuration()


def main():
    place, config, share = arguments.required(WORKDIR), CONFIG.load(), SHARE.share()
    machine.use_compilation_cache()
    machine.use_all_cores(len(share.of(config.runs)))
    with machine.output_directory(place) as workdir:
        was_finished = (workdir / SUMMARY).exists() and not OVERWRITE.value
        summary = work.train(
            config, workdir, share, overwrite=OVERWRITE.value, interruption=signals.interruption()
        )
    if summary is None:
        print(machine.incomplete(share))
        return
    members = summary.get("runs", [summary])
    diverged = [member for member in members if member["diverged_step"] is not None]
    if summary["accuracy"] is not None:
        print(sentence(summary, workdir / "checkpoint", was_finished))
        bar = config.train.min_accuracy
        if summary["accuracy"] < bar:
            print(f"no attempt reached {bar:g} (train.min_accuracy): the best weights of all are kept")
    if diverged:
        first = diverged[0]
        text = (
            f"{len(diverged)} of {count(len(members), 'run')} diverged: weights or loss were not finite "
            f"(seed {first['seed']} at step {first['diverged_step']:,} of attempt {first['attempts']})"
        )
        if len(diverged) == len(members):
            raise UserError(
                f"{text}; the last finite weights are kept in {workdir / 'checkpoint'}: give a smaller "
                "train.learning_rate, or a train.max_grad_norm"
            )
        print(text)


def sentence(summary: dict[str, Any], checkpoint: files.Place, was_finished: bool) -> str:
    """How the runs ended, in one line."""
    of = f" of seed {summary['seed']}, the best," if "runs" in summary else ""
    seen = ""
    if summary["train_accuracy"] is not None:
        seen = (
            f"; on training lists {summary['train_accuracy']:.4f} "
            f"(lists {summary['train_sequence_accuracy']:.4f})"
        )
    if summary["validation_lists_seen"]:
        seen += "; validation lists are among those it was trained on"
    return (
        f"{'this run had finished before' if was_finished else summary['placement']}: "
        f"accuracy {summary['accuracy']:.4f} (lists {summary['sequence_accuracy']:.4f}){of} "
        f"at step {summary['best_step']:,} of attempt {summary['best_attempt']}; "
        f"{count(summary['attempts'], 'attempt')}, {count(summary['steps'], 'step')}, "
        f"{summary['seconds']:,.0f} s{seen}: {checkpoint}"
    )
