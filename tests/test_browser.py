"""The page of the explorer in Chromium, used as a reader would: by mouse, keyboard and address."""

import base64
import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread

from orderscale_jax import load_pretrained
from orderscale_jax.circuits import circuit_table
from orderscale_jax.config import task_config
from orderscale_jax.explorer import evaluate, explorer_html, film_model, page
from orderscale_jax.explorer.film import load_film
from orderscale_jax.model import ListTransformer, ModelConfig
from orderscale_jax.sae import (
    SAEConfig,
    SparseAutoencoder,
    encode_lists,
    load_pretrained_sae,
    reversal_regions,
    steer,
    view_sep,
)
from orderscale_jax.task import TaskConfig, make_split

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

PAGE = Path(__file__).parents[1] / "docs" / "index.html"
MODELS = ("two_layer", "two_layer_published", "two_layer_fresh", "three_layer")
TABS = ("tour", "weights", "outputs", "latents", "circuits", "share")
UNTOUCHED = {
    "cuts": [],
    "mode": "renormalize",
    "digit_weights": None,
    "position_weights": None,
    "patterns": {},
    "latents": None,
}


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, or Playwright's own."""
    with sync_api.sync_playwright() as playwright:
        path = CHROMIUM or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("needs Chromium or Chrome on the path, or `playwright install chromium`")
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Opens the page at a fragment; at the end nothing may have gone wrong in it, nor left it."""
    contexts, problems = [], []

    def opened(fragment="", width=1280, height=900, url=None, **look):
        url = PAGE.as_uri() if url is None else url
        context = browser.new_context(viewport={"width": width, "height": height}, **look)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab = context.new_page()
        tab.on(
            "console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None
        )
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda asked: problems.append(asked.url) if not allowed(asked.url, url) else None)
        tab.goto(url + fragment)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def allowed(asked: str, url: str) -> bool:
    return asked.split("#")[0] == url or asked.startswith("data:")


def js(tab, expression, *arguments):
    """The value of `(e) => …` or `(e, given) => …`, where e is the explorer."""
    return tab.evaluate(
        f"(given) => ({expression})(document.querySelector('.orderscale-explorer').explorer, given)",
        *arguments,
    )


def el(tab, name):
    return tab.locator(f'[data-el="{name}"]')


def until(tab, holds):
    """Waits for up to ten seconds; the page allows no code from strings, so it cannot wait itself."""
    for _ in range(200):
        if holds():
            return
        tab.wait_for_timeout(50)
    raise AssertionError("it never came to hold")


def state_of(tab):
    return js(tab, "(e) => e.state()")


def edge(tab, label):
    return tab.locator(f'[data-edge="{label}"]')


def said(tab):
    return [
        int(x.text_content())
        for x in tab.locator("[data-node^='3 '] text, [data-node^='4 '] text").all()[-2:]
    ]


# ---- what it computes --------------------------------------------------------------------------
def random_states(name, count, seed):
    model, _ = load_pretrained(name)
    graph, random = model.config.graph, np.random.default_rng(seed)
    edges = [graph.label(x) for x in graph.live_edges]
    rows = ["L1 o2"] if graph.n_layers == 2 else ["L1 SEP", "L1 o2", "L2 o2"]

    def pair():
        return random.random(2).round(3).tolist()

    return [
        {
            "cuts": [x for x in edges if random.random() < [0, 0.15, 0.4][i % 3]],
            "mode": ["renormalize", "zero"][i // 2 % 2],
            "digit_weights": [None, "swap", "reversed", "even", pair()][i % 5],
            "position_weights": [pair(), None, "swap", None, "reversed", "even"][i % 6],
            "patterns": {row: pair() for row in rows if random.random() < 0.3},
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(("name", "step"), [("two_layer", None), ("three_layer", None), ("two_layer", 5_300)])
def test_the_page_computes_what_the_library_computes(open_page, name, step):
    """Logits of 200 lists under random states, 50 in all."""
    tab = open_page()
    model = load_pretrained(name)[0] if step is None else film_model(step)
    states = random_states(name, {"three_layer": 20}.get(name, 15), 7)
    lists = np.random.default_rng(1).integers(0, 100, (200, 2))
    compare = """(e, { states, lists, expected, more }) => {
      const of = new Float32Array(Uint8Array.from(atob(expected), (x) => x.charCodeAt(0)).buffer);
      let at = 0, most = 0;
      for (const state of states) for (const list of lists)
        for (const row of e.compute({ ...state, ...more, list }).logits)
          for (const logit of row) most = Math.max(most, Math.abs(logit - of[at++]));
      return { at, most };
    }"""
    logits = np.stack([evaluate(state, model, lists) for state in states])
    given = {
        "states": states,
        "lists": lists.tolist(),
        "expected": base64.b64encode(logits.astype("<f4").tobytes()).decode(),
        "more": {"model": name, "step": step},
    }
    found = js(tab, compare, given)
    assert found["at"] == logits.size
    assert found["most"] < 1e-3, found
    for state, of in zip(states[:5], logits, strict=False):
        expected = outcomes_of(of.argmax(-1), lists)
        outcomes = js(
            tab, "(e, given) => e.outcomes(given)", {**state, "model": name, "step": step, "list": [0, 0]}
        )
        np.testing.assert_array_equal(np.array(outcomes)[lists @ (100, 1)], expected)


@pytest.fixture(scope="module")
def encoded():
    """The shipped SAE and all lists."""
    model, config = load_pretrained("two_layer")
    return encode_lists(load_pretrained_sae("two_layer")[0], view_sep(model, task_config(config)))


def test_the_page_scales_latents_as_the_library_does(open_page, encoded):
    """Logits of 40 lists under random states with scaled latents, and what becomes of all lists."""
    tab, random = open_page(), np.random.default_rng(5)
    lists, frequent = random.integers(0, 100, (40, 2)), np.argsort(encoded.firing)[-100:]
    states = random_states("two_layer", 12, 11)
    for state in states:
        chosen = {113, *random.choice(frequent, 6).tolist()}
        state["latents"] = {str(x): round(random.uniform(0, 6), 2) for x in chosen}
    states[0]["latents"] = {}
    compare = """(e, { states, lists }) => states.map((state) => lists.map((list) => {
      return e.compute({ ...state, model: "two_layer", list }).logits;
    }))"""
    found = np.array(js(tab, compare, {"states": states, "lists": lists.tolist()}))
    expected = np.stack([evaluate({"model": "two_layer"} | state, lists=lists) for state in states])
    assert np.abs(found - expected).max() < 1e-3
    of_sep = evaluate({"model": "two_layer"} | states[1] | {"latents": None}, lists=lists)
    assert np.abs(found[1] - of_sep).max() > 1, "these states do not try the latents"
    scales = np.ones(encoded.config.width)
    scales[113] = 3.5
    view = encoded.view
    answers = view.readout.answers(encoded.decode(encoded.latents * scales))
    outcomes = js(tab, "(e) => e.outcomes({ model: 'two_layer', latents: { 113: 3.5 } })")
    np.testing.assert_array_equal(outcomes, outcomes_of(answers, view.lists))


def outcomes_of(answers, lists):
    right, turned = ((answers == x) for x in (lists, lists[:, ::-1]))
    return np.select([right.all(1), turned.all(1), right.any(1)], [0, 1, 2], 3)


FAMILY_THRESHOLDS = {
    "batch_topk": 0.4,
    "topk": -1,
    "matryoshka": 0.4,
    "jumprelu": None,
    "l1": -1,
    "binary": 0.4,
}


def test_latents_of_every_family(open_page, tmp_path):
    """Small models with SAEs whose weights are random, a section for each."""
    model = ListTransformer(ModelConfig(n_digits=12, d_model=16), rngs=nnx.Rngs(0))
    model.embed.W_E[...] *= 3
    random, sections, expected = np.random.default_rng(0), [], []
    lists = np.indices((12, 12)).reshape(2, -1).T[::5]
    for seed, (family, threshold) in enumerate(FAMILY_THRESHOLDS.items()):
        sae = SparseAutoencoder(SAEConfig(family=family, width=24), 16, rngs=nnx.Rngs(seed))
        sae.b_enc[...] = random.normal(0, 0.3, 24)
        sae.b_dec[...] = random.normal(0, 0.3, 16)
        sae.act_mean[...] = random.normal(0, 0.3, 16)
        sae.threshold[...] = random.uniform(-0.5, 0.9, 24) if threshold is None else threshold
        sections.append(explorer_html(model, sae=sae))
        expected.append(evaluate({"latents": {"3": 4, 5: 0}}, model, lists, sae=sae))
    html = f'<!doctype html><html lang="en"><title>x</title><body>{"".join(sections)}</body></html>'
    (tmp_path / "page.html").write_text(html, "utf-8")
    tab = open_page(url=(tmp_path / "page.html").as_uri())
    found = tab.evaluate(
        """(lists) => Array.from(document.querySelectorAll(".orderscale-explorer"), ({ explorer }) =>
          lists.map((list) => explorer.compute({ list, latents: { 3: 4, 5: 0 } }).logits))""",
        lists.tolist(),
    )
    for family, ours, theirs in zip(FAMILY_THRESHOLDS, found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=family)
    assert len({round(float(x.sum()), 3) for x in expected}) == len(expected)


def test_a_track_shows_where_a_list_is_reversed(open_page, encoded):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=latents")
    view, alone = encoded.view, steer(encoded, 113).regions
    reversed_, not_ = np.flatnonzero(alone.exists), np.flatnonzero(~alone.exists)
    for at in (*reversed_[:: len(reversed_) // 6], *not_[:: len(not_) // 3]):
        js(tab, "(e, list) => e.change({ list })", view.lists[at].tolist())
        track = el(tab, "slider latent 113").evaluate("(x) => x.style.getPropertyValue('--osx-parts')")
        ends = [10 * float(x) for x in re.findall(r"map-1\) calc\([^*]*\* ([\d.]+)\)", track)]
        np.testing.assert_allclose(ends, intervals_of(alone, at).ravel(), atol=1e-4)
        sentence = el(tab, "slider latent 113").locator("xpath=..").inner_text()
        assert ("Comes out reversed from" in sentence) == bool(ends)
    # All latents that are on, while one more is scaled, and weights that the reader gives.
    some = np.random.default_rng(2).permutation(10_000)[:150]
    other = np.ones(encoded.config.width)
    other[113] = 2
    rows, latents = np.nonzero((encoded.latents[some] > 0) & (other == 1))
    pairs = some[rows]
    vectors = encoded.latents[pairs, latents, None] * encoded.decoder[latents]
    bases = encoded.decode(encoded.latents[pairs] * other) - vectors
    regions = reversal_regions(view.readout, view.lists[pairs], bases, vectors)
    reversals = """(e, pairs) => pairs.map(([list, latent]) =>
      e.reversals({ model: "two_layer", list, latents: { 113: 2 } }, latent))"""
    asked = [[view.lists[at].tolist(), int(latent)] for at, latent in zip(pairs, latents, strict=True)]
    for at, intervals in enumerate(js(tab, reversals, asked)):
        found = np.array(intervals).reshape(-1, 2)
        np.testing.assert_allclose(found, intervals_of(regions, at), atol=1e-3)
    for change in (
        {"patterns": {"L1 o2": [0.7, 0.3]}},
        {"cuts": ["L1 o2<-o1"], "mode": "zero"},
        {"digit_weights": "swap"},
    ):
        state = {"model": "two_layer", "list": [26, 1], **change}
        intervals = js(tab, "(e, given) => e.reversals(given, 113)", state)
        scales = np.linspace(0.013, 9.987, 200)
        latents = [{**state, "latents": {"113": x}} for x in scales]
        outcomes = js(tab, "(e, given) => given.map((x) => e.compute(x).outcome)", latents)
        inside = np.any([(scales > a) & (scales < b) for a, b in intervals] or [scales < 0], axis=0)
        np.testing.assert_array_equal(np.array(outcomes) == 1, inside)


def intervals_of(regions, at):
    both = np.stack([regions.starts[at], regions.ends[at]], 1)
    return both[np.isfinite(both[:, 0])]


def test_circuits_are_those_of_the_library(open_page):
    tab = open_page("#explorer?model=two_layer&list=1,2&cut=L1.o2.o1&tab=circuits")
    table = circuit_table(load_pretrained("two_layer")[0], make_split(TaskConfig()).validation)
    kept = sum(1 << i for i, edge in enumerate(table.edges) if table.graph.label(edge) != "L1 o2<-o1")
    text = el(tab, "circuits").inner_text()
    assert f"With these 4 of 5 edges {100 * table.values()[kept]:.2f} % of 4,000 validation outputs" in text
    assert "To the nearest minimal circuit: restore L1 o2←o1." in text
    el(tab, "tab weights").click()
    assert el(tab, "cutNote").inner_text().startswith("With these 4 of 5 edges")
    el(tab, "tab circuits").click()
    el(tab, "circuits").get_by_role("button").click()
    assert el(tab, "cutNote").inner_text() == ""
    assert state_of(tab)["cuts"] == [] and "This is a minimal circuit" in el(tab, "circuits").inner_text()


# ---- what a reader does ------------------------------------------------------------------------
def test_every_control_by_mouse(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=weights")
    edge(tab, "L1 o2<-o1").locator("text").click()
    assert state_of(tab)["cuts"] == ["L1 o2<-o1"]
    el(tab, "zero").check()
    assert state_of(tab)["mode"] == "zero"
    edge(tab, "L1 o2<-o1").locator("text").click()
    assert state_of(tab)["cuts"] == []
    el(tab, "renormalize").check()
    for part, keys in {
        "both": ("digit_weights", "position_weights"),
        "digits": ("digit_weights",),
        "positions": ("position_weights",),
    }.items():
        for choice in ("swap", "reversed", "even", "null"):
            el(tab, f"select {part}").select_option(choice)
            assert [state_of(tab)[key] for key in keys] == [None if choice == "null" else choice] * len(keys)
        el(tab, f"slider {part}").fill("0.25")
        assert [state_of(tab)[key] for key in keys] == [[0.25, 0.75]] * len(keys)
        el(tab, f"select {part}").select_option("null")
    el(tab, "slider L1 o2").fill("0.4")
    assert state_of(tab)["patterns"] == {"L1 o2": [0.4, 0.6]}
    el(tab, "select L1 o2").select_option("null")
    assert {k: state_of(tab)[k] for k in UNTOUCHED} == UNTOUCHED
    el(tab, "reverse").click()
    assert state_of(tab)["list"] == [1, 26]
    box = el(tab, "map").bounding_box()
    tab.mouse.click(box["x"] + 0.305 * box["width"], box["y"] + 0.705 * box["height"])
    assert state_of(tab)["list"] == [70, 30] and el(tab, "d1").input_value() == "70"
    el(tab, "wrong").click()
    wrong = state_of(tab)
    assert said(tab) != wrong["list"] and "right." not in tab.locator(".osx-lead").first.inner_text()
    el(tab, "random").click()
    assert el(tab, "d2").input_value() == str(state_of(tab)["list"][1])
    el(tab, "undo").click()
    assert state_of(tab) == wrong
    el(tab, "redo").click()
    assert state_of(tab) != wrong
    el(tab, "model").select_option("three_layer")
    assert tab.locator("[data-edge]").count() == 12 and el(tab, "film").is_hidden()
    el(tab, "model").select_option("two_layer")
    el(tab, "filmStep").fill("0")
    assert state_of(tab)["step"] == 0
    el(tab, "filmPlay").click()
    until(tab, lambda: state_of(tab)["step"] > 100)
    el(tab, "filmPlay").click()
    stopped = state_of(tab)["step"]
    tab.wait_for_timeout(400)
    assert state_of(tab)["step"] == stopped
    el(tab, "restore").click()
    assert state_of(tab)["step"] is None
    for name in TABS:
        el(tab, f"tab {name}").click()
        assert el(tab, f"panel {name}").is_visible() and state_of(tab)["tab"] == name


def test_latents_by_mouse_and_keyboard(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=latents")

    def latents():
        return state_of(tab)["latents"]

    rows = el(tab, "saeRows").locator("tr")
    assert latents() is None and not el(tab, "sae").is_checked() and rows.count() == 2
    assert rows.all_inner_texts()[0].split()[-1] == "right"
    el(tab, "sae").check()
    assert latents() == {} and tab.locator("[data-node='2 1'] text").text_content() == "SAE"
    el(tab, "undo").click()
    assert latents() is None and not el(tab, "sae").is_checked()
    slider = el(tab, "slider latent 113")
    slider.fill("3.5")
    assert latents() == {"113": 3.5} and said(tab) == [1, 26] and rows.count() == 3
    assert rows.all_inner_texts()[2].split()[-1] == "reversed"
    assert slider.get_attribute("aria-valuetext") == "3.50 times, reversed"
    assert "latent 113 at 3.5 times its size" in el(tab, "words").inner_text()
    slider.focus()
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    assert (
        latents() == {"113": 3.65}
        and tab.evaluate("document.activeElement.dataset.el") == "slider latent 113"
    )
    given = json.loads(js(tab, "(e) => JSON.stringify(e.state())"))
    counts = el(tab, "mapRows").locator("tr").nth(1).inner_text()
    outcomes = js(tab, "(e) => e.outcomes(e.state())")
    assert f"{outcomes.count(1):,}" in counts and 0 < outcomes.count(1) < 10_000
    el(tab, "tab share").click()
    assert json.loads(el(tab, "json").input_value())["latents"] == given["latents"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(el(tab, "python").input_value(), {})
    assert [int(x) for x in re.findall(r"\d+", printed.getvalue())] == said(tab)
    el(tab, "tab latents").click()
    slider.fill("1")
    assert latents() == {}
    tab.get_by_label("Reverse the list by latent 113").click()
    assert said(tab) == [1, 26] and 2.68 < latents()["113"] < 3.79
    js(tab, "(e) => e.change({ list: [0, 1] })")
    assert "Off in this list" in slider.locator("xpath=..").inner_text()
    assert tab.get_by_label("Reverse the list by latent 113").is_disabled()
    js(tab, "(e) => e.change({ list: [8, 8] })")
    assert "nothing to reverse" in el(tab, "latentsRows").inner_text()
    el(tab, "filmStep").fill("3")
    assert latents() is None and state_of(tab)["step"] is not None
    assert el(tab, "latentsWhy").inner_text().startswith("The autoencoder is of the trained model")
    el(tab, "latentsOther").click()
    assert state_of(tab)["step"] is None and el(tab, "latentsBody").is_visible()
    slider.fill("0")
    el(tab, "model").select_option("two_layer_fresh")
    assert latents() is None
    assert el(tab, "latentsWhy").inner_text() == "This page holds no autoencoder of two_layer_fresh."
    el(tab, "undo").click()
    assert latents() == {"113": 0} and el(tab, "latentsBody").is_visible()
    el(tab, "restore").click()
    assert latents() is None


def test_every_control_by_keyboard(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&positions=even&tab=weights")
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate("document.activeElement.dataset.el ?? document.activeElement.dataset.edge ?? ''")
        )
    wanted = {
        *("model", "restore", "filmPlay", "filmStep", "d1", "d2", "reverse", "random", "wrong", "map"),
        *("L0 SEP<-d1", "L0 SEP<-d2", "L1 o1<-SEP", "L1 o2<-SEP", "L1 o2<-o1", "tab weights"),
        *(
            f"{kind} {part}"
            for kind in ("slider", "select")
            for part in ("both", "digits", "positions", "L1 o2")
        ),
    }
    assert wanted - reached == set()
    el(tab, "restore").focus()
    tab.keyboard.press("Enter")
    assert state_of(tab)["position_weights"] is None
    edge(tab, "L0 SEP<-d1").focus()
    tab.keyboard.press("Enter")
    assert state_of(tab)["cuts"] == ["L0 SEP<-d1"]
    assert edge(tab, "L0 SEP<-d1").get_attribute("aria-pressed") == "true"
    tab.keyboard.press("Space")
    assert state_of(tab)["cuts"] == []
    el(tab, "map").focus()
    for key in ("ArrowDown", "ArrowRight", "Shift+ArrowDown", "ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
    assert state_of(tab)["list"] == [36, 1]
    el(tab, "slider positions").focus()
    tab.keyboard.press("ArrowRight")
    first, second = state_of(tab)["position_weights"]
    assert first + second == 1 and state_of(tab)["digit_weights"] is None
    valued = el(tab, "slider positions").get_attribute("aria-valuetext")
    assert valued == f"P₁ {first:.3f}, P₂ {second:.3f}"
    tab.keyboard.press("Control+z")
    assert state_of(tab)["position_weights"] is None
    tab.keyboard.press("Control+Shift+z")
    assert state_of(tab)["position_weights"] == [first, second]
    el(tab, "tab weights").focus()
    tab.keyboard.press("ArrowRight")
    assert state_of(tab)["tab"] == "outputs"
    assert tab.evaluate("document.activeElement.dataset.el") == "tab outputs"
    tab.keyboard.press("Home")
    assert state_of(tab)["tab"] == "tour"
    el(tab, "restore").click()
    el(tab, "filmStep").focus()
    tab.keyboard.press("ArrowLeft")
    assert state_of(tab)["step"] == int(load_film().steps[-1])
    assert el(tab, "filmStep").get_attribute("aria-valuetext").startswith("step 50,000: 92.")


def test_bad_digits_get_a_clear_message_and_break_nothing(open_page):
    tab = open_page("#explorer?model=two_layer&list=7,2&tab=weights")
    before = said(tab)
    for text, got in (
        ("100", "“100” is not."),
        ("-1", "“-1” is not."),
        ("x<b>", "“x<b>” is not."),
        ("", "it is empty."),
    ):
        el(tab, "d1").fill(text)
        expected = f"d1 must be a whole number from 0 to 99; {got} Below is still the list 7, 2."
        assert el(tab, "message").inner_text() == expected
        assert said(tab) == before and state_of(tab)["list"] == [7, 2]
    el(tab, "d1").fill(" 8 ")
    assert el(tab, "message").inner_text() == "" and state_of(tab)["list"] == [8, 2]


def test_a_digit_is_marked_no_longer_than_it_is_bad(open_page):
    tab = open_page("#explorer?model=two_layer&list=7,2&tab=weights")
    el(tab, "d1").fill("100")
    assert el(tab, "d1").get_attribute("aria-invalid") == "true"
    edge(tab, "L1 o2<-o1").locator("text").click()
    assert el(tab, "d1").get_attribute("aria-invalid") is None and el(tab, "d1").input_value() == "7"
    assert el(tab, "message").inner_text() == ""


def test_the_film_ends_where_something_else_begins(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=tour&tour=2")
    for act in (
        lambda: el(tab, "model").select_option("three_layer"),
        lambda: el(tab, "restore").click(),
        lambda: el(tab, "tourNext").click(),
        lambda: el(tab, "undo").click(),
    ):
        js(tab, "(e) => e.change({ model: 'two_layer', step: null })")
        el(tab, "filmPlay").click()
        until(tab, lambda: state_of(tab)["step"] is not None)
        act()
        stopped = state_of(tab)
        tab.wait_for_timeout(350)
        assert state_of(tab) == stopped and "Play" in el(tab, "filmPlay").text_content()
    el(tab, "model").select_option("two_layer")
    el(tab, "restore").click()
    el(tab, "filmStep").fill(str(len(load_film().steps) - 1))
    el(tab, "filmPlay").click()
    until(tab, lambda: state_of(tab)["step"] is None)
    assert "trained: 92.85 % of the validation outputs right" in el(tab, "filmText").inner_text()


def test_weights_that_differ_are_drawn(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&positions=swap&tab=weights")
    result = js(tab, "(e) => e.compute(e.state())")
    digit, position = result["weights"]["L0 SEP<-d1"], result["places"][0]
    assert digit + position == pytest.approx(1) and abs(digit - position) > 0.1
    assert edge(tab, "L0 SEP<-d1").locator("text").text_content() == f"E {digit:.2f} P {position:.2f}"
    assert el(tab, "select both").input_value() == "differ"
    edge(tab, "L0 SEP<-d1").locator("text").click()
    assert el(tab, "slider digits").locator("xpath=..").inner_text().count("before the cut") == 1


def test_what_two_models_share_is_kept(open_page):
    tab = open_page(
        "#explorer?model=two_layer&list=26,1&cut=L1.o2.o1&digits=swap&L1.o2=0.3,0.7&mode=zero&tab=weights"
    )
    before = state_of(tab)
    el(tab, "model").select_option("two_layer_published")
    assert state_of(tab) == {**before, "model": "two_layer_published"}


def test_one_sentence_is_read_out(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=weights")
    live = el(tab, "live")
    assert live.get_attribute("aria-live") == "polite" and tab.locator("[aria-live]").count() == 1
    edge(tab, "L1 o2<-SEP").locator("text").click()
    assert re.fullmatch(
        r"26, 1 comes out .+\. Of all 10,000 lists [\d,]+ come out right, [\d,]+ reversed\.",
        live.text_content(),
    )


# ---- address, undo, export ---------------------------------------------------------------------
STATES = (
    {"model": "two_layer", "list": [26, 1]},
    {"model": "two_layer", "list": [1, 2], "digit_weights": [1e-7, 1 / 3]},
    {
        "model": "three_layer",
        "list": [3, 99],
        "cuts": ["L1 o2<-SEP", "L2 o2<-o1"],
        "mode": "zero",
        "tab": "circuits",
    },
    {
        "model": "two_layer",
        "step": 5300,
        "list": [0, 7],
        "position_weights": "swap",
        "tab": "tour",
        "tour": 3,
    },
    {
        "model": "two_layer_published",
        "list": [9, 9],
        "digit_weights": [0.1, 0.735],
        "patterns": {"L1 o2": [1, 0.005]},
    },
    {
        "model": "two_layer_fresh",
        "list": [50, 51],
        "digit_weights": "reversed",
        "position_weights": "even",
        "tab": "share",
    },
    {"model": "two_layer", "list": [26, 1], "latents": {"64": 0, "113": 2.345}, "tab": "latents"},
    {"model": "two_layer", "list": [26, 1], "latents": {}},
)


def test_an_address_is_a_state(open_page):
    tab, again = open_page(), open_page()
    for state in STATES:
        js(tab, "(e, given) => e.change(given)", {**UNTOUCHED, "step": None, "tab": "weights", **state})
        before, words = state_of(tab), el(tab, "words").inner_text()
        assert {key: before[key] for key in state} == state
        until(tab, lambda given=state: f"model={given['model']}&" in tab.evaluate("location.hash"))
        tab.wait_for_timeout(150)  # the address follows at most eight times a second
        again.goto(PAGE.as_uri() + tab.evaluate("location.hash"))
        assert state_of(again) == before and el(again, "words").inner_text() == words
        again.reload()
        assert state_of(again) == before and el(again, "words").inner_text() == words


BAD_ADDRESSES = {
    "model=four_layer": "There is no model “four_layer” here",
    "list=1,100": "d2 must be a whole number from 0 to 99; “100” is not.",
    "list=1,2&cut=L0.d2.d1": "Edge “L0 d2<-d1” cannot reach an output",
    "list=1,2&digits=swop": "digit_weights is two numbers, swap, reversed, even or null",
    "list=1,2&L1.o1=1,0": "There is no row “L1 o1” to set; there are L1 o2.",
    "list=1,2&step=77": "The film of two_layer has no step 77.",
    "lists=1,2": "The address has an unknown part “lists=1,2”.",
    "list=1,2&positions=0.1,-1": "position_weights must be two numbers from 0 to 100",
    "list=7,2,3": "A list is two digits, not “7,2,3”.",
    "list=1,2&step=": "The film of two_layer has no step NaN.",
    "list=1,2&digits=1e308,1": "digit_weights must be two numbers from 0 to 100",
    "list=1,2&digits=200,1": "digit_weights must be two numbers from 0 to 100",
    "list=1,2&list=3,4": "The address has “list” twice.",
    "__proto__=1": "The address has an unknown part “__proto__=1”.",
    "toString=": "The address has an unknown part “toString=”.",
    "list=1,2&latents=128:1": "There is no latent “128”; there are 0 to 127.",
    "list=1,2&latents=1:11": "The scale of latent 1 must be a number from 0 to 10; got 11.",
    "list=1,2&latents=1": "The scale of latent 1 must be a number from 0 to 10; got NaN.",
    "list=1,2&latents=": "There is no latent “”",
    "list=1,2&latents=1:1,1:2": "The address has latent “1” twice.",
    "model=three_layer&latents=unscaled": "This page holds no autoencoder of three_layer.",
    "list=1,2&step=5300&latents=1:2": "The autoencoder is of the trained model, not of a step",
    "list=1,2&tour=9": "The tour has steps 1 to 5, not 9.",
}


def test_a_bad_address_says_so_and_the_page_works(open_page):
    tab = open_page("#explorer?list=1,100")
    assert "“100” is not." in el(tab, "message").inner_text() and len(said(tab)) == 2
    before = state_of(tab)
    for fragment, sentence in BAD_ADDRESSES.items():
        tab.evaluate("(hash) => { location.hash = hash; }", f"#explorer?{fragment}")
        until(tab, lambda wanted=sentence: wanted in el(tab, "message").inner_text())
        assert el(tab, "message").inner_text().startswith("The address cannot be read: ")
        assert state_of(tab) == before
    tab.evaluate("(hash) => { location.hash = hash; }", "#explorer?model=three_layer&list=3,4")
    until(tab, lambda: state_of(tab)["list"] == [3, 4] and el(tab, "message").inner_text() == "")


def test_what_is_taken_along_is_the_state(open_page):
    tab = open_page()
    js(tab, "(e, given) => e.change(given)", {**STATES[4], "tab": "share"})
    given = json.loads(el(tab, "json").input_value())
    assert evaluate(given).argmax(-1)[0].tolist() == said(tab)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(el(tab, "python").input_value(), {})
    assert [int(x) for x in re.findall(r"\d+", printed.getvalue())] == said(tab)
    el(tab, "copy link").click()
    until(tab, lambda: el(tab, "copied").inner_text() == "Copied.")
    copied = tab.evaluate("navigator.clipboard.readText()")
    again = open_page(copied.removeprefix(PAGE.as_uri()))
    assert state_of(again) == state_of(tab)
    files = {}
    for name in ("svg", "png", "saveJson"):
        with tab.expect_download() as download:
            el(tab, name).click()
        files[name] = Path(download.value.path()).read_bytes()
    svg = ElementTree.fromstring(files["svg"])
    texts = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    result = js(tab, "(e) => e.compute(e.state())")
    weights = f"E 0.10 P {result['places'][0]:.2f}"
    assert {"SEP", "9", f"βₛ {result['weights']['L1 o2<-SEP']:.3f}", weights} <= set(texts)
    for told in (
        "digits in SEP: 0.1, 0.735",
        "L1 o2: 1, 0.005",
        "#explorer?model=two_layer_published&list=9,9",
    ):
        assert any((text or "").startswith(told) for text in texts), told
    assert files["png"].startswith(b"\x89PNG") and int.from_bytes(files["png"][16:20], "big") > 800
    assert json.loads(files["saveJson"]) == given


def test_undo_goes_back_through_everything(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=weights")
    states = [state_of(tab)]
    for change in (
        {"cuts": ["L1 o2<-o1"]},
        {"list": [3, 4]},
        {"model": "three_layer", "cuts": []},
        {"list": [5, 6]},
    ):
        js(tab, "(e, given) => e.change(given)", change)
        states.append(state_of(tab))
    for expected in reversed(states[:-1]):
        el(tab, "undo").click()
        assert state_of(tab) == expected
    assert el(tab, "undo").is_disabled()
    for _ in states[1:]:
        el(tab, "redo").click()
    assert state_of(tab) == states[-1] and el(tab, "redo").is_disabled()
    el(tab, "tab outputs").click()
    el(tab, "undo").focus()
    el(tab, "undo").click()
    assert state_of(tab) == {**states[-2], "tab": "outputs"}, "a tab is no change"
    js(tab, "(e) => e.change({ list: [8, 8] })")
    assert el(tab, "redo").is_disabled(), "a change ends what was undone"


def test_a_slide_is_undone_at_once(open_page):
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=weights")
    slide = "(e, x) => e.change({ digit_weights: [x, 1 - x] }, 'slide digits')"
    for x in (0.1, 0.2, 0.3):
        js(tab, slide, x)
    tab.wait_for_timeout(1100)
    js(tab, slide, 0.4)
    el(tab, "undo").click()
    assert state_of(tab)["digit_weights"] == [0.3, 0.7], "what comes later is a change of its own"
    js(tab, slide, 0.5)
    el(tab, "undo").click()
    assert state_of(tab)["digit_weights"] == [0.3, 0.7], "so is what comes after an undo"
    el(tab, "undo").click()
    assert state_of(tab)["digit_weights"] is None and el(tab, "undo").is_disabled()
    assert tab.evaluate("document.activeElement.dataset.el") == "undo", "the keyboard stays where it was"


# ---- the tour and the film ---------------------------------------------------------------------
@pytest.mark.parametrize("name", MODELS[:3])
def test_the_tour_shows_what_it_says(open_page, name):
    tab = open_page(f"#explorer?model={name}&list=0,1&tab=tour")
    model, _ = load_pretrained(name)
    every = np.indices((100, 100)).reshape(2, -1).T
    differ = every[:, 0] != every[:, 1]

    def reversed_share(state):
        return (evaluate(state, model, every).argmax(-1) == every[:, ::-1]).all(1)[differ].mean()

    el(tab, "tourNext").click()
    el(tab, "tourBack").click()
    a, b = state_of(tab)["list"]
    assert said(tab) == [a, b] and f"d1 = {a} with weight" in el(tab, "tourText").inner_text()
    el(tab, "tourNext").click()
    assert state_of(tab)["list"] == [b, a] == said(tab)
    el(tab, "tourNext").click()
    assert said(tab) not in ([a, b], [b, a])
    share = reversed_share({"digit_weights": "swap", "position_weights": "swap"})
    assert f"{100 * share:.2f} % come out reversed" in el(tab, "tourText").inner_text()
    el(tab, "tourNext").click()
    assert said(tab) == [b, a] and state_of(tab)["digit_weights"] is None
    share = reversed_share({"position_weights": "swap"})
    assert f"So it is for {100 * share:.2f} % of the lists" in el(tab, "tourText").inner_text()
    assert share > 0.7
    el(tab, "tourNext").click()
    assert said(tab) != state_of(tab)["list"] and el(tab, "tourNext").is_disabled()
    comes_out = f"comes out as {said(tab)[0]}, {said(tab)[1]}. With weights less than 0.02 apart"
    assert comes_out in el(tab, "tourText").inner_text()
    assert el(tab, "tourAgain").is_hidden() and el(tab, "tourChanged").inner_text() == ""
    el(tab, "tourMore").click()
    assert (
        state_of(tab)["digit_weights"] == "even"
        and "something is changed" in el(tab, "tourChanged").inner_text()
    )
    el(tab, "tourAgain").click()
    assert state_of(tab)["digit_weights"] is None and el(tab, "tourAgain").is_hidden()


def test_there_is_no_tour_of_three_layers(open_page):
    tab = open_page("#explorer?model=three_layer&list=0,1&tab=tour")
    assert el(tab, "tourWhy").inner_text() == "The tour is about models of two layers."
    assert el(tab, "tourBody").is_hidden()
    el(tab, "tourOther").click()
    assert state_of(tab)["model"] == "two_layer" and el(tab, "tourBody").is_visible()
    el(tab, "model").select_option("two_layer_fresh")
    assert said(tab) == state_of(tab)["list"], "the tour goes on with a list of the other model"


# ---- how it looks ------------------------------------------------------------------------------
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "high contrast": {"forced_colors": "active"},
}
SMALLEST = """() => {
  let least = 99, of = "";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (node.closest("script, style, title")) continue;
    const scale = node.getScreenCTM ? node.getScreenCTM().a : 1;
    const size = scale * parseFloat(getComputedStyle(node).fontSize);
    if (size < least) [least, of] = [size, walker.currentNode.textContent];
  }
  const tables = Array.from(document.querySelectorAll(".osx-counts"));
  const cut = Math.max(...tables.map((table) => table.scrollWidth - table.parentElement.clientWidth));
  return { least, of, cut, wide: document.documentElement.scrollWidth - innerWidth,
    levels: Array.from(document.querySelectorAll("h1,h2,h3,h4,h5,h6"), (x) => Number(x.tagName[1])) };
}"""


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("look", LOOKS)
def test_it_can_be_read_by_all(open_page, look, width):
    tab = open_page(
        "#explorer?model=two_layer&list=26,1&positions=swap&latents=113:3.5&tab=share",
        width=width,
        **LOOKS[look],
    )
    for name in TABS:
        el(tab, f"tab {name}").click()
        seen = tab.evaluate(SMALLEST)
        assert seen["least"] >= 12 and seen["wide"] <= 0 and seen["cut"] <= 0, seen
        assert seen["levels"][0] == 1 and np.diff(seen["levels"]).max() <= 1, "a heading level is skipped"
        if name in ("weights", "latents") or (look == "light" and width == 360):
            found = axe.run(tab)
            assert found.violations_count == 0, found.generate_report()
    if width == 360:
        edge(tab, "L1 o2<-SEP").locator("text").click()
        words = tab.locator(".osx-lead").first.bounding_box()
        assert 0 <= words["y"] <= 900, "the words are out of view after an edge was tapped"
    if look == "high contrast":
        el(tab, "tab weights").click()
        slider = imread(io.BytesIO(el(tab, "slider digits").screenshot()))
        track = slider[len(slider) // 2, :, :3]
        left, right, page_colour = track[8], track[-8], slider[1, 1, :3]
        assert not np.allclose(left, right) and not np.allclose(left, page_colour), (
            "the slider's track is gone"
        )


def test_any_name_of_a_model_has_an_address(open_page, tmp_path):
    model, _ = load_pretrained("two_layer")
    name = 'a&b 50%=x#"</script>é'
    (tmp_path / "page.html").write_text(
        page.single_page(page.PageModel(name, "", model, checkpoint="runs/x")), "utf-8"
    )
    url = (tmp_path / "page.html").as_uri()
    tab = open_page(url=url)
    js(tab, "(e) => e.change({ list: [4, 5] })")
    until(tab, lambda: "list=4,5" in tab.evaluate("location.hash"))
    again = open_page(tab.evaluate("location.hash"), url=url)
    assert state_of(again) == state_of(tab) and state_of(again)["model"] == name
    again.locator("[data-el='tab share']").click()
    assert 'load_checkpoint("runs/x")' in el(again, "python").input_value()


def test_a_section_in_another_page_leaves_its_address_alone(open_page, tmp_path):
    model, _ = load_pretrained("three_layer")
    lists = make_split(TaskConfig()).validation
    sections = 2 * explorer_html(model, validation=lists)
    html = f'<!doctype html><html lang="en"><title>x</title><body>{sections}</body></html>'
    (tmp_path / "page.html").write_text(html, "utf-8")
    tab = open_page("#other", width=320, url=(tmp_path / "page.html").as_uri())
    assert tab.evaluate(SMALLEST)["cut"] <= 0, "the table of counts is cut off"
    tab.locator("[data-edge='L1 o2<-SEP'] text").nth(1).click()
    tab.wait_for_timeout(200)
    assert tab.evaluate("location.hash") == "#other"
    tab.locator("[data-el='tab weights']").first.click()
    tab.locator("[data-el='zero']").first.check()
    checked = (
        "Array.from(document.querySelectorAll('[data-el=renormalize], [data-el=zero]'), (x) => x.checked)"
    )
    assert tab.evaluate(checked) == [False, True, True, False]
    cuts = tab.evaluate(
        "Array.from(document.querySelectorAll('.orderscale-explorer'), (x) => x.explorer.state().cuts)"
    )
    assert cuts == [[], ["L1 o2<-SEP"]]
    tab.locator("[data-el='tab share']").first.click()
    assert "load_checkpoint" in el(tab, "python").first.input_value()
    assert el(tab, "shareLink").first.is_hidden() and "model" not in json.loads(
        el(tab, "json").first.input_value()
    )
    assert el(tab, "tab latents").first.is_hidden()
    tab.locator("[data-el='tab circuits']").first.click()
    assert "holds no table" in el(tab, "circuits").first.inner_text()


def test_speed_is_told(open_page, record_testsuite_property):
    """Nothing is asserted of it; `pytest -rP -k speed tests/test_browser.py` shows the numbers."""
    tab = open_page("#explorer?model=two_layer&list=26,1&tab=weights")
    painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
    until(tab, lambda: tab.evaluate(painted) is not None)
    paint = tab.evaluate(painted)
    redraw = """(e, model) => {
      e.change({ model, digit_weights: null });
      const times = [];
      for (let i = 0; i < 60; i++) {
        const start = performance.now();
        e.change({ digit_weights: [i / 60, 1 - i / 60], position_weights: [i / 60, 1 - i / 60] });
        times.push(performance.now() - start);
      }
      return times.sort((a, b) => a - b)[30];
    }"""
    told = {"first paint": paint} | {
        f"redraw of {x}, median": js(tab, redraw, x) for x in ("two_layer", "three_layer")
    }
    scaled = """(e) => {
      e.change({ model: "two_layer", digit_weights: null, position_weights: null, tab: "latents" });
      const times = [];
      for (let i = 0; i < 60; i++) {
        const start = performance.now();
        e.change({ latents: { 113: i / 6 } });
        times.push(performance.now() - start);
      }
      return times.sort((a, b) => a - b)[30];
    }"""
    told["redraw with a scaled latent, median"] = js(tab, scaled)
    for what, milliseconds in told.items():
        print(f"{what}: {milliseconds:.0f} ms")
        record_testsuite_property(what, milliseconds)
