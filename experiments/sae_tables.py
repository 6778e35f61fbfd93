"""The tables of docs/graded_latents.md, from the stored rows.

    python -m experiments.sae_tables

The rows are those of `orderscale sae-sweep` on the published checkpoint (`saes.csv`, and `saes_seeds.csv`
with the agreement of seeds) and of `experiments.sae_census` (`sae_census.csv`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

RESULTS = Path(__file__).parent / "results"
CENSUS = "sae_census.csv"
Row = dict[str, str]
KINDS = {"two_layer": "`two_layer`", "two_layer_fresh": "`two_layer_fresh`"}


def rows(name: str) -> list[Row]:
    """The rows of a stored CSV."""
    return list(csv.DictReader((RESULTS / name).read_text("utf-8").splitlines()))


def reproduction() -> str:
    """BatchTopK by width and k: least and most of the seeds."""
    lines = [
        "| width | k | L0 | dead | MSE | outputs right, all lists | validation lists | loss recovered |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (width, k), own in _cells(grid(), "width", "k"):
        cells = [
            _range(own, "l0_all", "{:.2f}"),
            _range(own, "dead", "{:.0f}"),
            _range(own, "mse_all", "{:.4f}"),
            _range(own, "patched_outputs_all", "{:.3f}"),
            _range(own, "patched_outputs_validation", "{:.3f}"),
            _range(own, "loss_recovered_all", "{:.4f}"),
        ]
        lines.append(f"| {width} | {k} | {' | '.join(cells)} |")
    return "\n".join(lines)


def what_is_found() -> str:
    """BatchTopK by width and k: means over the seeds."""
    agreement = {(row["family"], row["width"], row["k"]): row["pw_mcc"] for row in rows("saes_seeds.csv")}
    lines = [
        "| width | k | MCC | PW-MCC | F1 | order in digits | special: 0.5, 0.3 | cosine with P_1 − P_2 |"
        " swapped by it | by the control | along P_1 − P_2 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (width, k), own in _cells(grid(), "width", "k"):
        special = ", ".join(
            "/".join(str(int(float(row[name]))) for row in own) for name in ("special_code", "special_text")
        )
        cells = [
            _mean(own, "mcc", "{:.3f}"),
            f"{float(agreement['batch_topk', width, k]):.3f}",
            _mean(own, "mean_f1", "{:.3f}"),
            _mean(own, "order_in_digits", "{:.2f}"),
            special,
            _mean(own, "order_cosine", "{:.3f}", abs),
            _range(own, "steer_alone", "{:.0%}"),
            _range(own, "steer_other_latent", "{:.0%}"),
            _mean(own, "steer_along_positions", "{:.0%}"),
        ]
        lines.append(f"| {width} | {k} | {' | '.join(cells)} |")
    return "\n".join(lines)


def families() -> str:
    """Families of width 128: means over the seeds."""
    lines = [
        "| family | k | L0 | MSE | lists right, graded | special on or off | digits on or off |"
        " all on or off | MCC | swapped by the special latent |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    kept = [row for row in rows("saes.csv") if row["width"] == "128" and row["k"] in ("", "3", "5", "10")]
    kept = [row for row in kept if row["k"] in ("", "3") or row["family"] == "binary"]
    for (family, k, penalty), own in _cells(kept, "family", "k", "penalty"):
        names = ("graded", "special_on_off", "digits_on_off", "all_on_off")
        cells = [
            _mean(own, "l0_all", "{:.2f}"),
            _mean(own, "mse_all", "{:.4f}"),
            *(_mean(own, f"{name}_lists", "{:.1%}") for name in names),
            _mean(own, "mcc", "{:.3f}"),
            _range(own, "steer_alone", "{:.0%}"),
        ]
        name = f"{family}, penalty {penalty}" if family == "l1" else family
        lines.append(f"| {name} | {k or '–'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def graded() -> str:
    """What on or off costs in BatchTopK SAEs of width 128, by k: least and most of the seeds."""
    lines = [
        "| k | | graded | special latents on or off | control: digits | control: random direction | all |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = ("graded", "special_on_off", "digits_on_off", "direction_on_off", "all_on_off")
    for (k,), own in _cells([row for row in grid() if row["width"] == "128"], "k"):
        for words, kind in (("lists right", "lists"), ("reversed", "reversed")):
            cells = [_range(own, f"{name}_{kind}", "{:.1%}") for name in names]
            lines.append(f"| {k} | {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def proxies() -> str:
    """Spearman's rank correlation over the BatchTopK SAEs: all, and those with k >= 3 and width >= 128."""
    good = [row for row in grid() if int(row["k"]) >= 3 and int(row["width"]) >= 128]
    lines = [
        "| rank correlation of | with MCC | with F1 | with swaps by the special latent | along P_1 − P_2 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for words, own in ((f"all {len(grid())}", grid()), (f"the {len(good)} with k ≥ 3, width ≥ 128", good)):
        for proxy, name in (
            ("loss_recovered_all", "loss recovered"),
            ("explained_variance_all", "explained variance"),
        ):
            cells = [
                _signed(spearmanr(_numbers(own, proxy), _numbers(own, target)).statistic)
                for target in ("mcc", "mean_f1", "steer_alone", "steer_along_positions")
            ]
            lines.append(f"| {name}, {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def census() -> str:
    """One SAE of each model of the census: median (least to most)."""
    # Where one latent is special, all of them are that one.
    found = [row | {"steer_together": row["steer_together"] or row["steer_alone"]} for row in rows(CENSUS)]
    lines = [
        "| median (least to most) | " + " | ".join(KINDS.values()) + " |",
        "| --- | --- | --- |",
    ]
    asked = {
        "MSE over SEP's variance": ("explained_variance_all", "{:.3f}", lambda x: 1 - x),
        "lists right with SEP itself": ("intact_lists_all", "{:.1%}", float),
        "lists right with the reconstruction": ("graded_lists", "{:.1%}", float),
        "MCC": ("mcc", "{:.3f}", float),
        "largest \\|correlation\\| with alpha_1 − alpha_2": ("special_correlation", "{:.2f}", abs),
        "\\|cosine\\| of that latent with P_1 − P_2": ("special_cosine", "{:.3f}", abs),
        "lists right, special latents on or off": ("special_on_off_lists", "{:.1%}", float),
        "control: digits on or off": ("digits_on_off_lists", "{:.1%}", float),
        "control: random direction": ("direction_on_off_lists", "{:.1%}", float),
        "reversed, special latents on or off": ("special_on_off_reversed", "{:.1%}", float),
        "control: digits on or off, reversed": ("digits_on_off_reversed", "{:.1%}", float),
        "control: random direction, reversed": ("direction_on_off_reversed", "{:.1%}", float),
        "swapped by scaling the special latent": ("steer_alone", "{:.1%}", float),
        "by scaling all special ones by one factor": ("steer_together", "{:.1%}", float),
        "control: the largest other latent": ("steer_other_latent", "{:.1%}", float),
        "control: a random vector": ("steer_random_direction", "{:.1%}", float),
        "swapped along P_1 − P_2": ("steer_along_positions", "{:.1%}", float),
    }
    for words, (name, form, change) in asked.items():
        cells = []
        for kind in KINDS:
            values = [change(float(row[name])) for row in found if row["kind"] == kind]
            middle, low, high = np.median(values), min(values), max(values)
            cells.append(
                f"{form.format(middle)} ({form.format(low).removesuffix('%')} to {form.format(high)})"
            )
        lines.append(f"| {words} | {' | '.join(cells)} |")
    counts = []
    for kind in KINDS:
        special = [int(float(row["special_code"])) for row in found if row["kind"] == kind]
        counts.append(", ".join(f"{special.count(n)} with {n}" for n in sorted(set(special))))
    lines.append(f"| models by their number of special latents | {' | '.join(counts)} |")
    return "\n".join(lines).replace("%", " %")


TABLES: dict[str, Callable[[], str]] = {
    "reproduction": reproduction,
    "what_is_found": what_is_found,
    "graded": graded,
    "families": families,
    "proxies": proxies,
    "census": census,
}


def grid() -> list[Row]:
    """The rows of the BatchTopK SAEs."""
    return [row for row in rows("saes.csv") if row["family"] == "batch_topk"]


def _cells(found: Iterable[Row], *names: str) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Rows by the values of these columns, numbers ascending."""
    cells: dict[tuple[str, ...], list[Row]] = {}
    for row in found:
        cells.setdefault(tuple(row[name] for name in names), []).append(row)

    def order(cell):
        return [(x.isdigit(), int(x) if x.isdigit() else 0, x) for x in cell[0]]

    return sorted(cells.items(), key=order)


def _numbers(own: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in own]


def _range(own: Sequence[Row], name: str, form: str) -> str:
    """Least and most; one number where they look alike."""
    low, high = (form.format(x) for x in (min(_numbers(own, name)), max(_numbers(own, name))))
    return (low if low == high else f"{low.removesuffix('%')} to {high}").replace("%", " %")


def _mean(own: Sequence[Row], name: str, form: str, change: Callable[[float], float] = float) -> str:
    return form.format(float(np.mean([change(x) for x in _numbers(own, name)]))).replace("%", " %")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def main():
    for name, table in TABLES.items():
        print(f"## {name}\n\n{table()}\n")


if __name__ == "__main__":
    main()
