"""The report: keys, sentences and verdicts follow the numbers, and the page stands alone."""

import copy
import json
import re

import numpy as np
import pytest
from conftest import SMALL, VARIANTS, random_model

from orderscale_jax import report
from orderscale_jax.analysis import EdgeAblation, structure_p_value, study_model, tabulate
from orderscale_jax.checkpoint import load_checkpoint, save_checkpoint
from orderscale_jax.circuits import MEASURES, CircuitTable, all_sets
from orderscale_jax.config import default_config, model_config, task_config
from orderscale_jax.errors import UserError
from orderscale_jax.figures import Curve
from orderscale_jax.model import ModelConfig
from orderscale_jax.report import captions, claims
from orderscale_jax.report.claims import FAILS, HOLDS, PARTLY, UNKNOWN
from orderscale_jax.report.table import (
    number_table,
    published_checkpoints,
    published_grid,
    published_kind,
)
from orderscale_jax.task import make_split

EVERYWHERE = {
    "name",
    "config",
    "list_len",
    "n_digits",
    "n_train",
    "n_val_total",
    "n_val_used",
    "variant",
    "validation_lists_seen",
    "parameters",
    "val",
    "train",
    "ablation",
    "mean_pattern",
    "mean_pattern_accuracy",
    "logit_lens_first_val",
    "wrong_lists",
    "position_span",
    "not_applicable",
}
OF_PAIRS = {"sep_attention", "separability"}
OF_ORDER = {"alpha_swap_full_model", "moderation_edge_ablation", "joint_ablation_notebook"}
OF_SETS = {"exact_circuit"}
OF_EQUATIONS = {"circuit", "logit_difference", "alpha_swap", "order"}
KINDS = {
    "plain": (VARIANTS["plain"], OF_PAIRS | OF_SETS | OF_ORDER | OF_EQUATIONS),
    "three layers": (ModelConfig(**SMALL, n_layers=3), OF_PAIRS | OF_SETS | OF_ORDER),
    "layer norm, heads": (
        ModelConfig(d_model=8, n_digits=4, list_len=3, n_heads=2, layer_norm=True, bias=True),
        OF_PAIRS | OF_SETS | OF_ORDER,
    ),
    "one layer, one digit": (ModelConfig(**SMALL, n_layers=1, list_len=1), set()),
}
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (748).to_bytes(4, "big") * 2


def lists_of(config, most=40):
    every = np.indices((config.n_digits,) * config.list_len, np.int32).reshape(config.list_len, -1).T
    return np.random.RandomState(0).permutation(every)[:most]


def cheap_ablation(model, lists, mode):
    """Every live edge costs 2 points more than the one before; the real one takes seconds to compile."""
    graph = model.config.graph
    live = np.array([graph.is_live(edge) for edge in graph.edges])
    accuracies = 0.9 - 0.02 * live.cumsum() * live
    each = np.repeat(accuracies[:, None], graph.list_len, 1)
    return EdgeAblation(mode, None, graph.edges, live, 0.9, accuracies, each, 0.01, 0.9)


def cheap_table(model, lists, mode):
    """Accuracy grows with the edges that are kept; the real one takes seconds to compile."""
    graph = model.config.graph
    kept = all_sets(len(graph.live_edges))
    share = kept.mean(1)
    each = np.repeat(share[:, None], graph.list_len, 1)
    worst = dict.fromkeys(MEASURES, share)
    return CircuitTable(graph, mode, 0, len(lists), kept, each, share, -each, each, -each, worst, (), each)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def kind(request):
    """A small model, its study, its results and the keys that apply to some models only."""
    config, applicable = request.param
    model = random_model(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orderscale_jax.analysis.study.ablate_edges", cheap_ablation)
        patch.setattr("orderscale_jax.analysis.study.circuit_table", cheap_table)
        found = study_model(model, lists_of(config))
    return model, found, tabulate(found, name="small", n_train=80, n_val_total=50), applicable


@pytest.fixture
def two_layer():
    return copy.deepcopy(published_checkpoints()["two_layer"]) | {
        "variant": {"mlp": False, "frozen_heads": "shared"},
        "validation_lists_seen": None,
        "train": None,
    }


def test_keys_that_apply_are_there_and_the_others_have_a_reason(kind):
    _, found, results, applicable = kind
    assert set(results) == EVERYWHERE | applicable
    assert set(results["not_applicable"]) == (OF_PAIRS | OF_SETS | OF_ORDER | OF_EQUATIONS) - applicable
    assert all(re.fullmatch(r"[A-Z].+\.", why) for why in results["not_applicable"].values())
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    seen = found.observation
    assert results["n_val_used"] == len(seen.lists)
    assert results["val"]["accuracy"] == pytest.approx(float(seen.correct.mean()))
    for mode, ablation in found.ablations.items():
        assert [e["delta"] for e in results["ablation"][mode]["edges"]] == ablation.deltas.tolist()


def test_the_last_outputs_errors_have_the_published_names(kind):
    _, found, results, applicable = kind
    if "moderation_edge_ablation" not in applicable:
        pytest.skip("nothing moderates this model's outputs")
    n = results["list_len"]
    for mode, joint in found.moderation.items():
        table, last = results["moderation_edge_ablation"][mode], joint.errors[-1]
        assert table[f"o{n}_wrong"] == last.n_wrong
        assert table[f"o{n}_equals_d1_given_o{n}_wrong"] == last.equals_digit[0]
        assert table[f"o{n}_equals_o1_pred_given_o{n}_wrong"] == last.equals_prediction[0]
        assert table[f"o1_correct_given_o{n}_wrong"] == last.others_correct[0]
        together = results["joint_ablation_notebook"][mode]
        assert together["accuracy"] == table["accuracy"]  # dead edges change nothing
        assert len(together["edges"]) > len(joint.edges)


def test_the_page_is_complete_and_fetches_nothing(kind):
    _, found, results, applicable = kind
    images = dict.fromkeys(("information_flow", "ablation_zero", "attention_histograms"), PNG)
    if found.sep:
        images |= dict.fromkeys(("sep_attention", "wrong_lists"), PNG)
    if found.difference:
        images["difference_bars"] = PNG
    text = report.render_page(found, results, images)
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"url\(|@import", text)
    assert text.count("<img") == len(images) == text.count("data:image/png;base64,")
    assert ("orderscale-explorer" in text) == ("circuit" in applicable)
    assert ("The explorer computes with the closed form, and the two equations" in text) == (
        "circuit" not in applicable
    )
    for why in results["not_applicable"].values():
        assert why in text
    for heading in ("Figures", "Explorer", "Numbers", "Edges", "The paper's claims", "The model"):
        assert f"<h2>{heading}</h2>" in text.replace("&#39;", "'")
    assert "None" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).replace("None of", "")


def test_only_figures_that_apply_are_drawn(kind):
    _, found, _, applicable = kind
    always = {"information_flow", "ablation_renormalize", "ablation_zero", "attention_histograms"}
    of_pairs = {"sep_attention", "wrong_lists"} if "sep_attention" in applicable else set()
    of_equations = {"difference_bars", "order_exchanges"} if "circuit" in applicable else set()
    of_sets = {"circuit_lattice"} if "exact_circuit" in applicable else set()
    assert set(report.draw(found)) == always | of_pairs | of_equations | of_sets


def test_sentences_change_with_the_numbers(two_layer):
    assert "91.45\u00a0%" in captions.headline(two_layer)
    assert "training" not in captions.headline(two_layer)
    two_layer["train"] = {"accuracy": 0.9876, "sequence_accuracy": 0.9765}
    assert "Of the training lists it writes 98.76\u00a0%" in captions.headline(two_layer)
    assert "generalises" not in captions.headline(two_layer | {"validation_lists_seen": False})
    assert "generalises" in captions.headline(two_layer | {"validation_lists_seen": True})
    flow = captions.information_flow(two_layer)
    assert "5 can reach an output at all, and 5 are critical" in flow[0]
    assert "all that the model needs" in flow[1]
    two_layer["ablation"]["zero"]["accuracy_without_non_critical"] = 0.5
    assert "not so together" in captions.information_flow(two_layer)[1]
    two_layer["ablation"]["zero"]["critical"] = []
    assert "none is critical" in captions.information_flow(two_layer)[0]

    assert "same in the other mode" not in captions.ablation(two_layer, "zero")[1]
    assert "carries information" in captions.attention(two_layer)[1]
    two_layer["mean_pattern_accuracy"] = two_layer["val"]["accuracy"]
    assert "does not depend" in captions.attention(two_layer)[1]

    assert "gather where" in captions.sep_attention(two_layer)[1]
    two_layer["sep_attention"]["score_gap_mean_incorrect"] = 0.6
    assert "no closer" in captions.sep_attention(two_layer)[1]
    two_layer["sep_attention"]["score_gap_mean_incorrect"] = None
    assert "No list is wrong" in captions.sep_attention(two_layer)[0]

    assert "finds no structure" in captions.wrong_lists(two_layer)[1]
    two_layer["wrong_lists"]["structure_p_value"] = 1e-5
    assert "not lie at random" in captions.wrong_lists(two_layer)[1]
    two_layer["wrong_lists"]["lists"] = 0
    assert "nothing to see" in captions.wrong_lists(two_layer)[1]

    assert "11.62 below" in captions.difference(two_layer)[0]
    two_layer["logit_difference"]["base_l_o1"] = 3.0
    assert "3.00 above" in captions.difference(two_layer)[0]
    reversing, digits = captions.order(two_layer)
    for share in ("76.6", "3.08", "89.41", "18.36", "0.76", "26.93", "44.13", "82.96"):
        assert f"{share}\u00a0%" in reversing, share
    assert "93.21\u00a0%" in digits and "which digits they are" in digits
    two_layer["order"]["same_digit_larger"] = 0.3
    assert "which digits they are" not in captions.order(two_layer)[1]
    table = {"edges": [[0, 2, 0], [0, 2, 1]], "minimal_circuits": [[0, 1], [0]], "tolerance": 0.01}
    table |= {"shapley": [0.2, 0.3], "accuracy_by_subset": [0.1, 0.4, 0.3, 0.6]}
    (said,) = captions.circuits(two_layer | {"exact_circuit": {"zero": table}})
    for words in ("2 minimal circuits of 1 and 2 edges among the 4 sets of the 2 live", "left as it was"):
        assert words in said.replace("\u00a0", " ")
    assert "SEP←d2 counts most: 30 % of the 50 % by" in said.replace("\u00a0", " ")
    assert "a plane separates" in captions.separability(two_layer | _separable(True))[0]
    assert "no plane separates" in captions.separability(two_layer | _separable(False))[0]
    assert "never passed" in captions.training([Curve("a", [1], [0.5])])[1]
    assert "step 7" in captions.training([Curve("a", [5, 7], [0.5, 0.9])])[1]


def _separable(is_so):
    return {"separability": {"separable": is_so, "accuracy": 0.9, "margin": 1.0 if is_so else None}}


def test_claims_of_the_published_checkpoints():
    both = published_checkpoints()
    made = report.judge_claims(both, both)
    assert all(claim.verdict == claim.published_verdict for claim in made)
    verdicts = [claim.verdict for claim in made]
    assert UNKNOWN not in verdicts
    failing = [claim.statement for claim in made if claim.verdict == FAILS]
    assert len(failing) == 4
    assert "as printed" in failing[0] and "larger α" in failing[1]
    assert "parameters" in failing[2] and "parameters" in failing[3]
    partly = [claim.paper for claim in made if claim.verdict == PARTLY]
    assert partly[0] == "92.2\u00a0%" and "reversed" in partly
    assert len([claim for claim in made if claim.model == "three_layer"]) == 5


def test_verdicts_follow_our_numbers(two_layer):
    def verdict(part):
        return next(c.verdict for c in report.judge_claims({"two_layer": two_layer}) if part in c.statement)

    assert verdict("most of the task") == PARTLY
    two_layer["val"]["accuracy"] = 0.925
    assert verdict("most of the task") == HOLDS
    two_layer["alpha_swap_full_model"]["both_reversed"] = 0.95
    assert verdict("exchanged") == HOLDS
    two_layer["logit_difference"]["final"] = -0.5
    assert verdict("turns o2") == PARTLY
    two_layer["circuit"]["max_abs_diff_o2"] = 1.0
    assert verdict("equations") == FAILS
    two_layer["sep_attention"]["score_gap_mean_incorrect"] = None
    assert verdict("alike") == UNKNOWN
    del two_layer["separability"]
    assert verdict("separable") == UNKNOWN


def test_only_a_missing_number_is_not_measured(two_layer, monkeypatch):
    """An error in a rule itself is an error, and not a claim that was not measured."""

    def rules(measure):
        monkeypatch.setattr(claims, "_rules", lambda model: [claims._Rule("claim", "–", "rule", measure)])

    rules(lambda results: (results["val"]["accuracy"], results["val"]["no such key"]))
    (claim,) = report.judge_claims({"two_layer": two_layer})
    assert (claim.ours, claim.verdict, claim.published) == ("–", UNKNOWN, None)
    rules(lambda results: (results["val"]["accuracy"] + "%", HOLDS))
    with pytest.raises(TypeError):
        report.judge_claims({"two_layer": two_layer})
    rules(lambda results: ({}[results["n_digits"]], HOLDS))
    with pytest.raises(KeyError):
        report.judge_claims({"two_layer": two_layer})


def test_the_papers_numbers_are_those_of_its_table():
    made = report.judge_claims(published_checkpoints())
    texts = {claim.paper.replace("\u00a0", " ") for claim in made}
    assert texts >= {"92.2 %", "100 %", "falls to 45 %", "83.9 % to 99.45 %", "92,288", "125,056", "5 arrows"}
    assert any("L0 SEP←d1 −50.9, L0 SEP←d2 −41.0" in text for text in texts)


def test_claims_as_text_keep_to_the_width(two_layer):
    text = report.claims_text(report.judge_claims({"two_layer": two_layer}), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "published" not in text.splitlines()[0] and "Three layers" not in text
    with_published = report.judge_claims({"two_layer": two_layer}, published_checkpoints())
    assert "published" in report.claims_text(with_published).splitlines()[0]
    assert {claim.model for claim in with_published} == {"two_layer", "three_layer"}


def test_published_numbers_stand_beside_the_same_architecture_only(two_layer):
    assert published_kind(two_layer) == "two_layer"
    assert published_grid(two_layer)["runs"] == 60
    answers = dict(number_table(two_layer))["How good it is"]
    assert (answers[0].ours, answers[0].checkpoint, answers[0].paper) == tuple(
        f"{x}\u00a0%" for x in ("91.45", "91.45", "92.2")
    )
    two_layer["config"]["use_bias"] = True
    assert published_kind(two_layer) is None
    assert published_grid(two_layer)["runs_above_0_9"] == 4
    assert dict(number_table(two_layer))["How good it is"][0].checkpoint == "–"
    two_layer["config"]["d_model"] = 24
    assert published_grid(two_layer) is None


def test_structure_is_found_where_there_is_some():
    lists = np.indices((20, 20)).reshape(2, -1).T
    random = np.random.RandomState(0).rand(400) < 0.5
    assert structure_p_value(lists, random, 20) > 0.01
    assert structure_p_value(lists, (lists[:, 0] < 8) ^ (random & (lists[:, 1] > 3)), 20) < 1e-4
    assert np.isnan(structure_p_value(lists, np.arange(400) < 3, 20))


def write_log(workdir, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    return workdir / "checkpoint"


def validation(seed, attempt, step, accuracy, loss=1.0):
    return {"seed": seed, "attempt": attempt, "step": step, "val_accuracy": accuracy, "val_loss": loss}


def test_the_training_caption_agrees_with_the_summary(tmp_path):
    """Steps are those of the attempt; the attempt is named where there were several."""
    first = [validation(3, 1, 200, 0.5), validation(3, 1, 400, 0.6)]
    second = [validation(3, 2, 200, 0.8), validation(3, 2, 400, 0.91), validation(3, 2, 600, 0.91)]
    once = report.read_history(write_log(tmp_path, *first))
    assert [curve.label for curve in once] == ["seed 3"]
    assert captions.training(once)[0].endswith("60\u00a0%, was met after 400 steps.")
    twice = report.read_history(write_log(tmp_path, *first, *second))
    assert [curve.label for curve in twice] == ["attempt 1", "attempt 2"]
    said = captions.training(twice)
    assert said[0].startswith("2 attempts at training are on record")
    assert said[0].endswith("91\u00a0%, was met after 400 steps of attempt 2.")
    assert said[1] == "It broke through 75\u00a0% at step 200."
    among_others = write_log(tmp_path, *first, *second, validation(4, 1, 200, 0.7))
    labels = [curve.label for curve in report.read_history(among_others)]
    assert labels == ["seed 3, attempt 1", "seed 3, attempt 2", "seed 4"]
    assert [curve.label for curve in report.read_history(among_others, seed=4)] == ["seed 4"]


@pytest.mark.parametrize("damage", ["{}", "not JSON", '{"seed": 3, "att', "[]", "3"])
def test_a_damaged_log_is_refused(tmp_path, damage):
    checkpoint = write_log(tmp_path, validation(3, 1, 200, 0.5))
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write(damage + "\n")
    with pytest.raises(UserError, match="not the log of a training run: line 2"):
        report.read_history(checkpoint)


def test_there_is_no_history_without_a_log(tmp_path):
    assert report.read_history(tmp_path / "checkpoint") == ()
    write_log(tmp_path, validation(3, 1, 200, 0.5))
    assert report.read_history(tmp_path / "weights") == ()


def small_checkpoint(path):
    config = default_config()
    config.task.n_digits, config.model.d_model = 5, 8
    save_checkpoint(path, random_model(model_config(config)), config)


def test_a_report_is_a_folder(tmp_path):
    small_checkpoint(tmp_path / "run" / "checkpoint")
    lines = [validation(3, 1, 10 * i, i / 4, None if i == 2 else 1.0) for i in range(4)]
    history = report.read_history(write_log(tmp_path / "run", *lines))
    assert (history[0].label, list(history[0].steps)) == ("seed 3", [0, 10, 20, 30])
    model, config = load_checkpoint(tmp_path / "run" / "checkpoint")
    split = make_split(task_config(config))
    found = study_model(model, split.validation[:4], split.train)
    results = report.write_report(
        tmp_path / "out", found, split, name="run", validation_lists_seen=True, history=history
    )
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"results.json", "report.html", "figures"}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert results["n_val_used"] == 4 and results["n_val_total"] == 5 and results["n_train"] == 20
    assert results["train"]["n_lists"] == 20 and results["validation_lists_seen"] is True
    assert "tell what it holds" in (tmp_path / "out" / "report.html").read_text()
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert "training_curves" in names and len(names) == 10
