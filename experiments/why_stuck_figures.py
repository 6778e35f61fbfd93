"""Draws and counts what docs/why_two_layers_get_stuck.md says, from experiments/results.

    python -m experiments.why_stuck_figures --output=docs

Written are the figures why_*.png; every number of the document is printed. Seconds.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from orderscale_jax import figures, load_pretrained, make_split
from orderscale_jax.analysis import observe, output_errors
from orderscale_jax.cli import app, arguments
from orderscale_jax.config import LAST_SCORES, as_drawn, task_config
from orderscale_jax.figures import cells, style
from orderscale_jax.formatting import columns
from orderscale_jax.overrides import overrides_text
from orderscale_jax.training.sweep_results import Summary, compare_survival, summarize, wilson_interval
from orderscale_jax.training.sweep_rows import read_results

OUTPUT = arguments.define("output", "str", "docs", "the directory for the figures.")

RESULTS = Path(__file__).parent / "results"
AS_DRAWN = overrides_text(as_drawn(LAST_SCORES))
FIELDS = (
    "split",
    "paired_share",
    "train_fraction",
    "batches",
    "batch_size",
    "overrides",
    "scores",
    "scores_value",
    "scores_until",
)
LISTS = {"paired": ("paired", 1.0, 0.8, "reshuffle", 128), "fresh": ("published", 1.0, 0.8, "sampled", 128)}
FULL_BATCH = ("paired", 1.0, 0.8, "reshuffle", 720)
FREE = "free", 0.0, None
THROUGH = 0.75  # best validation of a run that has broken through
MOVING = 0.65  # best validation of a run that has left the plateau; those that are stuck stay below
SETTLED = 400  # steps: a tenth of what the median run of the published recipe takes to its transition
INSIDE = {  # kinds of runs that are shown from inside, with their colours
    "trained": style.VERMILLION,
    "full batch": style.PURPLE,
    "epsilon 1e-4": style.SKY,
    "as drawn": style.BLUE,
}
MEASURES = {  # columns of plateau.csv that are drawn, with what they are called
    "beta_o1": "attention of o2 to o1",
    "alpha_std": "spread of α₁ over lists",
    "snr_last_QK": "signal to noise of the\nlast W_QK's gradient",
}
EARLY = {  # what of a run's first steps could tell its transition: columns of plateau.csv
    "loss": ("loss",),
    "gradient norm": ("gradient_norm",),
    "cosine of o1 and o2": ("cosine",),
    "repetition": ("repetition",),
    "openness of o2's choice": ("openness",),
    "its gradient: size, signal to noise": ("rms_last_QK", "snr_last_QK"),
    "openness, spread of α₁, |P₁ − P₂|": ("openness", "alpha_std", "position_distance"),
}
Cells = Mapping[tuple, Summary]


def main():
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    rows = read_results(RESULTS / "why_stuck.csv")
    found = {tuple(x.values.values()): x for x in summarize(rows, FIELDS, THROUGH)}
    seen = read_rows(RESULTS / "plateau.csv")
    rows = read_results(RESULTS / "transition_step.csv")
    transitions = [row for row in rows if row["transition_step"] is not None]
    drawn = {
        "why_survival": survival(found),
        "why_inside": inside(seen),
        "why_rate": rates(found),
        "why_window": windows(found),
        "why_shift": shifts(found),
        "why_unpaired": unpaired(found),
        "why_prediction": prediction(transitions),
    }
    for name, figure in drawn.items():
        figures.save(figure, output / name, formats=("png",))
    longer = summarize(read_results(RESULTS / "why_stuck_longer.csv"), FIELDS, THROUGH)
    for steps, told in (("30,000", found.values()), ("100,000", longer)):
        print(
            f"Every cell after {steps} steps: runs past {THROUGH}, 95 % interval, median step, past {MOVING}"
        )
        print(columns([(cells.words(x.values), *counted(x)) for x in told]))
    print("\nTransplants, with the median step of those that got through")
    print(columns(transplants(read_rows(RESULTS / "transplant.csv"))))
    names = [*MEASURES, "openness", "norm_QK", "rms_last_QK"]
    print("\nFrom inside, medians over runs: kind, step,", ", ".join(names))
    print(columns(medians(seen, names)))
    print(f"\nTransition step: {len(transitions)} of {len(rows)} runs of transition_step.csv have one")
    print("from the first steps, R2 of runs left out; from the settings, R2 of cells left out")
    print(columns([*early_predictions(seen), *cell_predictions(transitions)]))
    print("\nErrors of the shipped two-layer model: lists, wrong o1, wrong o2, of these those that say d1;")
    print("SEP's two scores less than 0.1 apart in lists with an error, in lists without;")
    print("lists with an error where their reverse trains, and where it does not")
    print(columns(shipped_errors()))
    for lists in LISTS.values():
        pair = [found[(*lists, text, *FREE)] for text in ("", AS_DRAWN)]
        print(f"log-rank, {cells.words(pair[0].values)}, against as drawn: p = {compare_survival(*pair):.1g}")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A CSV whose entries are numbers but for `kind`; an empty one is NaN."""
    with open(path, newline="") as file:
        return [
            {name: x if name == "kind" else float(x or "nan") for name, x in row.items()}
            for row in csv.DictReader(file)
        ]


def counted(cell: Summary) -> tuple[str, str, str, str]:
    low, high = wilson_interval(cell.transitions, cell.n_runs)
    median = cell.transition_quantile(0.5)
    step = f"{median:,.0f}" if median == median else "–"
    moving = sum(accuracy > MOVING for accuracy in cell.accuracies)
    return f"{cell.transitions}/{cell.n_runs}", f"{100 * low:.0f} to {100 * high:.0f} %", step, f"{moving}"


def survival(found: Cells) -> Figure:
    paired = LISTS["paired"]
    shown = {
        "all trained": found[(*paired, "", *FREE)],
        "all trained, full batch": found[(*FULL_BATCH, "", *FREE)],
        "first W_QK as drawn": found[(*paired, AS_DRAWN.replace("-1", "0"), *FREE)],
        "last W_QK with epsilon 1e-4": found[(*paired, f"{LAST_SCORES} epsilon 0.0001", *FREE)],
        "last W_QK as drawn": found[(*paired, AS_DRAWN, *FREE)],
    }
    return figures.survival_curves(shown)


def rates(found: Cells) -> Figure:
    """Over the learning rate of the last W_QK."""

    def series(lists):
        at = {1e-3: "", 0.0: AS_DRAWN} | {
            x: f"{LAST_SCORES} learning_rate {x:.9g}" for x in (3e-4, 1e-4, 3e-5, 1e-5)
        }
        return [(rate, found[(*lists, text, *FREE)]) for rate, text in at.items()]

    named = {f"{name} lists": series(lists) for name, lists in LISTS.items()}
    return figures.dose_response(named, "learning rate of the last W_QK (all others: 0.001)", log=True)


def windows(found: Cells) -> Figure:
    """Over the step from which, or up to which, the last W_QK trains."""
    steps = 300, 1_000, 2_000, 4_000, 8_000
    named = {}
    for name, lists in LISTS.items():
        for word, field in (("from this step on", "first_step"), ("up to this step", "last_step")):
            points = [(step, found[(*lists, f"{LAST_SCORES} {field} {step}", *FREE)]) for step in steps]
            ends = {"first_step": (0, ""), "last_step": (0, AS_DRAWN)}
            dose, text = ends[field]
            named[f"{name} lists, {word}"] = [(dose, found[(*lists, text, *FREE)]), *points]
    return figures.dose_response(named, "step", log=True)


def shifts(found: Cells) -> Figure:
    """Over what is added to SEP's score in o2's choice."""
    lists = LISTS["paired"]
    doses = {"": (-8.0, -4.0, 0.0, 4.0), AS_DRAWN: (-4.0, 0.0, 2.0, 4.0, 8.0, 16.0)}

    def cell(text, dose):
        return found[(*lists, text, *(("shifted", dose, None) if dose else FREE))]

    named = {
        name: [(dose, cell(text, dose)) for dose in doses[text]]
        for name, text in (("last W_QK trained", ""), ("last W_QK as drawn", AS_DRAWN))
    }
    return figures.dose_response(named, "added to SEP's score in o2's choice")


def unpaired(found: Cells) -> Figure:
    """Over the share of training lists that train in one order only."""

    def series(text):
        shares = (1.0, 0.95, 0.9, 0.75, 0.5, 0.25, 0.0)
        return [(1 - x, found[("paired", x, 0.5, "reshuffle", 128, text, *FREE)]) for x in shares]

    named = {"last W_QK trained": series(""), "last W_QK as drawn": series(AS_DRAWN)}
    return figures.dose_response(named, "share of training lists that train in one order only")


@style.styled
def inside(seen: Sequence[Mapping[str, Any]]) -> Figure:
    """Medians and quartiles over runs of what is seen inside, over steps."""
    figure = Figure(figsize=(style.PAGE, 2.3), layout="constrained")
    for axes, (column, name) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for kind, color in INSIDE.items():
            steps, values = by_step(seen, kind, column)
            low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
            axes.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
            axes.plot(steps, middle, color=color, lw=1.2, label=kind)
        axes.set(xlabel="training step", title=name)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        if column != "alpha_std":
            axes.set_yscale("log")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def by_step(seen, kind: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [S] and a column's values [R, S] of the runs of a kind."""
    rows = [row for row in seen if row["kind"] == kind]
    steps = sorted({row["step"] for row in rows})
    runs = sorted({row["seed"] for row in rows})
    table = {(row["seed"], row["step"]): row[column] for row in rows}
    return np.array(steps), np.array([[table.get((run, step), np.nan) for step in steps] for run in runs])


def medians(seen, names: Sequence[str]) -> list[tuple[str, ...]]:
    rows = []
    for kind in dict.fromkeys(row["kind"] for row in seen):
        of = {name: by_step(seen, kind, name) for name in names}
        steps = next(iter(of.values()))[0]
        for step in (0, 200, 400, 1_000, 2_000, 4_000, 6_000):
            at = np.flatnonzero(steps == step)
            rows.append((kind, f"{step:,}", *(f"{np.nanmedian(x[:, at]):.2g}" for _, x in of.values())))
    return rows


def transplants(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    told = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        steps = np.array([row["transition_step"] for row in rows if row["kind"] == kind])
        through = steps[np.isfinite(steps)]
        low, high = wilson_interval(len(through), len(steps))
        median = f"{np.median(through):,.0f}" if len(through) else "–"
        told.append((kind, f"{len(through)}/{len(steps)}", f"{100 * low:.0f} to {100 * high:.0f} %", median))
    return told


def shipped_errors() -> list[tuple[str, ...]]:
    """Where the shipped model `two_layer` is wrong, on the lists it has not seen and on those it has."""
    model, config = load_pretrained("two_layer")
    split = make_split(task_config(config))
    trains = {tuple(digits) for digits in split.train}
    told = []
    for name, lists in (("validation", split.validation), ("training", split.train)):
        seen = observe(model, lists)
        o1, o2 = output_errors(lists, seen)
        wrong = ~seen.list_correct
        alike = np.abs(np.subtract(*seen.sep_scores[0, :, 0].T)) < 0.1
        reverse = np.array([tuple(digits[::-1]) in trains for digits in lists])
        counts = (len(lists), o1.n_wrong, o2.n_wrong, round(o2.n_wrong * o2.equals_digit[0]))
        shares = (alike[wrong], alike[~wrong], wrong[reverse], wrong[~reverse])
        told.append((name, *(f"{x:,}" for x in counts), *(f"{100 * x.mean():.0f} %" for x in shares)))
    return told


def out_of_sample(features: np.ndarray, target: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Predictions [R] of a linear fit with an intercept, for each group from all the others."""
    design = np.column_stack([np.ones(len(features)), features])
    predicted = np.empty(len(target))
    for group in np.unique(groups):
        out = groups == group
        weights, *_ = np.linalg.lstsq(design[~out], target[~out], rcond=None)
        predicted[out] = design[out] @ weights
    return predicted


def r_squared(predicted: np.ndarray, target: np.ndarray, groups: np.ndarray) -> float:
    """1 minus the squared error over that of the mean of the other groups, which a fit must beat."""
    mean = np.array([target[groups != group].mean() for group in groups])
    return float(1 - ((target - predicted) ** 2).sum() / ((target - mean) ** 2).sum())


def early_predictions(seen) -> list[tuple[str, str, str]]:
    """R2 of the logarithm of the transition step of published runs, from what is seen at step SETTLED."""
    rows = [row for row in seen if row["kind"] == "published" and row["step"] == SETTLED]
    known = [row for row in rows if np.isfinite(row["transition_step"])]
    target = np.log([row["transition_step"] for row in known])
    runs = np.arange(len(known))
    told = []
    for name, chosen in EARLY.items():
        features = np.array([[row[column] for column in chosen] for row in known])
        score = r_squared(out_of_sample(_normal(features), target, runs), target, runs)
        told.append((f"{name} at step {SETTLED}", f"{len(known)} of {len(rows)} runs", f"{score:.2f}"))
    return told


def _normal(features: np.ndarray) -> np.ndarray:
    """Logarithms where all are positive, so that no single run decides a fit."""
    return np.where((features > 0).all(0), np.log(np.where(features > 0, features, 1.0)), features)


SETTINGS: dict[str, Callable[[Mapping[str, Any]], list[float]]] = {
    "width alone": lambda row: [np.log(row["d_model"])],
    "learning rate alone": lambda row: [np.log(row["learning_rate"])],
    "rate, batch, width, digits": lambda row: [
        np.log(row[name]) for name in ("learning_rate", "batch_size", "d_model", "n_digits")
    ],
}


def cell_predictions(rows) -> list[tuple[str, str, str]]:
    """R2 of the logarithm of the transition step of cells that the fit has not seen."""
    target, groups = _cells(rows)
    told = []
    for name, features in SETTINGS.items():
        predicted = out_of_sample(np.array([features(row) for row in rows]), target, groups)
        told.append((name, f"{len(set(groups))} cells", f"{r_squared(predicted, target, groups):.2f}"))
    law = np.log([row["d_model"] for row in rows]) / 2  # with the exponent that the literature gives
    predicted = law + out_of_sample(np.empty((len(rows), 0)), target - law, groups)
    told.append(("sqrt(width)", f"{len(set(groups))} cells", f"{r_squared(predicted, target, groups):.2f}"))
    everything = np.array([SETTINGS["rate, batch, width, digits"](row) for row in rows])
    fit, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(rows)), everything]), target, rcond=None)
    told.append(("its exponents", "", ", ".join(f"{x:.2f}" for x in fit[1:])))
    return told


def _cells(rows) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of transition steps [R], and the number of each run's cell [R]."""
    names = "learning_rate", "batch_size", "d_model", "n_digits"
    _, groups = np.unique([[row[name] for name in names] for row in rows], axis=0, return_inverse=True)
    return np.log([row["transition_step"] for row in rows]), groups.reshape(-1)


@style.styled
def prediction(rows) -> Figure:
    """Transition steps of cells against what a fit to all other cells says."""
    target, groups = _cells(rows)
    features = SETTINGS["rate, batch, width, digits"]
    predicted = out_of_sample(np.array([features(row) for row in rows]), target, groups)
    figure = Figure(figsize=(style.COLUMN, 2.8), layout="constrained")
    axes = figure.subplots()
    for color, digits in zip(style.CYCLE, sorted({row["n_digits"] for row in rows}), strict=False):
        of = np.array([row["n_digits"] == digits for row in rows])
        look = {"ls": "", "marker": "o", "ms": 3.5, "alpha": 0.8, "mec": "none"}
        axes.plot(np.exp(predicted[of]), np.exp(target[of]), color=color, label=f"{digits} digits", **look)
    ends = np.exp([min(predicted.min(), target.min()), max(predicted.max(), target.max())])
    axes.plot(ends, ends, color=style.GREY, lw=0.6, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="predicted from other cells", ylabel="transition step")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axis.set_minor_formatter("")
    axes.legend()
    return figure


if __name__ == "__main__":
    app.guard(
        lambda: app.run(sys.modules[__name__], ["python -m experiments.why_stuck_figures", *sys.argv[1:]])
    )
