"""The paper's result from nothing: trains both models, ablates, draws Figure 1, and compares.

    python -m experiments.reproduce --output=results

Written to the output directory: the two training runs, a report of each model (`report.html`,
`results.json`, figures), `information_flow.png` and `.pdf` with both models side by side, and
`comparison.txt` with our numbers beside the published ones and the paper's claims with verdicts.
"""

from pathlib import Path

from absl import flags

from orderscale_jax import convert, figures, report
from orderscale_jax.checkpoint import load_checkpoint
from orderscale_jax.config import default_config, task_config
from orderscale_jax.errors import UserError
from orderscale_jax.task import make_split
from orderscale_jax.training.workdir import train

OUTPUT = flags.DEFINE_string("output", "results", "Directory for everything that is made.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of both models.", lower_bound=0)
PUBLISHED = flags.DEFINE_string(
    "published", None, "Folder with the published checkpoints (.pt or .npz), to judge the claims on them too."
)

MODELS = {"two_layer": 2, "three_layer": 3}
TARGET_ACCURACY = {"two_layer": 0.9, "three_layer": 0.999}  # the published bars


def main(argv):
    del argv
    launch.use_compilation_cache()
    published = _published(PUBLISHED.value) if PUBLISHED.value else None
    with launch.output_directory(OUTPUT.value) as output:
        results, flows = {}, []
        for name, n_layers in MODELS.items():
            config = default_config()
            config.seed = SEED.value
            config.model.n_layers = n_layers
            config.train.target_accuracy = TARGET_ACCURACY[name]
            print(f"training the model with {n_layers} layers", flush=True)
            summary = train(config, output / name / "training")
            print(
                f"  {summary['accuracy']:.4f} of the outputs right after {summary['steps']} steps, "
                f"{summary['seconds']:.0f} s",
                flush=True,
            )
            checkpoint = output / name / "training" / "checkpoint"
            model, _ = load_checkpoint(checkpoint)
            split = make_split(task_config(config))
            found = report.study(model, split.validation)
            history = report.read_history(checkpoint)
            results[name] = report.write_report(output / name, found, split, name=name, history=history)
            flows.append(report.flow(found))
        figures.save(figures.information_flow(*flows), output / "information_flow")
        text = _comparison(results, published)
        (output / "comparison.txt").write_text(text + "\n", encoding="utf-8")
        print(text)
        for name in MODELS:
            print(f"report: {output / name / 'report.html'}")


def _comparison(results, published) -> str:
    """Our numbers beside the published ones, then the claims."""
    numbers = [f"{name}\n{report.number_text(of_model)}" for name, of_model in results.items()]
    return "\n\n".join([*numbers, report.claims_text(report.claims(*results.values(), published))])


def _published(folder: str):
    """Results of the published checkpoints in a folder, by `two_layer` and `three_layer`."""
    found = {}
    sources = [path for path in sorted(Path(folder).glob("*")) if path.suffix in (".pt", ".npz")]
    for source in sources:
        try:
            model, config = convert.from_torch(convert.read_arrays(source))
        except ValueError:
            continue  # of another kind, such as stored activations
        results = report.results(model, make_split(task_config(config)).validation, name=source.stem)
        if name := report.kind(results):
            found[name] = results
    if not found:
        raise UserError(f"{folder} holds no published checkpoint (.pt or .npz) of two or three layers")
    return found


if __name__ == "__main__":
    launch.run(main)
