"""Compares circuits and what carries order in many trained models.

    orderscale census --output=census

Kinds are two_layer and two_layer_fresh (20,000 steps), three_layer, and
layer_norm (two layers with LayerNorm, to 0.90 or 20,000 steps). Written to the
output directory are the models, a directory for each kind; census.json, which
says of each model what its exact tables hold and, for the first two kinds, what
carries order in it, and of each kind what its models have in common; and a
figure, census.png and census.pdf. The same command again continues where it
was stopped.
"""

from __future__ import annotations

import ml_collections
from tqdm.auto import tqdm

from orderscale_jax import census, figures, files
from orderscale_jax.analysis import observe, what_carries_order, why_no_equations
from orderscale_jax.analysis.order import tabulate_order
from orderscale_jax.checkpoint import load_checkpoint
from orderscale_jax.circuits.games import check_tolerance
from orderscale_jax.cli import arguments, machine, signals, studied
from orderscale_jax.cli.configuration import load
from orderscale_jax.config import check_config, task_config
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import count, number, percent
from orderscale_jax.model.interventions import CUTS as MEANINGS
from orderscale_jax.task import make_split
from orderscale_jax.training import claim
from orderscale_jax.training.workdir import train

FILE = "census.json"
FORMAT = 2  # of that file
ORDER = (  # of each model
    "n_lists",
    "c",
    "same_digit_larger",
    "intact",
    "exchange",
    "random_vectors",
    "accuracy_by_alpha_gap",
)
STEPS = 20_000  # of two layers: by then all of 64 seeds have broken through
KINDS = ("two_layer", "two_layer_fresh", "three_layer", "layer_norm")

OUTPUT = arguments.define("output", "str", None, "the directory for models and census.json.", shown="DIR")
MODELS = arguments.define("models", "int", 64, "models of each kind, seeds from 0 on.", least=2)
WANTED = arguments.define("kinds", "str", ",".join(KINDS), "which kinds, with commas.")
CUTS = studied.define_cuts(MEANINGS)
TOLERANCE = studied.define_tolerance()
RESAMPLES = arguments.define("resamples", "int", 20, "how often lists are resampled.", least=1)


def main():
    place = arguments.required(OUTPUT)
    check_tolerance(TOLERANCE.value)
    kinds, modes = studied.words(WANTED), studied.cuts(CUTS)
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")
    machine.use_compilation_cache()
    machine.use_all_cores(MODELS.value)
    options = {"cuts": modes, "tolerance": TOLERANCE.value, "resamples": RESAMPLES.value}
    with machine.output_directory(place) as directory:
        said = read(directory / FILE, options)
        for kind in kinds:
            config = configuration(kind, MODELS.value)
            print(f"training {count(config.runs, 'model')} of the kind {kind}", flush=True)
            train(config, directory / kind, interruption=signals.interruption())
            take(directory, said, kind, config)
            print(_sentences(said, kind), flush=True)
        figures.save(figures.census_overview(said), directory / "census")
    print(directory / FILE)


def configuration(kind: str, n_models: int) -> ml_collections.ConfigDict:
    """How the models of a kind are trained."""
    config = load("two_layer_published" if kind == "layer_norm" else kind)
    config.runs = n_models
    if kind != "three_layer":
        config.train.max_steps, config.train.target_accuracy = STEPS, 1.0
    if kind == "layer_norm":
        config.model.layer_norm = True
        config.train.batch_size, config.train.target_accuracy = 512, 0.9
    check_config(config)
    return config


def read(path: files.Place, options: dict) -> dict:
    """What an earlier call has left, or the beginning.

    Raises:
      UserError: it is damaged, or was made with other options or by another version.
    """
    if not path.exists():
        return {"format": FORMAT, "options": options, "models": {}, "summary": {}}
    said = files.read_note(path)
    if said.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this command: give another output")
    if said.get("options") != options:
        raise UserError(
            f"{path} was made with {said.get('options')}, and not with {options}: give another output"
        )
    return said


def take(directory: files.Place, said: dict, kind: str, config: ml_collections.ConfigDict):
    """Examines every model of a kind that is not yet in census.json, and writes it there."""
    lists = make_split(task_config(config)).validation
    rows = said["models"].setdefault(kind, {})
    seeds = range(config.seed, config.seed + config.runs)
    options = said["options"]
    for seed in tqdm(seeds, unit="model", desc=kind, disable=None, dynamic_ncols=True):
        weights = claim.weights_of(directory / kind, config, seed)
        if str(seed) in rows:
            continue
        model, _ = load_checkpoint(weights)
        row = {
            "circuits": census.examine(
                model,
                lists,
                options["cuts"],
                tolerance=options["tolerance"],
                n_resamples=options["resamples"],
            )
        }
        if why_no_equations(model.config) is None:
            order = tabulate_order(what_carries_order(observe(model, lists)))
            row["order"] = {name: order[name] for name in ORDER}
        rows[str(seed)] = row
        files.write_note(directory / FILE, said)
    of_kind = [rows[str(seed)] for seed in seeds]
    said["summary"][kind] = {
        "seeds": list(seeds),
        "circuits": census.summarize([row["circuits"] for row in of_kind]),
    }
    if "order" in of_kind[0]:
        said["summary"][kind]["order"] = census.summarize_order([row["order"] for row in of_kind])
    files.write_note(directory / FILE, said)


def _sentences(said: dict, kind: str) -> str:
    """What the models of a kind have in common, a line for each meaning of a cut."""
    lines = []
    for mode, found in said["summary"][kind]["circuits"].items():
        seeds, lists, cuts = (found[f"between_{what}"] for what in ("seeds", "resamples", "modes"))
        several, all_models = found["models"] - found["minimal"].get("1", 0), found["models"]
        lines.append(
            f"  {mode}: {several} of {all_models} have more than one minimal circuit; mean Jaccard index "
            f"{number(seeds['jaccard'])} between seeds (closest {number(seeds['closest'])}), "
            f"{number(lists['jaccard'])} between resampled lists, {number(cuts['jaccard'])} to other cuts"
        )
    if order := said["summary"][kind].get("order"):
        share = {name: percent(effect["reversed"][2]) for name, effect in order["exchange"].items()}
        lines.append(
            f"  reversed in the median model: by SEP of the reversed list {share['reversed_list']}, by its "
            f"weights of positions alone {share['positions_of_reversed']}, of digits alone "
            f"{share['embeddings_of_reversed']}; with alpha_1 and alpha_2 exchanged {share['alphas']}"
        )
    return "\n".join(lines)
