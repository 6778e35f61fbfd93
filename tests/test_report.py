"""The report: keys, sentences and verdicts follow the numbers, and the page stands alone."""

import copy
import functools
import html.parser
import itertools
import json
import os
import re
from pathlib import Path

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
from orderscale_jax.report import captions, claims, measures, summary
from orderscale_jax.report.claims import count_verdicts, verdicts_text
from orderscale_jax.report.measures import FAILS, HOLDS, PARTLY, UNKNOWN
from orderscale_jax.report.numbers import MISSING, lookup
from orderscale_jax.report.published import (
    PAPER,
    PAPER_FIGURE_1,
    origin,
    published_checkpoints,
    published_grid,
    published_kind,
)
from orderscale_jax.report.rules import BY_PAPER, HERE, Rule, rules
from orderscale_jax.report.table import number_table
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
REFERENCE = Path(os.environ.get("ORDERSCALE_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")
LABELS = PAPER_FIGURE_1["two_layer"]
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
        "not_applicable": {},
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
    text = report.render_page(found, report.complete(results), images)
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"url\(|@import", text)
    assert text.count("<img") == len(images) == text.count("data:image/png;base64,")
    for name in images:
        assert text.count(f'id="figure-{name}"') == text.count(f'href="figures/{name}.pdf"') == 1
    assert ("Equations</h2>" in text) == ("circuit" in applicable) == ('<math display="block">' in text)
    for why in results["not_applicable"].values():
        assert why in text
    for heading in ("Figures", "Explorer", "Numbers", "Edges", "The paper's claims", "The model"):
        assert f"<h2>{heading}</h2>" in text.replace("&#39;", "'")
    assert "None" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).replace("None of", "")


class Parsed(html.parser.HTMLParser):
    """Of a page without its explorer: what has a key, cells, headings, addresses and links."""

    def __init__(self, text: str):
        super().__init__()
        self.keyed, self.cells, self.levels, self.ids, self.links = [], [], [], [], []
        self._key = self._cell = None
        self.feed(re.sub(r'<section id="explorer">.*?(?=<section id="numbers">)', "", text, flags=re.DOTALL))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag == "td":
            self._cell = []
        if "data-key" in found:
            self._key = found["data-key"]
            self.keyed.append((self._key, ""))

    def handle_endtag(self, tag):
        if tag == "td":
            self.cells.append("".join(self._cell))
            self._cell = None
        if tag == "span":
            self._key = None

    def handle_data(self, data):
        if self._key:
            self.keyed[-1] = (self._key, self.keyed[-1][1] + data)
        elif self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def study():
    """Of a small model of the published architecture but for its size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orderscale_jax.analysis.study.ablate_edges", cheap_ablation)
        patch.setattr("orderscale_jax.analysis.study.circuit_table", cheap_table)
        return study_model(random_model(VARIANTS["plain"]), lists_of(VARIANTS["plain"]))


@pytest.fixture
def page(study, two_layer):
    """A report of a model much like the published checkpoint, and what its `results.json` holds."""
    two_layer["val"] |= {"accuracy": 0.9285, "per_position_accuracy": [0.99, 0.867], "loss": 0.3}
    for place in (
        "sep_attention",
        "logit_difference.terms",
        "order.exchange.alphas",
        "moderation_edge_ablation.zero",
    ):
        numbers = lookup(two_layer, place)
        numbers |= {key: 0.9 * x for key, x in numbers.items() if isinstance(x, float)}
    for edge in two_layer["ablation"]["zero"]["edges"]:
        edge["delta"] *= 0.9
    two_layer["parameters"]["arrays"] = [{"name": "W", "shape": [7, 30], "size": 210, "trainable": True}]
    two_layer["separability"]["separable"] = True
    curve = Curve("seed 0", [100, 200], [0.5, 0.75], [1.0, float("nan")])
    results = report.complete(two_layer, [curve])
    names = ("information_flow", "difference_bars", "attention_histograms", "sep_attention", "wrong_lists")
    text = report.render_page(study, results, dict.fromkeys((*names, "training_curves"), PNG))
    return text, json.loads(json.dumps(results, allow_nan=False))


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def is_written_as(text: str, value, is_points: bool) -> bool:
    """Whether the number(s) in a text are `value`, as far as their digits go."""
    written = re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text.replace("−", "-").replace(",", ""))
    if isinstance(value, list):
        return [int(x) for x in written] in (value, [len(value)])
    (number,) = written
    mantissa, _, exponent = number.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    expected = 100 * value if is_points or "%" in text else value
    return abs(float(number) - expected) <= 0.5001 * unit


def test_every_number_of_the_tables_and_claims_is_in_the_results(page):
    text, results = page
    parsed = Parsed(text)
    assert len(parsed.keyed) > 250
    for key, written in parsed.keyed:
        place = lookup(results, key.removesuffix(".value") + ".place") if key.endswith(".value") else key
        value = lookup(results, key)
        assert value is not None, key
        assert is_written_as(written, value, place.endswith(".delta")), (key, written, value)
        if place != key:  # of a claim
            of_claim = key.split(".")[2]
            source = results if of_claim == "ours" else results["published"]["results"]
            assert lookup(source, place) == value, key
    assert not [cell for cell in parsed.cells if re.search(r"\d", cell)]
    assert {key.partition(".")[0] for key, _ in parsed.keyed} >= {"val", "published", "paper", "claims"}
    words = plain(html.unescape(text))
    for claim in results["claims"]:
        assert plain(f"Rule: {claim['rule']}.") in words and plain(claim["statement"]) in words
        assert claim["by"] == HERE or plain(f"Paper: {claim['paper']}.") in words
    assert results["history"] == [
        {"label": "seed 0", "steps": [100, 200], "accuracy": [0.5, 0.75], "loss": [1.0, None]}
    ]
    made = report.judge_claims({"two_layer": results}, published_checkpoints())
    for source in ("ours", "published"):
        counts = count_verdicts([claim for claim in made if claim.model == "two_layer"], source)
        assert results["verdicts"][source] == counts and sum(counts.values()) == 14
        assert words.index(f"<b>{verdicts_text(counts)}</b>") < words.index("<figure")
    for place, value in PAPER["two_layer"].items():
        assert lookup(results["paper"]["results"], place) == value


def test_places_on_the_page_have_addresses(page):
    parsed = Parsed(page[0])
    assert len(set(parsed.ids)) == len(parsed.ids)
    inside = {link[1:] for link in parsed.links if link.startswith("#")}
    assert inside <= {*parsed.ids, "explorer"}
    assert inside >= {f"claim-{rule.key}" for rule in rules("two_layer")} | {"figure-sep_attention"}
    assert all(later <= sooner + 1 for sooner, later in itertools.pairwise(parsed.levels))


def test_a_figure_of_the_paper_is_beside_its_claim_and_nowhere_else(page):
    text, _ = page
    for key, figure in (("figure_1", 1), ("difference", 2), ("mean_pattern", 3), ("diagonal", 4)):
        article = text[text.index(f'<article id="claim-{key}"') :].partition("</article>")[0]
        assert article.count("<img") == 1 and f"Figure {figure} of the paper" in article
    assert text.count("<img") == 6


def test_a_column_of_dashes_is_not_drawn(study, page, two_layer):
    text, _ = page
    tables = re.findall(r'<table class="numbers">(.*?)</table>', text, re.DOTALL)
    assert len(tables) > 8 and {"Paper</th>" in table for table in tables} == {True, False}
    for table in tables:
        rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL)
        columns = zip(*(re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL) for row in rows), strict=True)
        assert not [column for column in columns if set(column) <= {"–", ""}]
    two_layer["parameters"]["arrays"] = []
    two_layer["config"]["use_bias"] = True
    alone = report.render_page(study, report.complete(two_layer), {})
    assert "Published checkpoint</th>" not in alone and "Paper</th>" not in alone


@pytest.mark.parametrize("variant", ["use_bias", "use_ln"])
def test_what_the_authors_runs_say_is_told_with_and_without_ours(study, two_layer, variant):
    two_layer["parameters"]["arrays"] = []
    two_layer["separability"]["separable"] = True
    two_layer["config"][variant] = True
    results = report.complete(two_layer)
    assert bool(results["published"]["recipe"]) == (variant == "use_bias")
    text = plain(report.render_page(study, results, {}))
    assert "The authors trained 60 models" in text
    assert ("left as they were drawn (their biases, too)" in text) == (variant == "use_bias")
    assert text.count("numbers say what the architecture can hold, not how well it generalises.</p>") == 1


def test_it_is_told_whose_code_made_a_number():
    """Numbers without a mark are those of the published code, all others are not."""
    reference = REFERENCE / "2layer_100dig_64d.json"
    if not reference.is_file():
        pytest.skip(f"there is no {reference}")
    theirs, ours = json.loads(reference.read_text()), published_checkpoints()["two_layer"]
    results = ours | {"train": None, "variant": {"mlp": False}}
    numbers = [row.checkpoint for group in number_table(results) for row in group.rows]
    judged = report.judge_claims({}, {"two_layer": ours})
    numbers += [number for claim in judged for number in claim.published.numbers]
    for number in numbers:
        published = lookup(theirs, number.place)
        assert (published is not None) == (not origin(number.place)), number.place
        if isinstance(published, float):
            assert number.value == pytest.approx(published, rel=1e-5), number.place


def test_only_figures_that_apply_are_drawn(kind):
    _, found, _, applicable = kind
    always = {"information_flow", "ablation_renormalize", "ablation_zero", "attention_histograms"}
    of_pairs = {"sep_attention", "wrong_lists"} if "sep_attention" in applicable else set()
    of_equations = {"difference_bars", "order_exchanges"} if "circuit" in applicable else set()
    of_sets = {"circuit_lattice"} if "exact_circuit" in applicable else set()
    assert set(report.draw(found)) == always | of_pairs | of_equations | of_sets


def test_sentences_change_with_the_numbers(two_layer):
    assert "91.45\u00a0%" in summary.headline(two_layer)
    assert "training" not in summary.headline(two_layer)
    two_layer["train"] = {"n_lists": 8000, "accuracy": 0.9876, "sequence_accuracy": 0.9765}
    said = summary.headline(two_layer).replace("\u00a0", " ")
    assert "Of the 8,000 training lists it writes 97.65 % entirely right, and 98.76 % of their 16,000" in said
    assert "generalises" not in summary.headline(two_layer | {"validation_lists_seen": False})
    assert "generalises" in summary.headline(two_layer | {"validation_lists_seen": True})
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

    assert "attends to both digits alike" in captions.sep_attention(two_layer)[1]
    two_layer["sep_attention"]["score_gap_mean_incorrect"] = 0.6
    assert "no closer" in captions.sep_attention(two_layer)[1]
    two_layer["sep_attention"]["score_gap_mean_incorrect"] = None
    assert "No list is wrong" in captions.sep_attention(two_layer)[0]

    assert "p = 0.56: no sign" in captions.wrong_lists(two_layer)[1]
    for p, words in ((0.039, "p = 0.039: a weak sign"), (1e-5, "p = 1e−05: they are not spread at random")):
        two_layer["wrong_lists"]["structure_p_value"] = p
        assert words in captions.wrong_lists(two_layer)[1]
    two_layer["wrong_lists"]["lists"] = 0
    assert "the plane is empty" in captions.wrong_lists(two_layer)[1]

    assert "11.62 below" in captions.difference(two_layer)[0]
    two_layer["logit_difference"]["base_l_o1"] = 3.0
    assert "3.00 above" in captions.difference(two_layer)[0]
    reversing, right, digits = captions.order(two_layer)
    for share in ("76.60", "3.08", "89.41", "18.36", "0.76"):
        assert f"{share}\u00a0%" in reversing, share
    for share in ("26.93", "44.13", "82.96"):
        assert f"{share}\u00a0%" in right, share
    assert "93.21\u00a0%" in digits and "which digits they are" in digits
    two_layer["order"]["same_digit_larger"] = 0.3
    assert "which digits they are" not in captions.order(two_layer)[2]
    table = {"edges": [[0, 2, 0], [0, 2, 1]], "minimal_circuits": [[0, 1], [0]], "tolerance": 0.01}
    table |= {"shapley": [0.2, 0.3], "accuracy_by_subset": [0.1, 0.4, 0.3, 0.6]}
    (said,) = captions.circuits(two_layer | {"exact_circuit": {"zero": table}})
    for words in ("2 minimal circuits of 1 and 2 edges among the 4 sets of the 2 live", "left as it was"):
        assert words in said.replace("\u00a0", " ")
    assert "SEP←d2 counts most: it adds 30.00 of the 50.00 points" in said.replace("\u00a0", " ")
    assert "separated by a plane" in captions.separability(two_layer | _separable(True))[0]
    assert "no plane separates" in captions.separability(two_layer | _separable(False))[0]
    assert "never passed" in captions.training([Curve("a", [1], [0.5])])[1]
    assert "step 7" in captions.training([Curve("a", [5, 7], [0.5, 0.9])])[1]


def _separable(is_so):
    return {"separability": {"separable": is_so, "accuracy": 0.9, "margin": 1.0 if is_so else None}}


def test_claims_of_the_published_checkpoints():
    both = published_checkpoints()
    made = report.judge_claims(both, both)
    assert all(claim.ours == claim.published for claim in made)
    verdicts = {(claim.model, claim.rule.key): claim.ours.verdict for claim in made}
    failing = {("two_layer", "alpha_printed"), ("two_layer", "larger_alpha")}
    failing |= {(model, "parameters") for model in both}
    partly = {(model, "figure_1") for model in both} | {("two_layer", "order_by_scale")}
    assert {key for key, verdict in verdicts.items() if verdict == FAILS} == failing
    assert {key for key, verdict in verdicts.items() if verdict == PARTLY} == partly
    assert UNKNOWN not in verdicts.values()
    of_three = [claim for claim in made if claim.model == "three_layer"]
    assert len(of_three) == 5
    assert count_verdicts(of_three, "ours") == {HOLDS: 3, PARTLY: 1, FAILS: 1}
    assert (
        verdicts_text({HOLDS: 3, PARTLY: 1, UNKNOWN: 2})
        == "3 hold, 1 holds only partly and 2 are not measured"
    )


def test_verdicts_follow_our_numbers(two_layer):
    def verdict(key):
        made = report.judge_claims({"two_layer": two_layer})
        return next(claim.ours.verdict for claim in made if claim.rule.key == key)

    assert verdict("accuracy") == HOLDS
    two_layer["val"]["accuracy"] = 0.89
    assert verdict("accuracy") == PARTLY

    swap, reference = two_layer["alpha_swap_full_model"], two_layer["order"]["exchange"]["reversed_list"]
    for both, expected in ((0.53, PARTLY), (0.54, HOLDS), (0.079, FAILS), (0.081, PARTLY)):
        swap["both_reversed"], reference["reversed"] = both, 0.8
        assert verdict("order_by_scale") == expected, both
    reference["reversed"] = 0.49
    assert verdict("order_by_scale") == verdict("positions") == UNKNOWN

    two_layer["logit_difference"]["final"] = -0.5
    assert verdict("difference") == PARTLY
    two_layer["circuit"]["max_abs_diff_o2"] = 1.0
    assert verdict("closed_form") == FAILS
    for p, expected in ((0.051, HOLDS), (0.039, PARTLY), (0.009, FAILS), (None, UNKNOWN)):
        two_layer["wrong_lists"]["structure_p_value"] = p
        assert verdict("no_structure") == expected, p
    edges = two_layer["ablation"]["zero"]["edges"]
    for agree, expected in ((2, FAILS), (3, PARTLY), (5, HOLDS)):
        for i, (edge, label) in enumerate(LABELS.items()):
            (entry,) = (e for e in edges if (e["layer"], e["query"], e["key"]) == edge)
            entry["delta"] = label + (0.049 if i < agree else 0.051)
        assert verdict("figure_1") == expected, agree
    cut = two_layer["moderation_edge_ablation"]
    for o1, o2, expected in ((20, 1000, HOLDS), (20, 999, PARTLY), (21, 1000, FAILS), (20, 521, FAILS)):
        cut["zero"] |= {"o1_wrong": o1, "o2_wrong": o2}
        assert verdict("moderation") == expected, (o1, o2)
    two_layer["ablation"]["zero"]["critical"] *= 2
    assert verdict("few_edges") == FAILS
    two_layer["wrong_lists"]["lists"] = 0
    assert verdict("diagonal") == UNKNOWN
    del two_layer["separability"]
    assert verdict("separable") == UNKNOWN


REST = tuple(f"ablation.{mode}.accuracy_without_non_critical" for mode in ("renormalize", "zero"))
WHOLE, REVERSED = "order.exchange.reversed_list.reversed", "alpha_swap_full_model.both_reversed"
AT_BOUNDS = {  # claim: numbers that are just at a bound, and the verdict
    "accuracy": [({"val.accuracy": 0.9}, HOLDS), ({"val.accuracy": 0.75}, PARTLY)],
    "few_edges": [
        ({"val.accuracy": 0.95, **dict.fromkeys(REST, 0.94)}, HOLDS),
        ({"val.accuracy": 0.95, **dict.fromkeys(REST, 0.9)}, PARTLY),
        ({"val.accuracy": 0.95, REST[0]: 0.85, REST[1]: 0.95}, FAILS),
        ({"val.accuracy": 0.95, REST[0]: 0.95, REST[1]: 0.85}, FAILS),
    ],
    "mean_pattern": [({"val.accuracy": 0.95, "mean_pattern_accuracy": 0.85}, PARTLY)],
    "order_by_scale": [
        ({WHOLE: 0.9, REVERSED: 0.6}, HOLDS),
        ({WHOLE: 0.9, REVERSED: 0.09}, PARTLY),
        ({WHOLE: 0.7, REVERSED: 0.07}, PARTLY),
    ],
    "larger_alpha": [({"order.same_digit_larger": 0.1}, HOLDS), ({"order.same_digit_larger": 0.5}, PARTLY)],
    "closed_form": [({"circuit.max_abs_diff_o1": 1e-4}, PARTLY), ({"circuit.max_abs_diff_o1": 1e-2}, FAILS)],
    "separable": [({"separability.accuracy": 0.99}, PARTLY)],
}


@pytest.mark.parametrize("key", AT_BOUNDS)
def test_a_number_at_its_bound_is_judged_as_the_rule_says(two_layer, key):
    """However the difference of two shares is rounded."""
    for numbers, verdict in AT_BOUNDS[key]:
        results = copy.deepcopy(two_layer)
        for place, value in numbers.items():
            *way, last = place.split(".")
            functools.reduce(lambda of, name: of[name], way, results)[last] = value
        made = {claim.rule.key: claim.ours for claim in report.judge_claims({"two_layer": results})}
        assert made[key].verdict == verdict, numbers


def test_a_model_that_has_not_learnt_is_not_judged(two_layer):
    two_layer["val"]["accuracy"] = 0.516
    made = {claim.rule.key: claim.ours for claim in report.judge_claims({"two_layer": two_layer})}
    assert made.pop("accuracy").verdict == FAILS and made.pop("closed_form").verdict == HOLDS
    assert made.pop("parameters").verdict == FAILS
    for judged in made.values():
        assert judged.verdict == UNKNOWN and not judged.numbers
        assert "has not learnt the task: 51.60\u00a0% of the outputs" in judged.reason
        assert judged.text == judged.reason


def test_only_a_missing_number_is_not_measured(two_layer, monkeypatch):
    """An error in a rule itself is an error, and not a claim that was not measured."""

    def judge(measure):
        monkeypatch.setattr(
            claims, "rules", lambda model: [Rule("key", "claim", BY_PAPER, "–", "rule", measure)]
        )
        (claim,) = report.judge_claims({"two_layer": two_layer})
        return claim

    claim = judge(lambda results: ([measures.need(results, "val.nothing", str)], HOLDS))
    assert (claim.ours.verdict, claim.published) == (UNKNOWN, None)
    assert claim.ours.reason == "the results hold no number val.nothing"
    two_layer["not_applicable"] = {"circuit": "It has two heads."}
    del two_layer["circuit"]
    claim = judge(lambda results: ([measures.need(results, "circuit.max_abs_diff_o1", str)], HOLDS))
    assert claim.ours.reason == "It has two heads"
    with pytest.raises(TypeError):
        judge(lambda results: ([], results["val"]["accuracy"] + "%"))
    with pytest.raises(KeyError):
        judge(lambda results: ([], {}[results["n_digits"]]))


def test_the_papers_numbers_are_those_of_its_table():
    made = report.judge_claims(published_checkpoints())
    texts = " | ".join(claim.rule.paper.replace("\u00a0", " ") for claim in made)
    for said in (
        "92.2 % of the",
        "100 % of",
        "falls to 45 %",
        "83.9 % to 99.45 %",
        "92,288",
        "125,056",
        "5 arrows",
    ):
        assert said in texts
    assert "L0 SEP←d1 −50.9, L0 SEP←d2 −41.0" in texts


def test_claims_as_text_keep_to_the_width(two_layer):
    text = report.claims_text(report.judge_claims({"two_layer": two_layer}), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "published" not in text.splitlines()[0] and "Three layers" not in text
    assert text.endswith("our models 9 hold, 2 hold only partly and 3 do not hold.")
    with_published = report.judge_claims({"two_layer": two_layer}, published_checkpoints())
    assert "published" in report.claims_text(with_published).splitlines()[0]
    assert {claim.model for claim in with_published} == {"two_layer", "three_layer"}


def test_published_numbers_stand_beside_the_same_architecture_only(two_layer):
    assert published_kind(two_layer) == "two_layer"
    assert published_grid(two_layer)["runs"] == 60
    answers = number_table(two_layer)[0].rows
    shown = [getattr(answers[0], source).text for source in ("ours", "checkpoint", "paper")]
    assert shown == [f"{x}\u00a0%" for x in ("91.45", "91.45", "92.2")]
    wholes = [(row.ours.of.amount, row.ours.of.noun) for row in answers[:2]]
    assert wholes == [(4000, "outputs"), (2000, "lists")]
    assert not number_table(two_layer)[1].has("beside")
    two_layer["config"]["use_bias"] = True
    assert published_kind(two_layer) is None
    assert published_grid(two_layer)["runs_above_0_9"] == 4
    assert number_table(two_layer)[0].rows[0].checkpoint == MISSING
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
    assert captions.training(once)[0].endswith("is 60.00\u00a0%, after 400 steps.")
    twice = report.read_history(write_log(tmp_path, *first, *second))
    assert [curve.label for curve in twice] == ["attempt 1", "attempt 2"]
    said = captions.training(twice)
    assert said[0].startswith("2 attempts at training were logged.")
    assert said[0].endswith("is 91.00\u00a0%, after 400 steps of attempt 2.")
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
    assert [curve["label"] for curve in results["history"]] == ["seed 3"]
    assert results["train"]["n_lists"] == 20 and results["validation_lists_seen"] is True
    assert "say what it can hold" in (tmp_path / "out" / "report.html").read_text()
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert "training_curves" in names and len(names) == 10
