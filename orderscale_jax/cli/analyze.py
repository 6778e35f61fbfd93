"""Studies one checkpoint: results.json, the figures (PNG and PDF) and one page to read, report.html.

python -m experiments.analyze --checkpoint=two_layer --output=reports/two_layer
"""

from pathlib import Path

from absl import flags

from orderscale_jax import report
from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, pretrained_names
from orderscale_jax.config import task_config
from orderscale_jax.errors import UserError
from orderscale_jax.task import make_split

CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Directory of a checkpoint, or a model that is shipped: two_layer, three_layer.",
    required=True,
)
OUTPUT = flags.DEFINE_string("output", None, "Directory for what is found.", required=True)
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "Use only the first so many validation lists.", lower_bound=1
)


def main(argv):
    del argv
    launch.use_compilation_cache()
    model, config, name = _load(CHECKPOINT.value)
    split = make_split(task_config(config))
    history = report.read_history(Path(CHECKPOINT.value), config.get("seed"))
    there_are, wanted = len(split.validation), EXAMPLES.value
    if wanted is not None and wanted > there_are:
        raise UserError(f"--examples={wanted} asks for more than the {there_are} validation lists there are")
    with launch.output_directory(OUTPUT.value) as output:
        found = report.study(model, split.validation[:wanted])
        results = report.write_report(output, found, split, name=name, history=history)
    accuracy, n_lists = results["val"]["accuracy"], results["n_val_used"]
    print(f"accuracy {accuracy:.4f} on {n_lists:,} lists: {output / 'report.html'}")


def _load(checkpoint: str):
    """Model, configuration and name of a checkpoint or of a shipped model."""
    path = Path(checkpoint)
    if checkpoint in pretrained_names() and not path.exists():
        return *load_pretrained(checkpoint), checkpoint
    if path.is_file():
        raise UserError(
            f"{path} is a file, not the directory of a checkpoint: turn .pt and .npz files into one with "
            "python -m experiments.import_torch --source=FILE --output=DIR"
        )
    if not path.exists():
        names = ", ".join(pretrained_names()) or "none"
        raise FileNotFoundError(
            f"there is no checkpoint at {path.absolute()}, and no shipped model of that name ({names})"
        )
    if (path / "summary.json").is_file() and (path / "checkpoint").is_dir():
        raise UserError(f"{path} is the directory of a run: its checkpoint is {path / 'checkpoint'}")
    model, config = load_checkpoint(path)
    resolved = path.absolute()
    name = resolved.parent.name if resolved.name == "checkpoint" else resolved.name
    return model, config, config.get("name", "") or name


if __name__ == "__main__":
    launch.run(main)
