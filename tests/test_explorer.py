"""The explorer's page, run in headless Chromium, against the model."""

import json
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orderscale_jax.explorer import explorer_html
from orderscale_jax.model import Interventions, ListTransformer, ModelConfig, keep_weights

N = 12
EXAMPLES = [[3, 8], [5, 5], [0, 11]]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --timeout=20000 --dump-dom"
).split()

# Runs in the page after the explorer: computes the given states, then uses it as a reader would.
# Any request that the page makes is refused and counts as an error of it.
PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Explorer</title>
<body>{}</body>
"""
SCRIPT = """
const states = STATES;
const root = document.querySelector(".orderscale-explorer");
const el = (name) => root.querySelector(`[data-el="${name}"]`);
const edge = (label) => root.querySelector(`[data-edge="${label}"]`);
const send = (node, type) => node.dispatchEvent(new Event(type, { bubbles: true }));
const type = (name, text) => { el(name).value = text; send(el(name), "input"); };
const slide = (name, value) => { el(name).value = value; send(el(name), "input"); };
const steps = {};
const note = (name) => {
  steps[name] = {
    words: Array.from(el("words").children, (p) => p.textContent),
    message: el("message").textContent,
    digits: ["0 0", "1 0"].map((node) => root.querySelector(`[data-node="${node}"] text`).textContent),
    said: ["3 2", "4 2"].map((node) => root.querySelector(`[data-node="${node}"] text`).textContent),
    weights: Array.from(root.querySelectorAll(".osx-weight"), (text) => text.textContent),
    sources: [el("alphaSource").textContent, el("betaSource").textContent],
    pressed: edge("L0 SEP<-d1").getAttribute("aria-pressed"),
  };
};
const failure = (state) => {
  try { window.orderscaleExplorer.compute(state); return null; } catch (error) { return error.message; }
};
note("opened");
type("d1", "7"); type("d2", " 2 "); note("typed");
edge("L0 SEP<-d1").dispatchEvent(new MouseEvent("click", { bubbles: true })); note("cut");
el("zero").click(); note("zero");
edge("L0 SEP<-d1").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
note("restored");
slide("alpha", "0.9"); note("slid alpha");
slide("beta", "0.25"); note("slid beta");
el("resetAlpha").click(); note("reset alpha");
el("swap").click(); note("swapped");
el("restore").click(); note("undone");
for (const [name, text] of [["too large", "12"], ["negative", "-1"], ["a word", "x<b>"], ["empty", ""]]) {
  type("d1", text); note(name);
}
slide("alpha", "0.5");
el("restore").click(); type("d1", "7"); note("mended");
root.querySelectorAll(".osx-example")[1].click(); note("second example");
el("wrong").click(); note("wrong list");
document.body.textContent = "";
const out = document.createElement("pre");
out.textContent = JSON.stringify({
  computed: states.map((state) => window.orderscaleExplorer.compute(state)),
  failures: {
    edge: failure({ digits: [1, 2], cuts: ["L0 d2<-d1"] }),
    mode: failure({ digits: [1, 2], mode: "half" }),
    digit: failure({ digits: [1, 12] }),
    short: failure({ digits: [1] }),
  },
  steps,
  errors: window.pageErrors,
});
document.body.append(out);
"""


UNTOUCHED = {"digits": [7, 2], "alpha": None, "beta": None, "cuts": [], "mode": "renormalize"}
TO_D1 = {"cuts": ["L0 SEP<-d1"]}
# The state that the script has reached where it takes each of these notes.
READER_STATES = {
    "typed": UNTOUCHED,
    "cut": UNTOUCHED | TO_D1,
    "zero": UNTOUCHED | TO_D1 | {"mode": "zero"},
    "restored": UNTOUCHED,
    "slid alpha": UNTOUCHED | {"alpha": [0.9, 0.1]},
    "slid beta": UNTOUCHED | {"alpha": [0.9, 0.1], "beta": [0.25, 0.75]},
    "reset alpha": UNTOUCHED | {"beta": [0.25, 0.75]},
    "swapped": UNTOUCHED | {"alpha": "swap", "beta": [0.25, 0.75]},
    "undone": UNTOUCHED,
}


@pytest.fixture(scope="module")
def model():
    """A small random model with weights large enough for attention to take sides."""
    config, random = ModelConfig(d_model=16, n_digits=N), np.random.default_rng(3)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0))))
    return nnx.merge(
        graphdef, jax.tree.map(lambda x: jnp.array(random.normal(0, 0.5, x.shape), x.dtype), state)
    )


@pytest.fixture(scope="module")
def states(model):
    """Random states of the explorer: lists, cuts, modes, alpha and beta as computed or given."""
    random = np.random.default_rng(0)
    edges = [model.config.graph.label(edge) for edge in model.config.graph.live_edges]

    def pair():
        return random.random(2).round(3).tolist()

    return [
        {
            "digits": random.integers(0, N, 2).tolist(),
            "alpha": [None, "swap", pair()][i % 3],
            "beta": [None, None, pair()][i % 5 % 3],
            "cuts": [edge for edge in edges if random.random() < [0.0, 0.3, 0.7][i % 4 % 3]],
            "mode": ["renormalize", "zero"][i // 2 % 2],
        }
        for i in range(60)
    ]


@pytest.fixture(scope="module")
def page(model, states, tmp_path_factory):
    """What the page computed and showed."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome on the path to run the page")
    folder = tmp_path_factory.mktemp("explorer")
    catcher = "<script>window.pageErrors = []; onerror = (message) => { pageErrors.push(message); };</script>"
    script = f"<script>{SCRIPT.replace('STATES', json.dumps(states))}</script>"
    html = PAGE.format(catcher + explorer_html(model, examples=EXAMPLES) + script)
    (folder / "page.html").write_text(html, "utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<pre>(.*)</pre>", dom, re.DOTALL)
    assert found, f"the page's script stopped: {dom[-600:]}"
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.fixture(scope="module")
def expected(model, states):
    """What the library says: {step or index of a state: (logits [2, V], patterns [L, T, T])}."""
    every = dict(enumerate(states)) | READER_STATES
    logits, patterns = map(np.array, in_the_model(model, list(every.values())))
    return dict(zip(every, zip(logits, patterns, strict=True), strict=True))


def in_the_model(model, states):
    """Logits [B, 2, V] and patterns [B, L, T, T] of the library for the explorer's states."""
    config = model.config
    by_label = {config.graph.label(edge): edge for edge in config.graph.edges}
    lists = np.array([state["digits"] for state in states])
    intact = np.array(jax.jit(lambda x: model(x, trace=True))(lists)[1].patterns[:, :, 0]).swapaxes(
        0, 1
    )  # [B, L, T, T]
    patterns, at = intact.copy(), np.zeros(intact.shape, bool)
    for i, state in enumerate(states):
        if state["alpha"]:
            own = intact[i, 0, 2, :2]
            patterns[i, 0, 2, :2] = own[::-1] if state["alpha"] == "swap" else state["alpha"]
            at[i, 0, 2, :2] = True
        if state["beta"]:
            patterns[i, 1, 4, 2:4] = state["beta"]
            at[i, 1, 4, 2:4] = True
    interventions = Interventions(
        keep=jnp.stack([keep_weights(config, [by_label[e] for e in s["cuts"]]) for s in states]),
        renormalize=jnp.array([s["mode"] == "renormalize" for s in states]),
        patterns=jnp.array(patterns)[:, :, None, None],
        patterns_at=jnp.array(at),
    )

    @jax.jit
    @jax.vmap
    def run(digits, intervention):
        logits, trace = model(digits[None], intervention, trace=True)
        return logits[0], trace.patterns[:, 0, 0]

    return run(jnp.array(lists), interventions)


def test_the_page_computes_what_the_model_computes(states, expected, page):
    logits, patterns = (np.stack(x) for x in zip(*(expected[i] for i in range(len(states))), strict=True))
    computed = page["computed"]
    for name, expected in (
        ("logits", logits),
        ("alpha", patterns[:, 0, 2, :2]),
        ("beta", patterns[:, 1, 4, 2:4]),
        ("gamma", patterns[:, 1, 3, 2]),
    ):
        np.testing.assert_allclose([c[name] for c in computed], expected, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal([c["predictions"] for c in computed], logits.argmax(-1))
    assert np.ptp(patterns[:, 0, 2, 0]) > 0.5, "these lists do not try the attention"


def test_the_drawn_edges_are_the_live_ones(model):
    html = explorer_html(model)
    live = {model.config.graph.label(edge) for edge in model.config.graph.live_edges}
    assert set(re.findall(r'edge: "([^"]+)"', html)) == live
    assert len(model.config.graph.edges) - len(live) == 8, "the caption speaks of eight other edges"


def test_a_reader_can_turn_every_knob(expected, page):
    steps = page["steps"]
    assert page["errors"] == []
    assert steps["opened"]["digits"] == ["3", "8"]
    names = {N: "MASK", N + 1: "SEP"}
    for step in READER_STATES:
        logits, patterns = expected[step]
        assert steps[step]["said"] == [names.get(x, str(x)) for x in logits.argmax(-1).tolist()], step
        weights = [*patterns[0, 2, :2], patterns[1, 3, 2], *patterns[1, 4, 2:4]]
        for text, weight in zip(steps[step]["weights"], weights, strict=True):
            shown = 0.0 if "cut" in text else float(text.split()[-1])
            assert shown == pytest.approx(weight, abs=1.01e-3), step
    assert [steps[s]["pressed"] for s in ("typed", "cut", "restored")] == ["false", "true", "false"]
    assert "SEP holds only d2 = 2" in steps["cut"]["words"][1]
    said = steps["typed"]["said"]
    assert f"Without your changes o1 says {said[0]} and o2 says {said[1]}." == steps["cut"]["words"][-1]
    assert steps["typed"]["sources"] == ["as the model computes it"] * 2
    assert steps["slid beta"]["sources"] == ["set by you"] * 2
    assert steps["swapped"]["sources"][0] == "the model's, swapped"
    assert steps["second example"]["digits"] == ["5", "5"]
    assert steps["wrong list"]["digits"] != steps["wrong list"]["said"]
    assert steps["wrong list"]["message"] == "", "nearly every list of a random model comes out wrong"


def test_bad_digits_get_a_clear_message_and_break_nothing(page):
    steps = page["steps"]
    sentence = "d1 must be a whole number from 0 to 11; "
    for step, got in (
        ("too large", "“12” is not."),
        ("negative", "“-1” is not."),
        ("a word", "“x<b>” is not."),
        ("empty", "it is empty."),
    ):
        assert steps[step]["message"] == sentence + got + " Below is still the list 7, 2."
        assert steps[step]["said"] == steps["undone"]["said"]
    assert steps["mended"]["message"] == ""
    assert steps["mended"]["words"] == steps["undone"]["words"]


def test_a_bad_state_is_refused_in_one_sentence(page):
    failures = page["failures"]
    assert "cannot reach an output; the edges that can: L0 SEP<-d1" in failures["edge"]
    assert "“renormalize” or “zero”" in failures["mode"]
    assert failures["digit"] == "d2 must be a whole number from 0 to 11; “12” is not."
    assert failures["short"] == "d2 must be a whole number from 0 to 11; it is empty."


def test_the_fragment_asks_the_network_for_nothing(model):
    assert not re.findall(
        r"https?:|\bsrc=|\bhref=|url\(|@import|\bimport\b|fetch\(|XMLHttpRequest|WebSocket",
        explorer_html(model),
    )


def test_the_fragment_is_one_section(model):
    html = explorer_html(model, examples=EXAMPLES).strip()
    assert html.startswith('<section class="orderscale-explorer"') and html.endswith("</section>")
    assert html.count("<section") == html.count("</section>") == 1
    style = html.split("<style>")[1].split("</style>")[0]
    selectors = re.findall(r"^([.:a-zA-Z][^{@]*)\{", style, re.MULTILINE)
    assert selectors and all(re.match(r"\.(orderscale-explorer|osx-)", s) for s in selectors)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ({"n_layers": 3}, "3 layers"),
        ({"list_len": 3}, "lists of 3 digits"),
        ({"n_heads": 2}, "2 heads"),
        ({"layer_norm": True}, "LayerNorm"),
        ({"bias": True, "mlp": True}, "biases and an MLP"),
        ({"learn_wv": True}, "a learned W_V"),
        ({"learn_wo": True}, "a learned W_O"),
    ],
)
def test_other_models_are_refused_with_the_reason(variant, reason):
    config = ModelConfig(**variant)
    # Refused before any weight is read: there are none.
    model = nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0)))
    with pytest.raises(
        ValueError, match=f"the explorer computes with the closed form.* this model has {reason}$"
    ):
        explorer_html(model)


def test_examples_must_be_lists_of_the_model(model):
    with pytest.raises(ValueError, match="digits must lie in 0 … 11"):
        explorer_html(model, examples=[[3, 12]])


def test_weights_must_be_finite(model):
    broken = nnx.merge(*nnx.split(model))
    broken.unembed.W_U = nnx.Param(np.full((16, N + 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        explorer_html(broken)
