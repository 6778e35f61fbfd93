"""The explorer in Python: its tables, states, film and HTML. `test_browser` runs the page itself."""

import base64
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orderscale_jax import load_pretrained
from orderscale_jax.analysis.observation import observe
from orderscale_jax.analysis.order import what_carries_order
from orderscale_jax.checkpoint import from_named_arrays
from orderscale_jax.circuits import circuit_table
from orderscale_jax.config import task_config, validation_lists_seen
from orderscale_jax.explorer import evaluate, explorer_html, film_model, page, why_no_explorer
from orderscale_jax.explorer.film import load_film, rounded
from orderscale_jax.explorer.tables import model_of, tables_of
from orderscale_jax.model import ListTransformer, ModelConfig, cut
from orderscale_jax.sae import SAEConfig, SparseAutoencoder, encode_lists, load_pretrained_sae, view_sep
from orderscale_jax.task import TaskConfig, make_split

N = 12


def random_model(**shape):
    """A small model with weights large enough for attention to take sides."""
    config, random = ModelConfig(d_model=16, n_digits=N, **shape), np.random.default_rng(3)
    model = nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    arrays = {".".join(map(str, path)): random.normal(0, 0.5, leaf.shape) for path, leaf in state}
    return from_named_arrays(config, arrays)


@pytest.fixture(scope="module", params=[2, 3])
def model(request):
    return random_model(n_layers=request.param)


@pytest.fixture(scope="module")
def lists():
    return np.indices((N, N)).reshape(2, -1).T


def test_tables_say_what_the_model_says(model, lists):
    same = model_of(tables_of(model))
    (logits, trace), (expected, of_model) = (x(lists, trace=True) for x in (same, model))
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    for layer, query in [(0, 2), (1, 4)] if model.config.n_layers == 2 else [(0, 2), (1, 2), (1, 4), (2, 4)]:
        theirs = of_model.patterns[layer, :, 0, query]
        np.testing.assert_allclose(trace.patterns[layer, :, 0, query], theirs, atol=1e-5)
    assert np.ptp(of_model.patterns[0, :, 0, 2, 0]) > 0.3, "these lists do not try the attention"


def test_tables_hold_no_more_rows_of_scores_than_are_needed(model):
    rows = [len(x) for x in tables_of(model).rows]
    assert rows == ([1, 1] if model.config.n_layers == 2 else [1, N + 4, N + 5])


def test_a_state_is_an_intervention(model, lists):
    edges = ["L0 SEP<-d1", "L1 o2<-o1"]
    for mode in ("renormalize", "zero"):
        found = evaluate({"cuts": edges, "mode": mode}, model, lists)
        expected = model(lists, cut(model.config, edges, renormalize=mode == "renormalize"))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(evaluate({}, model, lists), model(lists), atol=1e-5)
    assert evaluate({"list": [3, 5]}, model).shape == (1, 2, N + 2)


def test_weights_of_a_row_replace_its_pattern(model, lists):
    one = evaluate({"patterns": {"L1 o2": [0, 1]}}, model, lists)
    np.testing.assert_allclose(one, evaluate({"cuts": ["L1 o2<-SEP"]}, model, lists), atol=1e-5)
    both = {"digit_weights": [1, 0], "position_weights": [1, 0]}
    np.testing.assert_allclose(
        evaluate(both, model, lists), evaluate({"cuts": ["L0 SEP<-d2"]}, model, lists), atol=1e-5
    )


def test_weights_in_sep_do_what_the_analysis_of_order_does():
    """Shares of lists that come out reversed, from `what_carries_order`, which adds vectors to SEP."""
    model, _ = load_pretrained("two_layer")
    random = np.random.default_rng(0)
    lists = random.permutation(10_000)[:400]
    lists = np.stack([lists // 100, lists % 100], 1)
    lists = lists[lists[:, 0] != lists[:, 1]]
    order = what_carries_order(observe(model, lists))
    states = {
        "alphas": ("swap", "swap"),
        "positions": (None, "swap"),
        "embeddings": ("swap", None),
        "reversed_list": ("reversed", "reversed"),
        "positions_of_reversed": (None, "reversed"),
        "embeddings_of_reversed": ("reversed", None),
        "even_embeddings": ("even", None),
        "even_positions": (None, "even"),
    }
    for name, (digits, places) in states.items():
        said = evaluate({"digit_weights": digits, "position_weights": places}, model, lists).argmax(-1)
        found = [(said == lists[:, ::-1]).all(1).mean(), (said == lists).all(1).mean()]
        effect = order.exchange[name]
        np.testing.assert_allclose(found, [effect.reversed, effect.right], atol=0.003, err_msg=name)
    assert order.exchange["positions"].reversed > 0.7 > order.exchange["alphas"].reversed


def test_scaled_latents_stand_in_seps_place():
    """As the study of the SAE has it, which computes the outputs from SEP alone."""
    model, config = load_pretrained("two_layer")
    sae, _ = load_pretrained_sae("two_layer")
    encoded = encode_lists(sae, view_sep(model, task_config(config)))
    at = np.random.default_rng(0).permutation(10_000)[:300]
    lists, scales = encoded.view.lists[at], np.ones(sae.config.width)
    for latents in ({}, {"113": 2.5, 50: 0}):
        scales[[int(x) for x in latents]] = list(latents.values())
        expected = encoded.view.readout.logits(encoded.decode(encoded.latents[at] * scales))
        found = evaluate({"model": "two_layer", "latents": latents}, lists=lists)
        np.testing.assert_allclose(found, expected, atol=2e-3)
        np.testing.assert_array_equal(evaluate({"latents": latents}, model, lists, sae=sae), found)
    # What a cut does to SEP comes first, and is what is encoded.
    cut_off = evaluate({"latents": {}, "cuts": ["L0 SEP<-d1"]}, model, lists, sae=sae)
    weights = {"digit_weights": [0, 1], "position_weights": [0, 1]}
    np.testing.assert_allclose(evaluate({"latents": {}} | weights, model, lists, sae=sae), cut_off, atol=1e-3)
    assert np.abs(cut_off - found).max() > 1


def random_sae(d_model=16):
    return SparseAutoencoder(SAEConfig(family="l1", width=8), d_model, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("latents", "sentence"),
    [
        ([3], "latents must be a Mapping, got list"),
        ({8: 1}, "there is no latent 8; there are 0 to 7"),
        ({"x": 1}, "there is no latent 'x'; there are 0 to 7"),
        ({True: 1}, "there is no latent True; there are 0 to 7"),
        ({"9" * 5000: 1}, "there is no latent '999"),
        ({3: 1, "3": 2}, "latents has latent 3 twice"),
        ({3: 10.5}, "the scale of latent 3 must be a number from 0 to 10, got 10.5"),
        ({3: float("nan")}, "the scale of latent 3 must be a number from 0 to 10, got nan"),
        ({3: "1"}, "the scale of latent 3 must be a number from 0 to 10, got '1'"),
    ],
)
def test_bad_latents_are_refused_in_one_sentence(latents, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        evaluate({"list": [0, 1], "latents": latents}, random_model(), sae=random_sae())


def test_latents_need_an_sae_of_the_model():
    state = {"list": [0, 1], "latents": {}}
    for asked, sentence in (
        (lambda: evaluate(state, random_model()), "give the SAE that they are of as `sae`"),
        (lambda: evaluate(state, random_model(), sae=5), "sae must be a SparseAutoencoder, got int"),
        (
            lambda: evaluate(state, random_model(), sae=random_sae(9)),
            "residuals of width 9, and the model has 16",
        ),
        (lambda: evaluate(state, random_model(n_layers=3), sae=random_sae()), "where two equations describe"),
        (lambda: evaluate({**state, "model": "three_layer"}), "no SAE of 'three_layer' is shipped"),
        (
            lambda: evaluate({**state, "model": "two_layer", "step": 5300}),
            "leave out the latents, or the step",
        ),
        (lambda: explorer_html(random_model(), sae=5), "sae must be a SparseAutoencoder, got int"),
        (
            lambda: explorer_html(random_model(), sae=random_sae(9)),
            "residuals of width 9, and the model has 16",
        ),
        (lambda: explorer_html(random_model(n_layers=3), sae=random_sae()), "where two equations describe"),
        (
            lambda: explorer_html(random_model(), sae=random_sae(), sae_checkpoint=5),
            "sae_checkpoint must be a str",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            asked()


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"digits": [1, 2]}, "a state has no 'digits'; it has model, step, list"),
        ({"list": [1, 12]}, "digits must lie in 0 … 11"),
        ({"cuts": ["L0 d9<-d1"]}, "edge 'L0 d9<-d1' does not exist"),
        ({"mode": "half"}, "the mode of a cut is renormalize or zero, got 'half'"),
        (
            {"digit_weights": "swop"},
            "digit_weights is two numbers or one of swap, reversed, even, got 'swop'",
        ),
        ({"position_weights": [1]}, "position_weights must be two numbers from 0 to 100, got [1]"),
        ({"position_weights": [1, -1]}, "position_weights must be two numbers from 0 to 100"),
        ({"digit_weights": ["0.5", "0.5"]}, "digit_weights must be two numbers from 0 to 100"),
        ({"digit_weights": [True, False]}, "digit_weights must be two numbers from 0 to 100"),
        ({"digit_weights": [10**400, 1]}, "digit_weights must be two numbers from 0 to 100"),
        ({"digit_weights": [float("nan"), 1]}, "digit_weights must be two numbers from 0 to 100"),
        ({"mode": ["zero"]}, "the mode of a cut is renormalize or zero, got ['zero']"),
        ({"patterns": {"L0 SEP": [1, 0]}}, "patterns has no row 'L0 SEP': set digit_weights and"),
        ({"patterns": {"L1 o2": [1, "x"]}}, "must be two numbers from 0 to 100"),
    ],
)
def test_a_bad_state_is_refused_in_one_sentence(state, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        evaluate({"list": [0, 1]} | state, random_model())


def test_a_state_names_its_model():
    said = evaluate({"model": "three_layer", "list": [37, 52]}).argmax(-1)
    assert said.tolist() == [[37, 52]]
    with pytest.raises(ValueError, match="no shipped model is called 'mine'"):
        evaluate({"model": "mine"})
    with pytest.raises(ValueError, match="three_layer has no step 5000"):
        evaluate({"model": "three_layer", "step": 5000})


def test_the_film_is_of_the_transition():
    film = load_film()
    assert 35 <= len(film.steps) <= 45 and (np.diff(film.steps) > 0).all() and film.steps[0] == 0
    assert film.accuracy[0] < 0.03 and film.accuracy[-1] > 0.92
    late = film.steps > 2_000
    between = late & (film.accuracy > 0.45) & (film.accuracy < 0.88)
    assert between.sum() >= 12, "a third of the film is the transition"
    assert (film.accuracy[late & (film.steps < 4_900)] < 0.45).all()
    assert film.changed.max() <= 200, "rounding changes two lists in a hundred at most"


def test_a_frame_says_what_the_run_said():
    """Accuracy on validation lists, as training measured it, but for rounding."""
    film, lists = load_film(), make_split(TaskConfig()).validation
    at = int(np.argmax(film.steps == 5_600))
    model = film_model(5_600)
    assert film.tables(at).logits.shape == (105, 102)
    right = (np.asarray(model(lists)).argmax(-1) == lists).mean()
    assert right == pytest.approx(film.accuracy[at], abs=0.002)
    state = {"model": "two_layer", "step": 5_600, "list": [37, 52]}
    np.testing.assert_array_equal(evaluate(state), np.asarray(model([[37, 52]])))
    with pytest.raises(ValueError, match="of step 5600 of a film: leave out the model, or the step"):
        evaluate(state, load_pretrained("two_layer")[0])
    for step in (5_601, [0], True, film.steps):
        with pytest.raises(ValueError, match=r"(?s)the film has no step .*; it has 0, 100"):
            film_model(step)


def test_rounding_is_to_twelve_bits():
    logits = np.random.default_rng(0).normal(0, 10, (7, 9)) + 100
    codes, unit = rounded(logits)
    assert codes.min() >= -2047 and codes.max() <= 2047
    np.testing.assert_allclose(codes * unit[:, None], logits - logits.mean(1, keepdims=True), atol=unit.max())
    assert (rounded(np.zeros((2, 3)))[0] == 0).all()


@pytest.fixture(scope="module")
def committed():
    """docs/index.html, and the data in it."""
    html = (Path(__file__).parents[1] / "docs" / "index.html").read_text("utf-8")
    return html, page_data(html)


def test_the_page_in_docs_is_of_this_version(committed):
    html, data = committed
    again = "orderscale explore --open=false --output=docs/index.html makes it anew"
    assert len(html.encode()) < 1_600_000
    parts = [page._resource(name) for name in (*page.SCRIPTS, "explorer.css", "page.css")]
    for template in ("explorer.html", "page.html"):
        parts += re.split(r"\$\w+", page._resource(template))
    for part in parts:
        assert part in html, again
    assert [entry["name"] for entry in data["models"]] == list(page.ABOUT)
    for entry in data["models"]:
        model, config = load_pretrained(entry["name"])
        validation = make_split(task_config(config)).validation
        unseen = None if validation_lists_seen(config) else validation
        shown = page.PageModel(entry["name"], page.ABOUT[entry["name"]], model, unseen)
        if entry["n_layers"] == 2:  # of three it takes seconds
            shown = page.page_model(model, config, entry["name"])
        fresh = page._entry(shown)
        assert fresh.keys() == entry.keys()
        for key in set(fresh) - {"logits", "scores", "sae"} - (set() if shown.circuits else {"circuits"}):
            assert entry[key] == fresh[key], again
        assert [x["rows"] for x in entry["scores"]] == [x["rows"] for x in fresh["scores"]]
        for ours, theirs in zip(numbers(entry), numbers(fresh), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=again)
        if sae := fresh["sae"]:
            told = set(sae) - set(SAE_TABLES) - {"correlations"}
            assert [entry["sae"][key] for key in told] == [sae[key] for key in told], again
            np.testing.assert_allclose(entry["sae"]["correlations"], sae["correlations"], atol=2e-3)
    assert [entry["name"] for entry in data["models"] if entry["sae"]] == ["two_layer"]
    assert data["film"] == page._film()


SAE_TABLES = ("encoder", "thresholds", "decoder", "keys")


def numbers(entry):
    of_sae = [entry["sae"][key] for key in SAE_TABLES] if entry["sae"] else []
    for coded in (entry["logits"], *(x["values"] for x in entry["scores"]), *of_sae):
        yield np.frombuffer(base64.b64decode(coded), "<f4")


def test_scripts_use_only_what_stands_before_them():
    """By name, of functions and constants."""
    texts = {name: re.sub(r"//.*", "", page._resource(name)) for name in page.SCRIPTS}
    defined = {}
    for name, text in texts.items():
        found = re.findall(
            r"^(?:async )?(?:function (\w+)|const ([A-Z_]\w*|\w+(?= = \()))", text, re.MULTILINE
        )
        defined |= {function or constant: name for function, constant in found}
    assert len(defined) > 60 and defined["makeTour"] == "tour.js" and defined["weightText"] == "format.js"
    for i, name in enumerate(page.SCRIPTS):
        later = {x for x, where in defined.items() if where in page.SCRIPTS[i + 1 :]}
        called = set(re.findall(r"(?<![\w.$])\w+(?=\()|(?<![\w.$])[A-Z][A-Z_]+\b", texts[name]))
        own = r"(?:const|function|let) {0}\b|[(,] ?{0}[,)].*(?:[{]|=>)$|^ +{0}\(.*[{]$"  # a name of its own
        used = {x for x in later & called if not re.search(own.replace("{0}", x), texts[name], re.MULTILINE)}
        assert not used, f"{name} uses {used}"


def page_data(html):
    return json.loads(re.search(r'data-el="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_section_asks_the_network_for_nothing(model):
    html = explorer_html(model).replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?:|\bsrc=|url\(|@import|\bimport\(|fetch\(|XMLHttpRequest|WebSocket", html)


def test_the_section_is_one(model):
    html = explorer_html(model, name="<b>&").strip()
    assert html.startswith('<section class="orderscale-explorer"') and html.endswith("</section>")
    assert html.count("<section") == html.count("</section>") == 1
    style = html.split("<style>")[1].split("</style>")[0]
    selectors = re.findall(r"^([.:a-zA-Z][^{@]*)\{", style, re.MULTILINE)
    assert selectors and all(re.match(r"(:is\()?\.(orderscale-explorer|osx-)", s.strip()) for s in selectors)
    (entry,) = page_data(html)["models"]
    assert entry["name"] == "<b>&"
    assert entry["edges"] == [model.config.graph.label(edge) for edge in model.config.graph.live_edges]


def test_circuits_must_be_of_the_model(model, lists):
    tables = {mode: circuit_table(model, lists, mode) for mode in ("renormalize", "zero")}
    circuits = page_data(explorer_html(model, circuits=tables))["models"][0]["circuits"]
    assert circuits["zero"]["outputs"] == 2 * N**2 and circuits["zero"]["minimal"]
    other = random_model(n_layers=5 - model.config.n_layers)
    for wrong in (tables | {"zero": None}, {}):
        with pytest.raises(ValueError, match="circuits must hold circuit_table"):
            explorer_html(model, circuits=wrong)
    with pytest.raises(ValueError, match="of this very model"):
        explorer_html(other, circuits=tables)
    for wrong in (5, "zero", {"zero": 5, "renormalize": 6}):
        with pytest.raises(ValueError, match="circuits must"):
            explorer_html(model, circuits=wrong)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ({"n_layers": 4}, "4 layers"),
        ({"n_layers": 1}, "1 layer"),
        ({"list_len": 3}, "lists of 3 digits"),
        ({"n_heads": 2}, "2 heads"),
        ({"layer_norm": True}, "LayerNorm"),
        ({"bias": True, "mlp": True}, "biases and an MLP"),
        ({"n_digits": 200}, "200 digits"),
    ],
)
def test_other_models_are_refused_with_the_reason(variant, reason):
    # Refused before any weight is read: there are none.
    model = nnx.eval_shape(lambda: ListTransformer(ModelConfig(**variant), rngs=nnx.Rngs(0)))
    with pytest.raises(
        ValueError, match=f"the explorer shows models of two or three.*this model has {reason}$"
    ):
        explorer_html(model)


def test_validation_lists_must_be_lists_of_the_model(model):
    with pytest.raises(ValueError, match="digits must lie in 0 … 11"):
        explorer_html(model, validation=[[3, 12]])
    with pytest.raises(ValueError, match="validation must hold lists"):
        explorer_html(model, validation=np.zeros((0, 2), int))


def test_other_arguments_are_checked(model):
    for arguments, sentence in (
        ({"name": b"x"}, "name must be a str, got bytes"),
        ({"name": None}, "name must be a str"),
        ({"name": "\udcff"}, "name must be text that can be written"),
        ({"address": "no"}, "address must be a bool"),
        ({"checkpoint": 5}, "checkpoint must be a str"),
    ):
        with pytest.raises(ValueError, match=sentence):
            explorer_html(model, **arguments)
    shipped, _ = load_pretrained("two_layer")
    with pytest.raises(ValueError, match="config is not that of the model"):
        page.page_model(shipped, load_pretrained("three_layer")[1], "x")


def test_weights_must_be_finite(model):
    broken = nnx.merge(*nnx.split(model))
    broken.unembed.W_U = nnx.Param(jnp.full((16, N + 2), jnp.nan))
    assert "not finite" in why_no_explorer(broken)
    for use in (explorer_html, lambda x: evaluate({"list": [3, 4]}, x)):
        with pytest.raises(ValueError, match="not finite"):
            use(broken)
