"""What is shipped of the study is what its configurations name, and what is said of it is drawn from it."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from orderscale_jax import files
from orderscale_jax.cli.configuration import load, shipped
from orderscale_jax.report.table import published_checkpoints
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


def test_what_carries_order_is_told_as_it_was_counted():
    census = files.read_note(RESULTS / "census.json")["summary"]
    orders = [census[kind]["order"]["exchange"] for kind in ("two_layer", "two_layer_fresh")]
    published = published_checkpoints()["two_layer"]["order"]["exchange"]
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    rows = {
        "the weights of P_1": "positions",
        "the weights of E[d1]": "embeddings",
        "both: alpha_1": "alphas",
        "SEP of the reversed": "reversed_list",
        "control: P_1 and P_2": "random_weights",
        "control: a random vector": "random_directions",
    }
    for start, name in rows.items():
        (line,) = (line for line in lines if line.replace("*", "").startswith(f"| {start}"))
        numbers = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", line.replace("*", "").partition(" | ")[2])]
        measured = [order[name]["reversed"][i] for order in orders for i in (2, 0, 4)]
        measured.append(published[name]["reversed"])
        np.testing.assert_allclose(numbers, 100 * np.array(measured), atol=0.0501)


def test_regrets_are_told_as_they_were_measured():
    rows = list(csv.DictReader((RESULTS / "approximations.csv").read_text().splitlines()))
    assert len(rows) == 2 * 8 * 4 * 11
    text = (ROOT / "docs" / "answer_key.md").read_text()
    for name, method in {"EAP": "edge_attribution", "exact Shapley values": "shapley_values"}.items():
        first = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        cells = first.split(" | ")[1:]
        for cut, cell in zip(("renormalize", "zero", "mean", "resample"), cells, strict=True):
            found = [
                float(row["mean_regret"])
                for row in rows
                if (row["kind"], row["cut"], row["method"]) == ("three_layer", cut, method)
            ]
            said = [float(x) for x in re.findall(r"\d\.\d+", cell)]
            np.testing.assert_allclose(said, [np.mean(found), min(found), max(found)], atol=5.1e-4)


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
