"""One call from a checkpoint to a folder of results, figures and a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from orderscale_jax import figures
from orderscale_jax.config import task_config
from orderscale_jax.model import ListTransformer
from orderscale_jax.report.page import page
from orderscale_jax.report.pictures import draw
from orderscale_jax.report.results import split_sizes, tabulate
from orderscale_jax.report.study import Study, study
from orderscale_jax.runs import write_json
from orderscale_jax.task import make_split

N_EXAMPLES = 5  # lists that the explorer offers: the first right ones and the first wrong ones


def write_report(
    output: str | os.PathLike,
    model: ListTransformer,
    config: ml_collections.ConfigDict,
    *,
    name: str,
    examples: int | None = None,
    history: Sequence[figures.Curve] = (),
) -> dict[str, Any]:
    """Studies a model on its validation lists and writes what was found to the folder `output`.

    Written are `results.json`, every figure that applies as PNG and PDF in `figures/`, and `report.html`,
    which is complete in itself. Nothing is written before every analysis has ended.

    Args:
      output: made if need be.
      model, config: as from `load_checkpoint`.
      name: of the model, for the page and `results.json`.
      examples: use only so many validation lists, the first; all if not given.
      history: the training run, if it is known.

    Returns:
      The results.

    Raises:
      ValueError: `examples` is not from 1 to the number of validation lists.
      OSError: `output` cannot be written.
    """
    split = make_split(task_config(config))
    lists = split.validation
    if examples is not None and not 1 <= examples <= len(lists):
        raise ValueError(
            f"examples must be from 1 to {len(lists)}, the validation lists there are; got {examples}"
        )
    found = study(model, lists[:examples])
    results = tabulate(found, name=name, **split_sizes(split))
    drawn = draw(found, tuple(history))
    output = Path(output)
    images = {}
    for title, figure in drawn.items():
        png, _ = figures.save(figure, output / "figures" / title)
        images[title] = png.read_bytes()
    write_json(output / "results.json", results)
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
