"""What is shipped of the study is what its configurations name, and what is said of it is drawn from it."""

import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from orderscale_jax import files
from orderscale_jax.circuits.scoring import spearman
from orderscale_jax.cli.configuration import load, shipped
from orderscale_jax.report.published import published_checkpoints
from orderscale_jax.training import sweep
from orderscale_jax.training.sweep_results import summarize
from orderscale_jax.training.sweep_rows import read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
SWEEPS = [path.stem for path in sorted(RESULTS.glob("*.csv")) if f"sweeps/{path.stem}" in shipped()]


def test_there_are_rows_to_look_at():
    assert {"why_stuck", "sure_recipe", "table4_recipe", "batch_recipe_small"} <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_rows_are_those_of_their_configuration(name):
    jobs, rows = sweep.plan(load(f"sweeps/{name}")), read_results(RESULTS / f"{name}.csv")
    assert [row["run"] for row in rows] == [job.name for job in jobs]


def test_the_recipe_in_the_report_is_what_was_measured():
    shape = ("list_len", "n_digits", "n_layers", "n_heads", "d_model")
    shape += ("layer_norm", "bias", "learn_wv", "learn_wo")
    cells = summarize(read_results(RESULTS / "table4_recipe.csv"), (*shape, "max_steps", "target_accuracy"))
    lines = csv.DictReader((ROOT / "orderscale_jax" / "report" / "recipe_grid.csv").read_text().splitlines())
    said = [{name: float(value) for name, value in line.items()} for line in lines]
    assert len(said) == len(cells)
    for line, cell in zip(said, cells, strict=True):
        of = {"min": np.min, "median": np.median, "max": np.max}
        measured = {f"accuracy_{name}": round(f(cell.accuracies), 4) for name, f in of.items()}
        counts = {"runs": cell.n_runs, "runs_above_0_9": cell.successes}
        expected = {name: float(value) for name, value in {**cell.values, **counts, **measured}.items()}
        assert line == pytest.approx(expected, abs=1e-9)


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?", text)]


def table_rows(path: str) -> dict[str, list[str]]:
    """The cells of every row of a table, by what stands first in it."""
    lines = (ROOT / path).read_text().replace("*", "").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {first: cells for first, *cells in rows}


def test_what_carries_order_is_told_as_it_was_counted():
    census = files.read_note(RESULTS / "census.json")["summary"]
    orders = [census[kind]["order"] for kind in ("two_layer", "two_layer_fresh")]
    published = published_checkpoints()["two_layer"]["order"]
    control = "control: a random vector"
    rows = {
        "SEP of the reversed list, the reference": "reversed_list",
        "only P_1 and P_2 weighted as there": "positions_of_reversed",
        "only E[d1] and E[d2] weighted as there": "embeddings_of_reversed",
        "alpha_1 and alpha_2 exchanged, the paper's claim": "alphas",
        "only the weights of P_1 and P_2 exchanged": "positions",
        "only the weights of E[d1] and E[d2] exchanged": "embeddings",
        "control: P_1 and P_2 weighted as in another list with the same alpha larger": "same_larger",
        "control: as in another list with the other alpha larger": "other_larger",
        "control: the difference of two other digits' vectors": "other_digits",
        "control: the difference of two other positions' vectors": "other_positions",
        control: "positions",
    }
    told = table_rows("docs/what_carries_order.md")
    for words, name in rows.items():
        of = "random_vectors" if words == control else "exchange"
        measured = [order[of][name]["reversed"][i] for order in orders for i in (2, 0, 4)]
        measured.append(published[of][name]["reversed"])
        said = numbers(" ".join(told[words]))
        np.testing.assert_allclose(said, 100 * np.array(measured), atol=0.0501, err_msg=words)
    briefly = table_rows("README.md")
    briefly[control] = briefly.pop("control: a random vector as long as the exchange of P_1 and P_2")
    shared = [words for words in rows if words in briefly]
    assert len(shared) == 5
    for words in shared:  # there without the second of our two recipes, and with the shipped model first
        assert briefly[words][1:] == [told[words][0], told[words][2]], words
    equal, before = (
        100 * of["right"][2] for of in (orders[0]["exchange"]["even_embeddings"], orders[0]["intact"])
    )
    said = f"made equal, they leave {equal:.0f} % of the lists right, of {before:.0f} % before"
    assert said in " ".join((ROOT / "README.md").read_text().split())
    text = " ".join((ROOT / "docs" / "what_carries_order.md").read_text().split())

    def medians(of, name, field):
        return " and ".join(f"{100 * order[of][name][field][2]:.0f}" for order in orders)

    for of, name, field, words in (
        ("exchange", "alphas", "repeated", "of the lists, and in {} % they say the same digit"),
        (
            "exchange",
            "even_embeddings",
            "right",
            "E[d1] and E[d2] weighted equally {} % of the lists are right",
        ),
        (
            "random_vectors",
            "even_embeddings",
            "right",
            "before, {} % with a random vector of the same length",
        ),
        ("exchange", "even_positions", "right", "With P_1 and P_2 weighted equally {} % are right"),
        ("random_vectors", "even_positions", "right", "({} %). How the outputs"),
    ):
        assert words.format(medians(of, name, field)) in text, words
    before = " and ".join(f"{100 * order['intact']['right'][2]:.0f}" for order in orders)
    assert f"({before} % before" in text
    near = [order["accuracy_by_alpha_gap"][0] for order in orders]
    validation, every = (
        " and ".join(f"{100 * bin[name][2]:.0f}" for bin in near) for name in ("lists_right", "all_right")
    )
    assert f"apart {validation} % of the validation lists" in text
    assert f"Of all 10,000 lists {every} % are right below 0.02" in text
    exchanged = [medians("exchange", name, "reversed") for name in ("positions_even_embeddings", "positions")]
    assert f"reverses {exchanged[0]} % instead of {exchanged[1]} %" in text
    lengths = [
        " and ".join(f"{order['exchange'][name]['length'][2]:.2f}" for order in orders)
        for name in ("positions_of_reversed", "embeddings_of_reversed")
    ]
    assert f"has the length {lengths[0]}, that of the digits {lengths[1]}" in text
    assert [order["in_positions"] for order in orders] == [64, 64]


METHODS = {
    "single-edge ablation": "single_edge",
    "greedy pruning (ACDC)": "greedy_pruning",
    "greedy backward elimination": "greedy_backward",
    "KernelSHAP, 128 samples": "kernel_shap",
    "exact Shapley values": "shapley_values",
    "EAP": "edge_attribution",
    "EAP-IG, inputs": "integrated_inputs",
    "EAP-IG, activations": "integrated_activations",
    "learned masks (UGS)": "learned_masks",
    "random ranking": "random",
    "best set of each size": "best",
}
MEANINGS = ("renormalize", "zero", "mean", "resample")


@pytest.fixture(scope="module")
def marks():
    """By field, cut and method the marks of the three-layer models."""
    rows = list(csv.DictReader((RESULTS / "approximations.csv").read_text().splitlines()))
    assert len(rows) == 2 * 8 * 4 * 11
    found = {}
    for row in rows:
        if row["kind"] == "three_layer":
            for field in ("mean_regret", "cpr", "auroc"):
                found.setdefault((field, row["cut"], row["method"]), []).append(float(row[field] or "nan"))
    return found


def test_every_mark_is_told_as_it_was_measured(marks):
    text = (ROOT / "docs" / "answer_key.md").read_text()
    blocks = re.findall(r"\| \| renormalize .*\n\| --- .*\n((?:\| .*\n)+)", text)
    for field, block in zip(("mean_regret", "cpr", "auroc"), blocks, strict=True):
        rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
        wanted = [name for name in METHODS if (field, name) != ("auroc", "best set of each size")]
        assert [first for first, *_ in rows] == wanted
        for first, *cells in rows:
            for cut, cell in zip(MEANINGS, cells, strict=True):
                found = marks[field, cut, METHODS[first]]
                expected = [np.mean(found), min(found), max(found)]
                np.testing.assert_allclose(numbers(cell), expected, atol=5.1e-4, err_msg=f"{field} {first}")


def test_how_alike_the_methods_ranks_are_is_told_as_measured(marks):
    methods = [name for name in METHODS.values() if name not in ("random", "best")]

    def correlation(field, first, second):
        means = [[np.mean(marks[field, cut, method]) for method in methods] for cut in (first, second)]
        return spearman(*means)

    text = " ".join((ROOT / "docs" / "answer_key.md").read_text().split())
    regrets = {pair: correlation("mean_regret", *pair) for pair in itertools.combinations(MEANINGS, 2)}
    said = "{:.2f} between `zero` and `resample`, {:.2f} between `renormalize` and `resample`, {:.2f} between"
    pairs = [("zero", "resample"), ("renormalize", "resample"), ("mean", "resample")]
    assert said.format(*(regrets.pop(pair) for pair in pairs)) in text
    low, high = min(regrets.values()), max(regrets.values())
    assert f"and {low:.2f} to {high:.2f} between the other three cuts" in text
    aurocs = [correlation("auroc", *pair) for pair in itertools.combinations(MEANINGS, 2)]
    assert f"between `zero` and `resample` with {correlation('auroc', 'zero', 'resample'):.2f}" in text
    assert f"AUROCs correlate with −{-min(aurocs):.2f} to {max(aurocs):.2f}" in text


def test_circuits_of_the_census_are_told_as_they_were_counted():
    census = files.read_note(RESULTS / "census.json")
    three, rows = census["summary"]["three_layer"]["circuits"], table_rows("docs/answer_key.md")
    columns = ("between_seeds", "between_resamples", "between_draws", "between_modes")
    for cut in MEANINGS:
        counts, sizes, *likeness = rows[f"`{cut}`"]
        assert dict(re.findall(r"(\d+) in (\d+) model", counts)) == {
            k: str(v) for k, v in three[cut]["minimal"].items()
        }
        assert re.findall(r"\d+", sizes) == sorted(three[cut]["sizes"], key=int)
        for cell, name in zip(likeness, columns, strict=True):
            measured = three[cut][name]["jaccard"]
            assert cell == ("–" if measured is None else f"{measured:.2f}"), (cut, name)
    models = [model["circuits"] for model in census["models"]["three_layer"].values()]
    firsts = [[set(of[cut]["minimal"][0]) for cut in MEANINGS] for of in models]
    assert sum(all(of[1] <= first for first in of) for of in firsts) == 64
    draws = [
        {len(found) for found in (of["minimal"], *of["redrawn"])} for of in (m["resample"] for m in models)
    ]
    text = " ".join((ROOT / "docs" / "answer_key.md").read_text().split())
    for name, said in (("between_modes", "cuts are closer: {}"), ("between_seeds", "where seeds have {}")):
        closest = [three[cut][name]["closest"] for cut in MEANINGS]
        assert said.format(f"{min(closest):.2f} to {max(closest):.2f}") in text
    assert (
        f"in {sum(len(counts) > 1 for counts in draws)} of 64 models it is not the same in all five" in text
    )
    others = [census["summary"][kind]["circuits"] for kind in ("two_layer", "two_layer_fresh", "layer_norm")]
    for found in (of[cut] for of in others for cut in MEANINGS):
        assert (found["minimal"], found["sizes"]) == ({"1": 64}, {"5": 64})
        assert found["between_seeds"]["shared"] == found["between_resamples"]["shared"] == 1


def launch(name: str) -> str:
    return f"import runpy; runpy.run_module('experiments.{name}', run_name='__main__', alter_sys=True)"


def test_the_figures_of_the_write_up_are_drawn_from_the_rows(tmp_path, forks):
    code, out, err = forks.run(f"--output={tmp_path}", place=ROOT, code=launch("why_stuck_figures"))
    assert (code, err) == (0, "")
    text = (ROOT / "docs" / "why_two_layers_get_stuck.md").read_text()
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn and all(f"]({name})" in text for name in drawn)
    assert out.count("\n") > len(summarize(read_results(RESULTS / "why_stuck.csv")))


@pytest.mark.parametrize("name", ["plateau", "transplant", "approximations"])
def test_its_scripts_say_what_they_do(name, forks):
    code, out, err = forks.run("--help", place=ROOT, code=launch(name))
    assert (code, err) == (0, "") and "--output=FILE" in out


def test_the_tables_of_graded_latents_are_those_of_the_rows():
    from experiments.sae_tables import TABLES

    text = (ROOT / "docs" / "graded_latents.md").read_text("utf-8")
    assert set(re.findall(r"<!-- table (\w+) -->", text)) == set(TABLES)
    for name, table in TABLES.items():
        assert f"<!-- table {name} -->\n\n{table()}\n" in text, name


def test_what_graded_latents_says_of_the_published_sae_is_its_reference():
    """In the reference folder; the categories are those of the published steering report."""
    from orderscale_jax.sae.steering import REASONS

    text = (ROOT / "docs" / "graded_latents.md").read_text("utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| \**([\d,]+)\** \|$", text, re.MULTILINE)
    published, ours = ([int(x.replace(",", "")) for x in column] for column in zip(*rows, strict=True))
    assert published == ours and sum(ours) == 10_000 and len(ours) == len(REASONS) - 1  # none is unresponsive


def test_what_graded_latents_says_of_many_models_is_what_was_measured():
    from scipy.stats import spearmanr

    from experiments.sae_tables import rows

    text = " ".join((ROOT / "docs" / "graded_latents.md").read_text("utf-8").split())
    found, said = rows("sae_census.csv"), {"special_firing": [], "loss_recovered_all": [], "mcc": []}
    held = {"order": [], "special": [], "right": [], "reversed": [], "alone": [], "together": []}
    for row in found:
        of = {name: float(value) for name, value in row.items() if value and name not in ("kind", "family")}
        controls = max(of["steer_other_latent"], of["steer_random_direction"])
        held["order"].append(abs(of["order_cosine"]) > 0.999)
        held["special"].append(abs(of["special_cosine"]) > 0.999)
        held["right"].append(
            of["special_on_off_lists"] < min(of["digits_on_off_lists"], of["direction_on_off_lists"])
        )
        held["reversed"].append(
            of["special_on_off_reversed"] > max(of["digits_on_off_reversed"], of["direction_on_off_reversed"])
        )
        held["alone"].append(of["steer_alone"] > controls)
        held["together"].append(of.get("steer_together", of["steer_alone"]) > controls)
        assert held["alone"][-1] or of["special_code"] in (2, 3)
    counts = {name: sum(which) for name, which in held.items()}
    assert counts == dict(order=128, special=127, right=128, reversed=127, alone=123, together=128)
    least = min(float(row["steer_along_positions"]) for row in found)
    assert f"and {100 * least:.1f} % at least" in text and len(found) == 128
    medians = {1: [], 2: []}  # by how many latents are special
    for kind in ("two_layer", "two_layer_fresh"):
        own = [row for row in found if row["kind"] == kind]
        for number, values in medians.items():
            some = [float(row["steer_alone"]) for row in own if float(row["special_code"]) == number]
            values.append(f"{100 * np.median(some):.0f}")
        swapped = [float(row["steer_alone"]) for row in own]
        for name, values in said.items():
            values.append(spearmanr(swapped, [float(row[name]) for row in own]).statistic)
    told = {name: [f"{x:.2f}".replace("-", "−") for x in values] for name, values in said.items()}
    assert (
        "swaps {} and {} % in the median, a single one {} and {} %".format(*medians[2], *medians[1]) in text
    )
    assert "over 64 models {} and {})".format(*told["special_firing"]) in text
    assert "loss recovered ({}, {})".format(*told["loss_recovered_all"]) in text
    assert "MCC ({}, {})".format(*told["mcc"]) in text
