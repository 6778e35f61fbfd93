"""Which figures a study gives, under the names of their files."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from orderscale_jax import figures
from orderscale_jax.analysis.study import Study
from orderscale_jax.errors import UserError
from orderscale_jax.formatting import count
from orderscale_jax.report.published import PAPER_MODE


def draw(found: Study, history: tuple[figures.Curve, ...] = ()) -> dict[str, Figure]:
    """Every figure that applies, by file name without suffix.

    Args:
      found: the study.
      history: the training run, if it is known (`read_history`).
    """
    n_digits = found.observation.model.config.n_digits
    drawn = {
        "information_flow": figures.information_flow(flow(found)),
        "ablation_renormalize": figures.ablation_matrix(found.ablations["renormalize"]),
        "ablation_zero": figures.ablation_matrix(found.ablations["zero"]),
        "attention_histograms": figures.attention_histograms(found.attention),
    }
    if found.sep:
        drawn["sep_attention"] = figures.sep_attention_scores(found.sep)
        drawn["wrong_lists"] = figures.wrong_lists(found.errors, n_digits)
    if found.difference:
        drawn["difference_bars"] = figures.difference_bars(found.difference)
    if history:
        drawn["training_curves"] = figures.training_curves(*history)
    return drawn


def flow(found: Study) -> figures.Flow:
    """A study's panel of the information flow (Figure 1), with its first list in the nodes."""
    seen, lens = found.observation, found.lens
    nodes = lens.predicted[0].copy()
    nodes[0] = lens.embedding[0]  # as in the paper, the input column is without positions
    layers = {1: "one layer", 2: "two layers", 3: "three layers"}
    n_layers = seen.graph.n_layers
    return figures.Flow(
        title=layers.get(n_layers, count(n_layers, "layer")),
        ablation=found.ablations[PAPER_MODE],
        patterns=found.attention.mean_pattern,
        lens=nodes,
        n_digits=seen.model.config.n_digits,
        patterns_of=f"mean over {count(len(seen.lists), 'list')}",
        example=tuple(seen.lists[0].tolist()),
    )


def read_history(checkpoint: Path, seed: int | None = None) -> tuple[figures.Curve, ...]:
    """The validations of the training that left `checkpoint`, a curve per attempt; none if unknown.

    They stand in `metrics.jsonl` of the work directory, in which the checkpoint lies; of several runs
    there, `seed` is the one that is meant.
    """
    log = checkpoint.absolute().parent / "metrics.jsonl"
    if checkpoint.name != "checkpoint" or not log.is_file():
        return ()
    attempts: dict[tuple[int, int], list[dict]] = {}
    try:
        for line in map(json.loads, log.read_text().splitlines()):
            if seed is None or line["seed"] == seed:
                attempts.setdefault((line["seed"], line["attempt"]), []).append(line)
        return tuple(
            figures.Curve(
                label=f"seed {seed}" + (f", attempt {attempt + 1}" if attempt else ""),
                steps=[line["step"] for line in lines],
                accuracy=[line["val_accuracy"] for line in lines],
                loss=[line["val_loss"] for line in lines],
            )
            for (seed, attempt), lines in sorted(attempts.items())
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{log} is not the log of a training run: {error}") from error
