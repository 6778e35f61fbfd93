"""Pictures and the report of sparse autoencoders show the numbers of the study, whole and readable."""

import copy
import dataclasses
import html
import html.parser
import itertools
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orderscale_jax import figures, report
from orderscale_jax.checkpoint import load_pretrained
from orderscale_jax.config import task_config
from orderscale_jax.errors import UserError
from orderscale_jax.figures.latents import SYMBOLS, median_detector
from orderscale_jax.figures.latents_steering import reversed_at
from orderscale_jax.figures.latents_sweep import rank_correlation
from orderscale_jax.formatting import number, percent
from orderscale_jax.model import ListTransformer, ModelConfig
from orderscale_jax.report import latents as page
from orderscale_jax.sae import (
    SAEConfig,
    SparseAutoencoder,
    load_pretrained_sae,
    study_sae,
    tabulate,
    view_sep,
)
from orderscale_jax.sae.steering import WORDS
from orderscale_jax.sae.study import options, row
from orderscale_jax.task import TaskConfig

DRAW = {
    "latent_activations": figures.latent_activations,
    "grading_curves": figures.grading_curves,
    "steering_overview": figures.steering_overview,
    "dictionary_match": figures.dictionary_match,
}
ABOUT = {"seed": 3, "model": "a <model> & more"}
TREATED = ("special", "every", "digits", "direction")


def random_study():
    """Of a model and an SAE that have learnt nothing: no latent is special, no list is reversed by it."""
    model = ListTransformer(ModelConfig(n_digits=6), rngs=nnx.Rngs(0))
    config = SAEConfig(width=12, k=2, batch_size=16)
    sae = SparseAutoencoder(config, 64, rngs=nnx.Rngs(0))
    sae.threshold.set_value(jnp.float32(0.1))
    return study_sae(sae, view_sep(model, TaskConfig(n_digits=6)))


def shipped_study(n_digits=12):
    """Of the shipped SAE on the lists of a few digits: one latent is special, and reverses lists."""
    model, config = load_pretrained("two_layer")
    view = view_sep(model, task_config(config))
    few = (view.lists < n_digits).all(1)
    of_lists = ("lists", "is_validation", "sep", "alphas", "answers")
    view = dataclasses.replace(view, **{name: getattr(view, name)[few] for name in of_lists})
    return study_sae(load_pretrained_sae("two_layer")[0], view)


@pytest.fixture(scope="module")
def studies():
    return {"random": random_study(), "shipped": shipped_study()}


@pytest.fixture(params=["random", "shipped"])
def study(request, studies):
    return studies[request.param]


@pytest.fixture
def shipped(studies):
    return studies["shipped"]


def marked(axes, gid):
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def words_on(figure):
    """Every text, with its box in pixels."""
    figure.draw_without_rendering()
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.findobj(lambda artist: hasattr(artist, "get_xticklabels")):
        found += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)  # shared: no labels
            found += [label for at, label in ticks if low <= at <= high]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_text()]


def check_words(figure):
    """All words are on the page, and no two titles, labels or entries overlap."""
    words, (width, height) = words_on(figure), figure.bbox.max
    assert len(words) > 5
    for text, box in words:
        on_page = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert on_page, (text, box)
    for (a, p), (b, q) in itertools.combinations(words, 2):
        room = min(p.x1, q.x1) - max(p.x0, q.x0), min(p.y1, q.y1) - max(p.y0, q.y0)
        assert min(room) < 2, (a, b)


@pytest.mark.parametrize("name", DRAW)
def test_all_words_are_on_the_page_and_apart(study, name):
    check_words(DRAW[name](study))


def test_every_figure_refuses_something_else():
    draws = [*DRAW.values(), lambda x: figures.steering_lines(x, [(0, 1)])]
    for draw in draws:
        with pytest.raises(UserError, match="SAEStudy, got dict"):
            draw({})


def test_activations_are_those_of_the_lists(study):
    own, other, scatter, *_ = figures.latent_activations(study).axes
    encoded, latent = study.encoded, study.special[0]
    digit, detector = median_detector(study)
    f1 = study.match.f1[[d for d in study.match.detectors.argsort() if study.match.f1[d] > 0]]
    assert np.sort(f1)[0] <= study.match.f1[digit] <= np.sort(f1)[-1] and detector not in study.special
    for axes, of in ((own, latent), (other, detector)):
        (image,) = axes.images
        drawn = image.get_array()
        d1, d2 = encoded.view.lists.T
        np.testing.assert_array_equal(drawn[d2, d1], encoded.latents[:, of])
        assert drawn.count() == len(encoded.view.lists) and image.norm.vmin == 0
    (points,) = scatter.collections
    alphas = encoded.view.alphas
    expected = np.stack([alphas[:, 0] - alphas[:, 1], encoded.latents[:, latent]], -1)
    np.testing.assert_allclose(points.get_offsets(), expected)
    assert f"r = {number(encoded.correlations[latent], 3)} " in scatter.get_title(loc="left")
    assert own.get_title(loc="left").startswith("special latent") == study.is_special


def test_an_sae_without_detectors_is_drawn(study):
    match = dataclasses.replace(study.match, detectors=np.full_like(study.match.detectors, -1))
    _, other, *_ = figures.latent_activations(dataclasses.replace(study, match=match)).axes
    assert "is a digit's detector" in other.texts[0].get_text() and not other.images


def test_grading_curves_end_at_their_baseline(study):
    grading, intact = study.grading, study.fidelity.intact["all"]
    for axes, field in zip(figures.grading_curves(study).axes, ("lists_right", "reversed"), strict=True):
        graded = getattr(grading.graded, field)
        for name in TREATED:
            (line,) = marked(axes, name)
            expected = [getattr(answers, field) for answers in getattr(grading, name).values()]
            np.testing.assert_array_equal(line.get_ydata(), [*expected, graded])
        for gid, value in (("baseline", graded), ("intact", getattr(intact, field))):
            (line,) = marked(axes, gid)
            assert set(line.get_ydata()) == {value}
        assert [t.get_text() for t in axes.get_xticklabels()] == ["on/off", "2", "3", "5", "graded"]


def test_a_control_without_latents_is_told(shipped):
    def legend(of):
        return " ".join(text.get_text() for text in figures.grading_curves(of).legends[0].get_texts())

    none = dict.fromkeys(shipped.grading.digits, shipped.grading.graded)
    grading = dataclasses.replace(shipped.grading, digits=none, digit_latents=0.0)
    empty = dataclasses.replace(shipped, grading=grading)
    assert "there are none" in legend(empty) and "there are none" not in legend(shipped)
    results = page.complete_latents(empty)
    assert "there are none" in page.captions(empty, results)["grading_curves"][1]
    judged = {verdict["key"]: verdict["verdict"] for verdict in page.verdicts(results)}
    assert judged["grading"] == "not judged"


def test_every_kind_of_steering_has_its_bar(study):
    kinds, above, below = figures.steering_overview(study).axes
    for name in WORDS:
        share, bars = getattr(study.steering, name), marked(kinds, name)
        assert [bar.get_width() for bar in bars] == ([] if share is None else [share])
        written = [text.get_text() for text in marked(kinds, f"share {name}")]
        assert written == ([] if share is None else [percent(share)])
        if share is not None:
            assert bool(bars[0].get_hatch()) == WORDS[name].startswith("control")
    regions = study.steering.steering.regions
    n_regions = int(np.isfinite(regions.starts).sum())
    if not n_regions:
        assert not above.collections and "at no scale" in above.texts[0].get_text()
        return
    (drawn,) = marked(above, "regions")
    corners = np.array([path.vertices[:4] for path in drawn.get_paths()])
    assert len(corners) == n_regions
    ends = np.stack([corners[:, :, 0].min(1), corners[:, :, 0].max(1)])
    known = np.isfinite(regions.starts)
    np.testing.assert_array_equal(np.sort(ends), np.sort([regions.starts[known], regions.ends[known]]))
    assert (np.diff(corners[:, 0, 0][np.diff(corners[:, 0, 1], prepend=-1) > 0]) >= 0).all()
    (line,) = marked(below, "reversed")
    assert line.get_ydata().max() <= study.steering.alone
    assert f"{regions.exists.sum():,} reversed" in above.get_title(loc="left")


def test_shares_at_a_scale_are_those_of_the_outputs(shipped):
    encoded, latent, view = shipped.encoded, shipped.special[0], shipped.encoded.view
    differs = view.lists[:, 0] != view.lists[:, 1]
    vector = encoded.latents[:, [latent]] * encoded.decoder[latent]
    scales = np.array([0.013, 0.4, 1.0, 2.2, 9.9])
    for scale, share in zip(scales, reversed_at(shipped, scales), strict=True):
        answers = view.readout.answers(encoded.reconstruction + (scale - 1) * vector)
        assert share == pytest.approx((answers == view.lists[:, ::-1]).all(1)[differs].mean())
    assert reversed_at(shipped, scales)[0] > shipped.steering.before


def test_lines_are_the_logits_and_regions_where_both_are_reversed(shipped):
    lists = list(page.examples(shipped))
    encoded, view, latent = shipped.encoded, shipped.encoded.view, shipped.special[0]
    figure = figures.steering_lines(shipped, lists)
    check_words(figure)
    panels = np.reshape(figure.axes, (2, len(lists)))
    n_regions = 0
    for (d1, d2), column in zip(lists, panels.T, strict=True):
        (at,) = np.flatnonzero((view.lists == (d1, d2)).all(1))
        for output, axes in enumerate(column):
            lines = {gid: marked(axes, gid)[0] for gid in ("d1", "d2", "other")}
            scales, logits = lines["d1"].get_xdata(), {gid: x.get_ydata() for gid, x in lines.items()}
            changes = (scales[:, None] - 1) * encoded.latents[at, latent] * encoded.decoder[latent]
            expected = view.readout.logits(encoded.reconstruction[at] + changes)[:, output]
            np.testing.assert_allclose(logits["d1"], expected[:, d1])
            np.testing.assert_allclose(logits["d2"], expected[:, d2])
            np.testing.assert_allclose(logits["other"], np.delete(expected, [d1, d2], 1).max(1))
            for span in marked(axes, "region"):
                n_regions += 1
                within = (scales > span.get_x()) & (scales < span.get_x() + span.get_width())
                said, *others = ("d1", "d2", "other") if output else ("d2", "d1", "other")
                assert within.any() and all((logits[said] > logits[x])[within].all() for x in others)
        regions = shipped.steering.steering.regions
        told = column[0].get_title(loc="left").split("\n")[1]
        assert told.startswith(
            "never" if not regions.exists[at] else f"reversed {number(regions.starts[at, 0])}"
        )
    assert n_regions >= 2


@pytest.mark.parametrize(
    "lists, message",
    [
        ([], "takes 1 to 4 lists, got 0"),
        ([(0, 1)] * 5, "got 5"),
        ([(3, 3)], "two different digits"),
        ([(1, 2, 3)], "two different digits"),
        ([(0, 90)], "no list 0, 90"),
    ],
)
def test_lists_that_cannot_be_drawn(shipped, lists, message):
    with pytest.raises(UserError, match=message):
        figures.steering_lines(shipped, lists)


def test_the_dictionary_is_drawn_as_it_was_matched(study):
    cosines, f1, bars = figures.dictionary_match(study).axes
    for axes, values in ((cosines, study.match.cosines), (f1, study.match.f1)):
        (dots,) = marked(axes, "digits")
        np.testing.assert_array_equal(dots.get_ydata(), np.sort(values)[::-1])
        (mean,) = marked(axes, "mean")
        assert mean.get_ydata()[0] == pytest.approx(values.mean())
    (order,) = marked(cosines, "order")
    assert order.get_ydata()[0] == abs(study.match.order_cosine)
    heights = [bar.get_height() for bar in bars.patches]
    assert sum(heights) == len(study.match.symbols) and heights[0] == study.fidelity.dead
    assert heights[1 + list(SYMBOLS).index("1")] == (study.match.symbols == 1).sum()
    assert [int(text.get_text()) for text in marked(bars, "count")] == heights


def rows_of(study, widths=(64, 128), ks=(1, 3), seeds=(0, 1, 2)):
    """A row for each SAE of a grid, with numbers of its own."""
    generator, made = np.random.default_rng(0), []
    base = row(study) | options(study.encoded.config)
    varied = ("patched_lists_validation", "loss_recovered_validation", "explained_variance_validation")
    for width, k, seed in itertools.product(widths, ks, seeds):
        drawn = {name: generator.uniform(0.2, 0.99) for name in (*varied, "mcc", "steer_alone")}
        made.append(base | drawn | {"width": width, "k": k, "seed": seed, "special_code": int(k > 1)})
    return made


def test_a_grid_shows_every_seed_at_its_k(shipped):
    rows = rows_of(shipped)
    figure = figures.sae_grid(rows)
    check_words(figure)
    names = ("patched_lists_validation", "loss_recovered_validation", "mcc", "steer_alone")
    for axes, name in zip(figure.axes, names, strict=True):
        for gid, is_special in (("seeds", 1), ("seeds without special latent", 0)):
            drawn = np.concatenate([line.get_xydata() for line in marked(axes, gid)])
            expected = [r for r in rows if r["special_code"] == is_special]
            np.testing.assert_array_equal(drawn[:, 1], [r[name] for r in expected])
            np.testing.assert_array_equal(drawn[:, 0].round(), [(1, 3).index(r["k"]) for r in expected])
        means = [marked(axes, "means")[i].get_ydata() for i in range(2)]
        mean = np.mean([r[name] for r in rows if r["width"] == 128 and r["k"] == 3])
        assert means[1][1] == pytest.approx(mean)
    (intact,) = marked(figure.axes[0], "intact")
    assert set(intact.get_ydata()) == {rows[0]["intact_lists_validation"]}
    for name in ("steer_before", "steer_other_latent", "steer_random_direction"):
        (line,) = marked(figure.axes[3], name)
        np.testing.assert_allclose(line.get_ydata(), rows[0][name])


def test_proxies_are_ranked_against_the_truth(shipped):
    from scipy.stats import spearmanr

    rows = rows_of(shipped)
    figure = figures.proxies(rows)
    check_words(figure)
    names = itertools.product(("mcc", "steer_alone"), ("loss_recovered", "explained_variance"))
    for axes, (truth, proxy) in zip(figure.axes, names, strict=True):
        x, y = ([r[name] for r in rows] for name in (f"{proxy}_validation", truth))
        rho = spearmanr(x, y).statistic
        assert axes.get_title(loc="left").startswith(f"ρ = {number(rho)}, {len(rows)} SAEs; within one k ")
        drawn = np.concatenate([line.get_xydata() for line in marked(axes, "SAEs")])
        np.testing.assert_allclose(np.sort(drawn, 0), np.sort(np.transpose([1 - np.array(x), y]), 0))
    better = rows[0] | {"loss_recovered_validation": 1.1}
    assert figures.proxies([*rows, better]).axes[2].get_xlabel().startswith("loss recovered")
    assert np.isnan(rank_correlation([1, 2], [1, 2])) and np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert rank_correlation([1, 2, None, 9], [1, 5, 3, 6]) == pytest.approx(1)


@pytest.mark.parametrize("draw", [figures.sae_grid, figures.proxies])
def test_rows_that_cannot_be_drawn(shipped, draw):
    rows = rows_of(shipped)
    short = {name: value for name, value in rows[0].items() if name != "mcc"}
    many = [rows[0] | {"width": 2**i, "k": i} for i in range(1, 9)]
    for given, group, message in (
        ([], "validation", "at least one"),
        (rows, "test", "no group 'test'"),
        ([*rows, short], "validation", "lacks mcc"),
        (many, "validation", "at most 6"),
    ):
        with pytest.raises(UserError, match=message):
            draw(given, group)
    if draw is figures.sae_grid:
        with pytest.raises(UserError, match="differ in family"):
            draw([rows[0], rows[1] | {"family": "topk"}])
        with pytest.raises(UserError, match="have no k"):
            draw([rows[0] | {"k": None}])


class Parsed(html.parser.HTMLParser):
    """Keyed texts, headings, addresses and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.keyed, self.levels, self.ids, self.links, self._key = [], [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self._key = found.get("data-key", self._key)

    def handle_data(self, data):
        if self._key:
            self.keyed.append((self._key, data))
            self._key = None


@pytest.fixture(scope="module")
def folder(studies, tmp_path_factory):
    """Of a report."""
    path = report.write_sae_report(studies["shipped"], tmp_path_factory.mktemp("sae") / "new", ABOUT)
    assert path.name == "report.html"
    return path.parent


def test_a_report_is_a_folder_that_fetches_nothing(shipped, folder):
    drawn, results = {*DRAW, "steering_lines"}, json.loads((folder / "results.json").read_text("utf-8"))
    text = (folder / "report.html").read_text("utf-8")
    assert {path.name for path in folder.iterdir()} == {"results.json", "report.html", "figures"}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{figure}.{kind}" for figure in drawn for kind in ("png", "pdf")
    }
    expected = json.loads(json.dumps(tabulate(shipped)))
    assert {key: results[key] for key in expected} == expected and results["about"] == ABOUT
    assert "default-src 'none'" in text and text.count("data:image/png;base64,") == len(drawn)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", text)
    assert not re.search(r"url\(|@import", text)
    words = html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL))
    assert not re.search(r"\b(None|nan|inf)\b", words) and "a <model> & more" in words
    parsed = Parsed(text)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    files = {link for link in parsed.links if not link.startswith("#")}
    assert all((folder / link).is_file() for link in files) and "results.json" in files
    assert all(later <= sooner + 1 for sooner, later in itertools.pairwise(parsed.levels))


def test_every_number_of_a_table_is_in_the_results(study):
    results = page.complete_latents(study)
    keyed = Parsed(page.render_sae_page(study, results, {})).keyed
    assert len(keyed) > 100
    for key, written in keyed:
        value = page.lookup(results, key)
        if isinstance(value, str):
            assert written == value
        elif value is None:
            assert written == "–"
        else:
            digits = written.replace("−", "-").replace(",", "").removesuffix("\u00a0%")
            unit = 10.0 ** -len(digits.partition(".")[2])
            assert float(digits) == pytest.approx(
                value * (100 if "%" in written else 1), abs=0.5001 * unit
            ), key
    keys = {key for key, _ in keyed}
    for group in results["patched"]:
        for field in ("outputs_right", "lists_right"):
            assert {f"answers.{kind}.{group}.{field}" for kind in ("patched", "intact")} <= keys
    assert {f"steering.reasons.{reason}" for reason in results["steering"]["reasons"]} <= keys


def test_captions_have_the_numbers_of_the_study(study):
    results = page.complete_latents(study)
    said = {name: " ".join(sentences) for name, sentences in page.captions(study, results).items()}
    grading, steering, match = study.grading, study.steering, study.match
    shares = [getattr(grading, name)[1] for name in TREATED]
    shares += [grading.graded, study.fidelity.intact["all"]]
    for answers in shares:
        told = f"{percent(answers.lists_right)} right and {percent(answers.reversed)} reversed"
        assert told in said["grading_curves"]
    for name in WORDS:
        if (share := getattr(steering, name)) is not None and name not in ("another", "together"):
            assert percent(share) in said["steering_overview"]
    peak = results["at_one_scale"]
    assert reversed_at(study, [peak["scale"]])[0] == pytest.approx(peak["reversed"])
    assert (reversed_at(study, np.linspace(0, 10, 101)) <= peak["reversed"]).all()
    told = "At no single scale" if peak["reversed"] == steering.before else percent(peak["reversed"])
    assert told in said["steering_overview"]
    assert f"{number(match.mcc_digits, 3)} on average" in said["dictionary_match"]
    assert f"{number(study.encoded.correlations[study.special[0]], 3)} with" in said["latent_activations"]
    for d1, d2 in page.examples(study):
        assert f"{d1}, {d2} is" in said["steering_lines"]


def test_verdicts_follow_the_numbers(studies):
    def judge(results):
        return {row["key"]: row["verdict"] for row in page.verdicts(results)}

    results = page.complete_latents(studies["shipped"])
    assert judge(results) | {"fidelity": "", "dictionary": ""} == {
        "fidelity": "",
        "special": "holds",
        "dictionary": "",
        "grading": "holds",
        "steering": "holds",
    }
    changed = copy.deepcopy(results)
    right = changed["answers"]["intact"]["validation"]["lists_right"]
    changed["answers"]["patched"]["validation"]["lists_right"] = right - 0.009
    changed["dictionary"] |= {"order_cosine": -0.95, "mean_f1": 0.91}
    changed["grading"]["extremes"]["direction"]["1"] = [0.0, 1.0]
    changed["steering"]["random_direction"] = changed["steering"]["alone"]
    assert judge(changed) == {
        "fidelity": "holds",
        "special": "holds",
        "dictionary": "holds",
        "grading": "does not hold",
        "steering": "does not hold",
    }
    changed["answers"]["patched"]["validation"]["lists_right"] = right - 0.011
    changed["dictionary"]["mean_f1"] = 0.89
    assert judge(changed)["fidelity"] == judge(changed)["dictionary"] == "does not hold"
    of_random = judge(page.complete_latents(studies["random"]))
    assert of_random["special"] == "does not hold"
    assert of_random["grading"] == of_random["steering"] == "not judged"


def test_the_page_can_be_read_by_all(folder):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium or Chrome on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab, problems = browser.new_page(viewport={"width": 360, "height": 900}), []
        tab.on("console", lambda said: problems.append(said.text))
        tab.goto((folder / "report.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0 and not problems
        found = axe.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
        browser.close()
