"""The paper's result from nothing: train, ablate, draw, compare.

    orderscale reproduce --output=results

Written to the output directory: three training runs (two layers by the sure
recipe and as published, three layers), a report of each model (report.html,
results.json, figures), information_flow.png and .pdf with two and three layers
side by side, and comparison.txt with our numbers beside the published ones and
the paper's claims with verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_collections

from orderscale_jax import convert, figures, files, report
from orderscale_jax.analysis import study_model, tabulate
from orderscale_jax.checkpoint import load_checkpoint
from orderscale_jax.cli import arguments, machine, signals
from orderscale_jax.cli.configuration import load
from orderscale_jax.config import check_config, task_config, untrained_arrays, validation_lists_seen
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import count
from orderscale_jax.task import make_split
from orderscale_jax.training.workdir import train

OUTPUT = arguments.define("output", "path", "results", "the directory for everything that is made.")
SEED = arguments.define("seed", "int", 0, "seed of all models.", least=0)
PUBLISHED = arguments.define(
    "published",
    "path",
    None,
    "a folder with the published checkpoints (.pt or .npz), to judge the claims on them too.",
    shown="DIR",
)

LAYERS = {"two_layer": 2, "three_layer": 3}
AS_PUBLISHED = "two_layer_published"  # two layers, trained as their authors train them
TARGET_ACCURACY = {2: 0.9, 3: 0.999}  # by layers: the published bars
Results = Mapping[str, Any]


def main():
    machine.use_compilation_cache()
    configs = paper_configs(SEED.value)
    published = read_published(Path(PUBLISHED.value)) if PUBLISHED.value else {}
    with machine.output_directory(OUTPUT.value) as output:
        reproduce(configs, output, published)


def paper_configs(seed: int) -> dict[str, ml_collections.ConfigDict]:
    """What to train, by the name of the model: shipped configurations that stop at the published bars.

    Raises:
      UserError: there is no such seed.
    """
    configs = {name: load(name) for name in ("two_layer", AS_PUBLISHED, "three_layer")}
    for config in configs.values():
        config.seed = seed
        config.train.target_accuracy = TARGET_ACCURACY[config.model.n_layers]
        check_config(config)
    return configs


def reproduce(
    configs: Mapping[str, ml_collections.ConfigDict], output: Path, published: Mapping[str, Results]
):
    """Trains, studies and compares; says on stdout what it does and what came out.

    Args:
      configs: of `two_layer`, `two_layer_published` and `three_layer`.
      output: a directory that exists.
      published: what `tabulate` says of the published checkpoints, by the same names.
    """
    studies = {}
    with ThreadPoolExecutor(max_workers=1) as background:  # a model is studied while the next one trains
        for name, config in configs.items():
            how = ", as published" * (name == AS_PUBLISHED)
            print(f"training the model with {count(config.model.n_layers, 'layer')}{how}", flush=True)
            summary = train(config, output / name / "training", interruption=signals.interruption())
            print(
                f"  {summary['accuracy']:.4f} of the outputs right after {count(summary['steps'], 'step')}, "
                f"{summary['seconds']:.0f} s",
                flush=True,
            )
            studies[name] = background.submit(study, name, config, output / name)
    results, flows = ({name: done.result()[i] for name, done in studies.items()} for i in (0, 1))
    figures.save(figures.information_flow(*(flows[name] for name in LAYERS)), output / "information_flow")
    text = comparison(results, published)
    files.write_text(output / "comparison.txt", text + "\n")
    print(text)
    for name in configs:
        print(f"report: {output / name / 'report.html'}")


def study(name: str, config: ml_collections.ConfigDict, output: Path) -> tuple[dict[str, Any], figures.Flow]:
    """Studies the model that was trained in `output`/training and writes its report to `output`."""
    checkpoint = output / "training" / "checkpoint"
    model, _ = load_checkpoint(checkpoint)
    split = make_split(task_config(config))
    found = study_model(model, split.validation, split.train, untrained=untrained_arrays(config))
    results = report.write_report(
        output,
        found,
        split,
        name=name,
        validation_lists_seen=validation_lists_seen(config),
        history=report.read_history(checkpoint),
    )
    return results, report.flow(found)


def comparison(results: Mapping[str, Results], published: Mapping[str, Results]) -> str:
    """Numbers, claims, and where the two recipes of two layers differ in them."""
    ours = {name: results[name] for name in LAYERS}
    beside = {"two_layer": results[AS_PUBLISHED]}
    numbers = [f"{name}\n{report.number_text(ours[name], beside.get(name))}" for name in LAYERS]
    claims = report.judge_claims(ours, published)
    others = {claim.rule.key: claim.ours.verdict for claim in report.judge_claims(beside)}
    differ = [
        f"  {claim.rule.statement}: {claim.ours.verdict}, as published: {others[claim.rule.key]}"
        for claim in claims
        if claim.model in beside and claim.ours.verdict != others[claim.rule.key]
    ]
    same = "Both recipes of two layers get the same verdict on every claim."
    recipes = "\n".join(["The two recipes of two layers get other verdicts on:", *differ]) if differ else same
    return "\n\n".join([*numbers, report.claims_text(claims), recipes])


def read_published(folder: Path) -> dict[str, Results]:
    """Results of the published checkpoints in a folder, by `two_layer` and `three_layer`.

    Files of another kind, such as stored activations, are left out; so is a `.pt` beside the same
    arrays as `_weights.npz`.

    Raises:
      UserError: a file is damaged, or there is no published checkpoint.
    """
    sources = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".npz"))
    found: dict[str, Results] = {}
    for source in sources:
        if source.suffix == ".pt" and source.with_name(f"{source.stem}_weights.npz") in sources:
            continue
        arrays = convert.read_arrays(source)
        if not convert.is_state_dict(arrays):
            continue
        try:
            model, config = convert.from_torch(arrays)
        except UserError as error:
            raise UserError(f"{source} is not a published checkpoint: {error}") from error
        split = make_split(task_config(config))
        results = tabulate(study_model(model, split.validation, split.train), name=source.stem)
        if kind := report.published_kind(results):
            found[kind] = results
            print(f"published model with {count(LAYERS[kind], 'layer')}: {source}", flush=True)
    if not found:
        raise UserError(f"{folder} holds no published checkpoint (.pt or .npz) of two or three layers")
    return found
