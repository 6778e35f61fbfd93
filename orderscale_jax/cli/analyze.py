"""Studies one checkpoint: numbers, figures and one page to read.

    orderscale analyze --checkpoint=two_layer --output=reports/two_layer

Written to the output directory: results.json, the figures (PNG and PDF) and
report.html, which is complete in itself.
"""

from __future__ import annotations

from orderscale_jax import files, report
from orderscale_jax.analysis import study_model
from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, pretrained_names
from orderscale_jax.cli import arguments, machine
from orderscale_jax.config import task_config, untrained_arrays, validation_lists_seen
from orderscale_jax.errors import UserError
from orderscale_jax.task import make_split
from orderscale_jax.training.claim import SUMMARY

CHECKPOINT = arguments.define(
    "checkpoint",
    "str",
    None,
    f"the directory of a checkpoint, or a model that is shipped: {', '.join(pretrained_names())}.",
    shown="DIR",
)
OUTPUT = arguments.define("output", "str", None, "the directory for what is found.", shown="DIR")
EXAMPLES = arguments.define(
    "examples", "int", None, "use only the first so many validation lists.", least=1, shown="NUMBER"
)


def main():
    checkpoint, output = arguments.required(CHECKPOINT), arguments.required(OUTPUT)
    machine.use_compilation_cache()
    model, config, name = _load(checkpoint)
    split = make_split(task_config(config))
    history = report.read_history(checkpoint, config.get("seed"))
    there_are, wanted = len(split.validation), EXAMPLES.value
    if wanted is not None and wanted > there_are:
        raise UserError(f"--examples={wanted} asks for more than the {there_are} validation lists there are")
    with machine.output_directory(output) as directory:
        found = study_model(model, split.validation[:wanted], split.train, untrained=untrained_arrays(config))
        results = report.write_report(
            directory,
            found,
            split,
            name=name,
            validation_lists_seen=validation_lists_seen(config),
            history=history,
        )
    accuracy, n_lists = results["val"]["accuracy"], results["n_val_used"]
    print(f"accuracy {accuracy:.4f} on {n_lists:,} lists: {directory / 'report.html'}")


def _load(checkpoint: str):
    """Model, configuration and name of a checkpoint or of a shipped model."""
    path = files.place(checkpoint)
    if checkpoint in pretrained_names() and not path.exists():
        return *load_pretrained(checkpoint), checkpoint
    if path.is_file():
        raise UserError(
            f"{path} is a file, not the directory of a checkpoint: turn .pt and .npz files into one with "
            f"orderscale import-torch --source={path} --output=DIR"
        )
    if not path.exists():
        names = ", ".join(pretrained_names()) or "none"
        raise UserError(
            f"there is no checkpoint at {files.absolute(path)}, and no shipped model of that name ({names})"
        )
    if (path / SUMMARY).is_file() and (path / "checkpoint").is_dir():
        raise UserError(f"{path} is the directory of a run: its checkpoint is {path / 'checkpoint'}")
    model, config = load_checkpoint(path)
    resolved = files.absolute(path)
    name = resolved.parent.name if resolved.name == "checkpoint" else resolved.name
    return model, config, config.get("name", "") or name
