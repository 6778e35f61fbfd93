"""Studies one checkpoint: numbers, figures and one page to read.

    orderscale analyze --checkpoint=two_layer --output=reports/two_layer

Written to the output directory: results.json, the figures (PNG and PDF) and
report.html, which is complete in itself.
"""

from __future__ import annotations

from orderscale_jax import report
from orderscale_jax.analysis import study_model
from orderscale_jax.cli import arguments, machine, studied
from orderscale_jax.config import task_config, untrained_arrays, validation_lists_seen
from orderscale_jax.task import make_split

CHECKPOINT = studied.define_checkpoint()
OUTPUT = arguments.define("output", "str", None, "the directory for what is found.", shown="DIR")
EXAMPLES = studied.define_examples()


def main():
    checkpoint, output = arguments.required(CHECKPOINT), arguments.required(OUTPUT)
    machine.use_compilation_cache()
    model, config, name = studied.load(checkpoint)
    split = make_split(task_config(config))
    history = report.read_history(checkpoint, config.get("seed"))
    lists = studied.examples(split, EXAMPLES.value)
    with machine.output_directory(output) as directory:
        found = study_model(model, lists, split.train, untrained=untrained_arrays(config))
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
