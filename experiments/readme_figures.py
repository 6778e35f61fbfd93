"""Draws the pictures of the README from the shipped models and from experiments/results.

    python -m experiments.readme_figures --output=docs

Written are information_flow.png, census.png and batch_recipe.png, and of the sparse autoencoders
graded_values.png, graded_steering.png and graded_proxies.png. Half a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments.sae_tables import grid
from orderscale_jax import figures, files, load_pretrained, make_split, report, sae
from orderscale_jax.analysis import study_model
from orderscale_jax.cli import app, arguments
from orderscale_jax.config import TRANSITION_ACCURACY, task_config
from orderscale_jax.training.sweep_results import summarize
from orderscale_jax.training.sweep_rows import read_results

OUTPUT = arguments.define("output", "path", "docs", "the directory for the figures.")

RESULTS = Path(__file__).parent / "results"


def main():
    output = Path(OUTPUT.value)
    cells = summarize(read_results(RESULTS / "batch_recipe_small.csv"), threshold=TRANSITION_ACCURACY)
    cells.sort(key=lambda cell: (-int(cell.values["n_digits"]), int(cell.values["batch_size"])))
    drawn = {
        "information_flow": figures.information_flow(*(flow(name) for name in ("two_layer", "three_layer"))),
        "census": figures.census_overview(files.read_json(RESULTS / "census.json")),
        "batch_recipe": figures.outcome_strips(cells, "transition"),
    }
    model, config = load_pretrained("two_layer")
    study = sae.study_sae(sae.load_pretrained_sae("two_layer")[0], sae.view_sep(model, task_config(config)))
    drawn["graded_values"] = figures.grading_curves(study)
    drawn["graded_steering"] = figures.steering_overview(study)
    drawn["graded_proxies"] = figures.proxies([numbers(row) for row in grid()], "all")
    for name, figure in drawn.items():
        figures.save(figure, output / name, formats=("png",))


def numbers(row: dict[str, str]) -> dict[str, Any]:
    """A row with numbers where there are some, and None where nothing is."""
    found: dict[str, Any] = {}
    for name, text in row.items():
        try:
            found[name] = float(text) if text else None
        except ValueError:
            found[name] = text
    return found | {name: int(found[name]) for name in ("width", "k", "seed")}


def flow(name: str) -> figures.Flow:
    """The information flow of a shipped model on the validation lists of its task."""
    model, config = load_pretrained(name)
    return report.flow(study_model(model, make_split(task_config(config)).validation))


if __name__ == "__main__":
    app.guard(lambda: app.run(sys.modules[__name__], ["python -m experiments.readme_figures", *sys.argv[1:]]))
