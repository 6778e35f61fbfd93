"""Tries every set of a model's edges: its circuits, exactly.

    orderscale circuits --checkpoint=three_layer --output=circuits

Written to the output directory: results.json, with the accuracy of every set,
the minimal circuits and the Shapley value of every edge, for each meaning of
a cut, and the figure circuit_lattice as .png and .pdf. With --compare the
scores of cheaper methods are in results.json as `rankings`, and there is a
figure regret_curves too. Models with more than 16 live edges have too many
sets: --samples=200 draws so many random orders of the edges, and searches
greedily; then there is results.json alone.
"""

from __future__ import annotations

from tqdm.auto import tqdm

from orderscale_jax import figures, files
from orderscale_jax.circuits import (
    MEASURES,
    Circuits,
    CircuitTable,
    Comparison,
    circuit_table,
    compare,
    find_circuits,
    greedy_circuit,
    sample_shapley,
    tabulate_circuits,
    tabulate_comparison,
    tabulate_samples,
)
from orderscale_jax.circuits.checks import check_edges, check_seed, check_task
from orderscale_jax.circuits.games import check_tolerance
from orderscale_jax.circuits.table import why_not_exact
from orderscale_jax.cli import arguments, machine, studied
from orderscale_jax.config import task_config
from orderscale_jax.errors import UserError
from orderscale_jax.model import MODES
from orderscale_jax.task import make_split

CHECKPOINT = studied.define_checkpoint()
OUTPUT = arguments.define("output", "str", None, "the directory for what is found.", shown="DIR")
EXAMPLES = studied.define_examples()
CUTS = studied.define_cuts(MODES)
TOLERANCE = studied.define_tolerance()
SAMPLES = arguments.define(
    "samples", "int", None, "draw so many random orders instead of trying every set.", least=2, shown="NUMBER"
)
COMPARE = arguments.define(
    "compare",
    "bool",
    False,
    "also rank the edges by cheaper methods (EAP, ACDC, learned masks, …) and score the rankings.",
)
SEED = arguments.define("seed", "int", 0, "of what is drawn at random.", least=0)


def main():
    checkpoint, output = arguments.required(CHECKPOINT), arguments.required(OUTPUT)
    check_tolerance(TOLERANCE.value)
    check_seed(SEED.value, "--seed")
    modes = studied.cuts(CUTS)
    if COMPARE.value and SAMPLES.value is not None:
        raise UserError("--compare judges rankings by every set of edges: give it without --samples")
    machine.use_compilation_cache()
    model, config, name = studied.load(checkpoint)
    lists = studied.examples(make_split(task_config(config)), EXAMPLES.value)
    check(model, lists, modes)
    with machine.output_directory(output) as directory:
        results, drawn = {"name": name, "n_val_used": len(lists)}, {}
        if SAMPLES.value is None:
            tables = {mode: exact(model, lists, mode) for mode in modes}
            results["exact_circuit"] = {
                mode: tabulate_circuits(table, found(table), MEASURES) for mode, table in tables.items()
            }
            drawn["circuit_lattice"] = figures.circuit_lattice(tables, tolerance=TOLERANCE.value)
            if COMPARE.value:
                compared = {mode: rankings(model, lists, table) for mode, table in tables.items()}
                results["rankings"] = {mode: tabulate_comparison(x) for mode, x in compared.items()}
                drawn["regret_curves"] = figures.regret_curves(compared)
        else:
            results["sampled_circuit"] = {mode: sampled(model, lists, mode) for mode in modes}
        files.write_json(directory / "results.json", results)
        for figure, picture in drawn.items():
            figures.save(picture, directory / figure)
    print(directory / "results.json")


def check(model, lists, modes: list[str]):
    """UserError if what was asked for cannot be had of this model on these lists."""
    check_task(model, lists)
    if "resample" in modes and len(lists) < 2:
        raise UserError(
            f"--cuts=resample draws the message of another list, so it needs at least two: got {len(lists)}"
        )
    graph = model.config.graph
    if COMPARE.value or SAMPLES.value is not None:
        check_edges(graph)
    if SAMPLES.value is None and (reason := why_not_exact(len(graph.live_edges), len(lists))):
        raise UserError(f"{reason}: draw some of them with --samples=200")


def exact(model, lists, mode: str) -> CircuitTable:
    """The table of every set; prints what is found in it."""
    with _bar(len(lists), "list", mode) as bar:
        table = circuit_table(model, lists, mode, seed=SEED.value, progress=_shown(bar))
    print(found(table).table(), end="\n\n", flush=True)
    return table


def found(table: CircuitTable) -> Circuits:
    """The circuits in a table, at the tolerance that was asked for."""
    return find_circuits(table, tolerance=TOLERANCE.value)


def rankings(model, lists, table: CircuitTable) -> Comparison:
    """Prints and returns how cheaper rankings score."""
    compared = compare(model, lists, table, measure="accuracy", tolerance=TOLERANCE.value)
    print(compared.table(), end="\n\n", flush=True)
    return compared


def sampled(model, lists, mode: str):
    """Prints what is found in random orders and by a greedy search, and returns it for `results.json`."""
    with _bar(SAMPLES.value, "order", mode) as bar:
        shapley = sample_shapley(model, lists, SAMPLES.value, mode, seed=SEED.value, progress=_shown(bar))
    search = greedy_circuit(model, lists, mode, tolerance=TOLERANCE.value, seed=SEED.value)
    print(f"{shapley.table()}\n{search.table()}", end="\n\n", flush=True)
    return tabulate_samples(shapley, search)


def _bar(total: int, unit: str, mode: str) -> tqdm:
    return tqdm(total=total, unit=unit, desc=mode, disable=None, dynamic_ncols=True)


def _shown(bar: tqdm):
    return lambda done, _: bar.update(done - bar.n)
