"""Measures on the published checkpoints what the pictures beside ours need and no file of theirs tells.

    python -m experiments.published_figures --checkpoints=DIRECTORY

The directory holds the two published checkpoints as `NAME_weights.npz` or `NAME.pt`. Written is
`orderscale_jax/report/published_figures.json`: of both the input column and the redundant routes of
the paper's Figure 1, of two layers the counts of its Figure 3 and the points of its Figure 4, scores with two
decimals. Seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from orderscale_jax import figures, files, make_split
from orderscale_jax.analysis import attention_statistics, logit_lens, observe, sep_attention
from orderscale_jax.circuits import circuit_table
from orderscale_jax.cli import app, arguments
from orderscale_jax.config import task_config
from orderscale_jax.convert import from_torch, read_arrays
from orderscale_jax.errors import UserError
from orderscale_jax.figures.published import PAPER_MODE
from orderscale_jax.files import plain
from orderscale_jax.model import ListTransformer

CHECKPOINTS = arguments.define("checkpoints", "path", None, "where the published checkpoints are.")

REPORT = Path(figures.__file__).parents[1] / "report"
DECIMALS = {"sep_scores": 2, "attention": 6, "change": 6}


def main():
    folder, measured = Path(CHECKPOINTS.value), {}
    for kind, said in files.read_json(REPORT / "published_checkpoints.json").items():
        paths = [folder / f"{said['name']}{end}" for end in ("_weights.npz", ".pt")]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise UserError(f"there is no {paths[0].name} and no {paths[1].name} in {folder}")
        measured[kind] = measure(*from_torch(read_arrays(found[0])), in_full=kind == "two_layer")
    files.write_text(REPORT / "published_figures.json", json.dumps(measured, separators=(",", ":")) + "\n")


def measure(model: ListTransformer, config: ml_collections.ConfigDict, *, in_full: bool) -> dict[str, Any]:
    """What `figures.read_published` reads, as JSON holds it; histograms and scores only `in_full`."""
    seen = observe(model, make_split(task_config(config)).validation)
    table = circuit_table(model, seen.lists, PAPER_MODE)
    routes = figures.alternatives(table.edges, table.values())
    measured = {
        "embedding": logit_lens(seen).embedding[0],
        "alternatives": [
            {"first": x.first, "second": x.second, "change": round(x.change, DECIMALS["change"])}
            for x in routes
        ],
    }
    if in_full:
        histograms = figures.AttentionHistograms.of(attention_statistics(seen))
        sep = sep_attention(seen)
        measured["attention"] = {
            "counts": histograms.counts,
            "mean": histograms.mean.round(DECIMALS["attention"]),
            "deviation": histograms.deviation.round(DECIMALS["attention"]),
        }
        measured["sep_scores"] = {
            "scores": np.float64(sep.scores[:, 0]).round(DECIMALS["sep_scores"]),
            "wrong": np.flatnonzero(~sep.correct),
        }
    return plain(measured)


if __name__ == "__main__":
    app.guard(
        lambda: app.run(sys.modules[__name__], ["python -m experiments.published_figures", *sys.argv[1:]])
    )
