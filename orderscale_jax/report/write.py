"""One call from a checkpoint to a folder of results, figures and a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orderscale_jax import figures
from orderscale_jax.analysis.results import split_sizes, tabulate
from orderscale_jax.analysis.study import Study
from orderscale_jax.report.page import page
from orderscale_jax.report.pictures import draw
from orderscale_jax.task import Split
from orderscale_jax.training.workdir import write_json

N_EXAMPLES = 5  # lists that the explorer offers: the first right ones and the first wrong ones


def write_report(
    output: str | os.PathLike,
    found: Study,
    split: Split,
    *,
    name: str,
    history: Sequence[figures.Curve] = (),
) -> dict[str, Any]:
    """Writes what was found about a model to the folder `output`.

    Written are `results.json`, every figure that applies as PNG and PDF in `figures/`, and `report.html`,
    which is complete in itself.

    Args:
      output: made if need be.
      found: the study, of all or the first of the split's validation lists.
      split: the lists there are.
      name: of the model, for the page and `results.json`.
      history: the training run, if it is known.

    Returns:
      The results.

    Raises:
      OSError: `output` cannot be written.
    """
    results = tabulate(found, name=name, **split_sizes(split))
    drawn = draw(found, tuple(history))
    output = Path(output)
    images = {}
    for title, figure in drawn.items():
        png, _ = figures.save(figure, output / "figures" / title)
        images[title] = png.read_bytes()
    write_json(output / "results.json", results)
    model = found.observation.model
    text = page(model, results, found.parameters, images, history=history, examples=example_lists(found))
    partial = output / ".report.html.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(output / "report.html")
    return results


def example_lists(found: Study) -> np.ndarray:
    """The first few lists, a wrong one among them if there is one."""
    seen = found.observation
    right, wrong = (np.flatnonzero(of)[:N_EXAMPLES] for of in (seen.list_correct, ~seen.list_correct))
    chosen = np.concatenate([right[: N_EXAMPLES - min(len(wrong), 2)], wrong[:2]])
    return seen.lists[chosen if len(chosen) else [0]]
