"""From a study to a folder of results, figures and a page."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from orderscale_jax import figures, files
from orderscale_jax.analysis import Study, tabulate
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.figures.published import PAPER_MODE
from orderscale_jax.formatting import count
from orderscale_jax.model import MODES
from orderscale_jax.report.page import render_page
from orderscale_jax.report.published import published_checkpoints, published_figures, published_kind
from orderscale_jax.report.record import complete
from orderscale_jax.task import Split
from orderscale_jax.training.claim import LOG, SUMMARY

LOGGED = ("seed", "attempt", "step", "val_accuracy", "val_loss")  # what the log must say of a validation


def write_report(
    output: str | os.PathLike,
    found: Study,
    split: Split,
    *,
    name: str,
    validation_lists_seen: bool | None = None,
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
      validation_lists_seen: whether training may have drawn them (`config.validation_lists_seen`).
      history: the training run, if it is known (`read_history`).

    Returns:
      The results, as `complete` gives them.

    Raises:
      OSError: `output` cannot be written.
    """
    check_kind("found", found, Study)
    check_kind("split", split, Split)
    n_train = None if split.train is None else len(split.train)
    results = tabulate(
        found,
        name=name,
        n_train=n_train,
        n_val_total=len(split.validation),
        validation_lists_seen=validation_lists_seen,
    )
    results = complete(results, history)
    output, images, kind = files.place(output), {}, published_kind(results)
    published = (
        figures.read_published(published_checkpoints()[kind], published_figures()[kind]) if kind else None
    )
    for title, figure in draw(found, history, published).items():
        png, _ = figures.save(figure, output / "figures" / title)
        images[title] = png.read_bytes()
    files.write_json(output / "results.json", results)
    files.write_text(output / "report.html", render_page(found, results, images, validation=split.validation))
    return results


def draw(
    found: Study, history: Sequence[figures.Curve] = (), published: figures.Published | None = None
) -> dict[str, Figure]:
    """Every figure that applies and shows something, by file name without suffix.

    Args:
      found: the study.
      history: the training run, if known.
      published: the published checkpoint of the same architecture; the paper's four figures then show it
        on the left, on the same scales.
    """

    def beside(name: str) -> Any:
        return getattr(published, name, None)

    panels = [flow(found)]
    if published:
        panels = [published.flow, dataclasses.replace(*panels, title="this model")]
    drawn = {"information_flow": figures.information_flow(*panels)}
    drawn |= {f"ablation_{mode}": figures.ablation_matrix(found.ablations[mode]) for mode in MODES}
    if found.circuits:
        drawn["circuit_lattice"] = figures.circuit_lattice(found.circuits)
    drawn["attention_histograms"] = figures.attention_histograms(found.attention, beside("attention"))
    if found.sep:
        drawn["sep_attention"] = figures.sep_attention_scores(found.sep, beside("sep"))
        if len(found.errors.lists):
            n_digits = found.observation.model.config.n_digits
            drawn["wrong_lists"] = figures.wrong_lists(found.errors, n_digits)
    if found.order:
        drawn["order_exchanges"] = figures.order_exchanges(found.order)
    if found.difference:
        drawn["difference_bars"] = figures.difference_bars(found.difference, beside("difference"))
    if history:
        drawn["training_curves"] = figures.training_curves(*history)
    return drawn


def flow(found: Study) -> figures.Flow:
    """A study's panel of the information flow (Figure 1), with its first list in the nodes."""
    seen, lens = found.observation, found.lens
    nodes = lens.predicted[0].copy()
    nodes[0] = lens.embedding[0]  # as in the paper, the input column is without positions
    layers = {1: "one layer", 2: "two layers", 3: "three layers"}
    n_layers, ablation = seen.graph.n_layers, found.ablations[PAPER_MODE]
    table, routes = found.circuits.get(PAPER_MODE), ()
    if table is not None:
        routes = figures.alternatives(table.edges, table.values(), tolerance=ablation.tolerance)
    return figures.Flow(
        title=layers.get(n_layers, count(n_layers, "layer")),
        ablation=ablation,
        patterns=found.attention.mean_pattern,
        lens=nodes,
        n_digits=seen.model.config.n_digits,
        patterns_of=f"mean over {count(len(seen.lists), 'list')}",
        example=tuple(seen.lists[0].tolist()),
        outputs=tuple(seen.predictions[0].tolist()),
        alternatives=routes,
    )


def read_history(checkpoint: str | os.PathLike, seed: int | None = None) -> tuple[figures.Curve, ...]:
    """The validations of the training that left `checkpoint`, a curve per attempt; none if unknown.

    They stand in `metrics.jsonl` of the work directory, in which the checkpoint lies; of several runs
    there, `seed` is the one that is meant. Steps are those of the attempt, as in `summary.json`.

    Raises:
      UserError: the log is damaged, or it is not the one of the `summary.json` beside it.
    """
    checkpoint = files.place(checkpoint)
    log = files.absolute(checkpoint).parent / LOG
    if checkpoint.name != "checkpoint" or not log.is_file():
        return ()
    content, summary = log.read_bytes(), log.with_name(SUMMARY)
    about = files.read_json(summary) if summary.is_file() else {}
    if {"metrics_sha256", files.SEAL} & about.keys():  # summaries of earlier versions have neither
        written = files.read_note(summary)["metrics_sha256"]
        if written != hashlib.sha256(content).hexdigest():
            raise UserError(f"{log} is not what training wrote, as {summary} has it: put back a copy of it")
    attempts: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for number, text in enumerate(content.decode(errors="replace").splitlines(), 1):
        line = _validation(text)
        if line is None:
            raise UserError(
                f"{log} is not the log of a training run: line {number} is no JSON object with "
                f"{', '.join(LOGGED)}"
            )
        if seed is None or line["seed"] == seed:
            attempts.setdefault((line["seed"], line["attempt"]), []).append(line)
    seeds = [of for of, _ in attempts]
    curves = []
    for (of, attempt), lines in sorted(attempts.items()):
        names = [f"seed {of}"] if len(set(seeds)) > 1 or seeds.count(of) == 1 else []
        names += [f"attempt {attempt}"] if seeds.count(of) > 1 else []
        steps, accuracy, loss = ([line[key] for line in lines] for key in LOGGED[2:])
        loss = [float("nan") if value is None else value for value in loss]  # of one that diverged
        curves.append(figures.Curve(", ".join(names), steps, accuracy, loss))
    return tuple(curves)


def _validation(text: str) -> dict[str, Any] | None:
    """A line of the log, or None if it is damaged."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(line, dict) or not line.keys() >= set(LOGGED):
        return None
    kinds = dict.fromkeys(LOGGED, int) | {"val_accuracy": int | float, "val_loss": int | float | None}
    return line if all(isinstance(line[name], kind) for name, kind in kinds.items()) else None
