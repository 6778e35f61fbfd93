"""Pictures: nothing overlaps, every critical edge has its arrow, files are written whole."""

import dataclasses
import itertools
import json
import os
import pathlib
from unittest.mock import MagicMock

import matplotlib.font_manager
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.published_figures import measure
from orderscale_jax import figures
from orderscale_jax.analysis import (
    AttentionStatistics,
    Difference,
    EdgeAblation,
    Effect,
    ListErrors,
    Order,
    SepAttention,
)
from orderscale_jax.analysis.order import EXCHANGES
from orderscale_jax.convert import from_torch, read_arrays
from orderscale_jax.errors import UserError
from orderscale_jax.figures.circuit import BINS
from orderscale_jax.figures.flow_layout import WRONG
from orderscale_jax.formatting import signed
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.report import captions, write
from orderscale_jax.training.sweep_results import Summary, wilson_interval

REPORT = pathlib.Path(write.__file__).parent
REFERENCE = pathlib.Path(
    os.environ.get("ORDERSCALE_REFERENCE") or pathlib.Path(__file__).parents[2] / "shared" / "reference"
)
SAID, MEASURED = (
    json.loads((REPORT / f"published_{name}.json").read_text("utf-8")) for name in ("checkpoints", "figures")
)


def make_flow(list_len, n_layers, *, n_heads=1, share_critical=1.0, head=None, **kwargs):
    """A Flow of random numbers in which every live edge may be critical."""
    random = np.random.RandomState(list_len * 100 + n_layers)
    graph = Graph(list_len, n_layers)
    live = np.array([graph.is_live(edge) for edge in graph.edges])
    critical = live & (random.rand(len(live)) < share_critical)
    accuracies = np.where(critical, 0.9 * random.rand(len(live)), 0.95)
    positions = graph.n_positions
    patterns = np.zeros((n_layers, n_heads, positions, positions))
    for edge in graph.edges:
        patterns[edge.layer, :, edge.query, edge.key] = random.rand(n_heads) if graph.carries(edge) else 0.0
    patterns /= np.maximum(patterns.sum(-1, keepdims=True), 1e-9)
    lens = random.randint(0, 102, (n_layers + 1, positions))
    lens[-1, -1], lens[0, 0] = 101, 100
    of_outputs = np.repeat(accuracies[:, None], list_len, 1)
    ablation = EdgeAblation("zero", head, graph.edges, live, 0.95, accuracies, of_outputs, 0.01, 0.95)
    return figures.Flow("A model", ablation, patterns, lens, 100, **kwargs)


def texts(figure, kind):
    return [text for text in figure.axes[0].texts if text.get_gid().startswith(kind)]


def arrows(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def boxes_of(artists):
    return [(artist, artist.get_window_extent()) for artist in artists]


def overlapping(figure):
    """Pairs of things that overlap: any text with any other, any arrow's label with a node."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    words = boxes_of([*axes.texts, *axes.get_legend().get_texts()])
    nodes = boxes_of([patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)])
    labels = boxes_of(texts(figure, "label"))
    pairs = [*itertools.combinations(words, 2), *itertools.product(labels, nodes)]
    return [(a, b) for (a, p), (b, q) in pairs if p.overlaps(q)]


FLOWS = [(2, 2, 1.0), (2, 3, 1.0), (1, 1, 1.0), (3, 3, 1.0), (4, 4, 1.0), (4, 4, 0.5)]


@pytest.mark.parametrize("list_len, n_layers, share", FLOWS)
def test_nothing_overlaps_in_the_information_flow(list_len, n_layers, share):
    flow = make_flow(list_len, n_layers, share_critical=share)
    figure = figures.information_flow(flow)
    assert overlapping(figure) == []
    assert len(texts(figure, "label")) == len(flow.arrows)


def test_everything_stays_on_the_page():
    for shown in ([make_flow(2, 2)], [make_flow(2, 2, example=(80, 52)), make_flow(2, 3)], [make_flow(4, 4)]):
        figure = figures.information_flow(*shown)
        figure.draw_without_rendering()
        axes = figure.axes[0]
        for artist in [*axes.texts, axes.get_legend()]:
            box = artist.get_window_extent()
            assert 0 <= box.x0 and box.x1 <= figure.bbox.x1, artist
            assert 0 <= box.y0 and box.y1 <= figure.bbox.y1, artist


def test_panels_side_by_side_do_not_overlap_and_fit_a_page():
    right = {"example": (80, 52), "outputs": (80, 52)}
    figure = figures.information_flow(make_flow(2, 2, **right), make_flow(2, 3, **right))
    assert overlapping(figure) == []
    assert figure.get_figwidth() <= 7.2


def test_every_critical_edge_with_attention_has_one_arrow_and_its_change():
    flow = make_flow(3, 3, share_critical=0.7)
    expected = [e for e in flow.ablation.critical if flow.patterns[e.layer, 0, e.query, e.key] > 0.04]
    assert 0 < len(expected) < len(flow.ablation.critical)
    figure = figures.information_flow(flow)
    assert [arrow.get_gid() for arrow in arrows(figure)] == [f"arrow {tuple(edge)}" for edge in expected]
    shown = {text.get_gid(): text.get_text() for text in texts(figure, "label")}
    changes = dict(zip(flow.ablation.edges, flow.ablation.deltas, strict=True))
    assert shown == {f"label {tuple(e)}": f"−{-100 * changes[e]:.1f}" for e in expected}


def test_arrow_width_grows_with_attention():
    flow = make_flow(3, 3)
    widths = [arrow.get_linewidth() for arrow in arrows(figures.information_flow(flow))]
    by_attention = np.argsort(list(flow.arrows.values()))
    assert (np.diff(np.array(widths)[by_attention]) >= 0).all() and np.ptp(widths) > 1


def test_of_several_heads_the_largest_attention_counts_unless_one_was_cut():
    both, first = make_flow(2, 2, n_heads=2), make_flow(2, 2, n_heads=2, head=0)
    edge = Edge(1, 4, 3)
    assert both.arrows[edge] == both.patterns[1, :, 4, 3].max()
    assert first.arrows[edge] == both.patterns[1, 0, 4, 3]


def test_special_tokens_are_words():
    tokens = [text.get_text() for text in texts(figures.information_flow(make_flow(2, 2)), "token")]
    assert "MASK" in tokens and "SEP" in tokens and len(tokens) == 3 * 5


def test_patterns_that_do_not_fit_the_lens_are_refused():
    flow = make_flow(2, 2)
    with pytest.raises(ValueError, match=r"patterns must have shape"):
        dataclasses.replace(flow, patterns=flow.patterns[:1])


def test_labels_without_room_are_left_off_and_counted(monkeypatch):
    monkeypatch.setattr("orderscale_jax.figures.flow_layout.WIDEST_COLUMN", 10.0)
    flow = make_flow(6, 2)
    figure = figures.information_flow(flow)
    assert overlapping(figure) == []
    missing = len(flow.arrows) - len(texts(figure, "label"))
    assert missing > 0 and f"{missing} numbers are left off" in caption_of(figure)


def caption_of(figure):
    return " ".join(texts(figure, "caption")[0].get_text().split())


def test_an_example_of_another_length_is_refused():
    with pytest.raises(ValueError, match="example must be a list of 2 digits, got 3"):
        make_flow(2, 2, example=(1, 2, 3))
    with pytest.raises(ValueError, match="outputs must be 2 tokens, got 1"):
        make_flow(2, 2, example=(1, 2), outputs=(1,))


def test_rows_of_outputs_tell_what_the_model_says_and_mark_errors():
    flow = make_flow(2, 2, example=(80, 52), outputs=(80, 101))
    figure = figures.information_flow(flow)
    assert overlapping(figure) == []
    rows = [text.get_text() for text in texts(figure, "row")]
    assert rows == ["d1 = 80", "d2 = 52", "SEP", "o1 says 80", f"o2 says SEP {WRONG}\nright: 52"]
    assert f"{WRONG}: a wrong answer" in caption_of(figure)
    flow = dataclasses.replace(flow, outputs=None)  # the lens at the end is then what it says
    said = flow.lens[-1, -2]
    assert flow.row_labels[3] == (f"o1 says {said}" if said == 80 else f"o1 says {said} {WRONG}\nright: 80")
    right = figures.information_flow(dataclasses.replace(flow, outputs=(80, 52)))
    assert WRONG not in "".join(text.get_text() for text in right.axes[0].texts)


def test_the_font_of_all_pictures_has_the_mark_of_an_error():
    font = matplotlib.font_manager.get_font(matplotlib.font_manager.findfont("DejaVu Sans"))
    assert font.get_char_index(ord(WRONG))


def game(n_edges, works):
    """Accuracies [2^E]: 0.9 of the sets, given as their edges, that work, 0.4 of others."""
    sets = ({e for e in range(n_edges) if i >> e & 1} for i in range(2**n_edges))
    return np.array([0.9 if works(kept) else 0.4 for kept in sets])


EDGES = tuple(Edge(0, 5, key) for key in range(5))
GAMES = {
    "one of two": (lambda s: 0 in s and s & {1, 2}, [({1}, {2})]),
    "one edge or two": (lambda s: {0, 3} <= s or 1 in s, [({0, 3}, {1})]),
    "two or two": (lambda s: {0, 3} <= s or {1, 4} <= s, [({0, 3}, {1, 4})]),
    "two of three": (lambda s: len(s & {0, 1, 2}) > 1, [({0}, {1})]),
    "all needed": (lambda s: {0, 1, 2, 3, 4} <= s, []),
    "none needed": (lambda s: True, []),
    "one of three": (lambda s: s & {0, 1, 2}, []),
    "two pairs": (lambda s: s & {0, 1} and s & {3, 4}, [({0}, {1}), ({3}, {4})]),
    "a chain": (lambda s: s & {0, 1} and s & {1, 2} and s & {2, 3}, [({0}, {1})]),
}


@pytest.mark.parametrize("name", GAMES)
def test_redundant_routes(name):
    works, expected = GAMES[name]
    found = figures.alternatives(EDGES, game(5, works))
    sides = [({EDGES.index(e) for e in x.first}, {EDGES.index(e) for e in x.second}) for x in found]
    assert sides == expected
    assert all(x.change == pytest.approx(-0.5) for x in found)


def test_redundant_routes_are_what_they_are_said_to_be():
    random, n_found = np.random.RandomState(0), 0
    for tolerance in (0.01, 0.2, 0.4):
        for _ in range(60):
            values = random.rand(16)
            for i in range(16):  # never better with fewer edges
                values[i] = max(values[j] for j in range(16) if i & j == j)
            worth = dict(enumerate(values))
            for x in figures.alternatives(EDGES[:4], values, tolerance=tolerance):
                n_found += 1
                first, second = ([1 << EDGES.index(e) for e in side] for side in (x.first, x.second))
                assert all(worth[15] - worth[15 - e] <= tolerance + 1e-8 for e in first + second)
                pairs = itertools.product(first, second)
                assert all(worth[15] - worth[15 - a - b] > tolerance for a, b in pairs)
                assert x.change == worth[15 - sum(first + second)] - worth[15]
    assert n_found > 30


def test_the_costliest_routes_come_first_and_a_loss_within_the_tolerance_is_none():
    values = game(4, lambda s: True)
    for cut, lost in (({0, 1}, 0.1), ({2, 3}, 0.3)):
        values -= [lost * (not {e for e in range(4) if i >> e & 1} & cut) for i in range(16)]
    found = figures.alternatives(EDGES[:4], values)
    assert [x.edges for x in found] == [EDGES[2:4], EDGES[:2]]
    assert len(figures.alternatives(EDGES[:4], values, tolerance=0.1)) == 1
    chain = game(4, lambda s: True)
    for cut, lost in (({0, 1}, 0.1), ({1, 2}, 0.3), ({2, 3}, 0.2)):
        chain -= [lost * (not {e for e in range(4) if i >> e & 1} & cut) for i in range(16)]
    assert [x.edges for x in figures.alternatives(EDGES[:4], chain)] == [EDGES[1:3]]
    with pytest.raises(UserError, match="4 edges have 16 sets; got 8 accuracies"):
        figures.alternatives(EDGES[:4], values[:8])


def with_routes(n=1, weight=0.9):
    """A flow without critical edges, with n pairs of redundant routes."""
    flow = make_flow(2, 3, share_critical=0)
    live = [e for e in flow.ablation.graph.live_edges if e.layer > 0]
    for edge in live:
        flow.patterns[edge.layer, 0, edge.query, edge.key] = weight
    routes = [figures.Alternatives((live[2 * i],), (live[2 * i + 1],), -0.4902 + 0.1 * i) for i in range(n)]
    return dataclasses.replace(flow, alternatives=tuple(routes))


def dashed_edges(figure):
    return [arrow.get_gid() for arrow in arrows(figure) if arrow.get_gid().startswith("dashed")]


def test_redundant_routes_are_dashed_with_one_number_for_both():
    flow = with_routes(2)
    figure = figures.information_flow(flow)
    assert overlapping(figure) == []
    edges = [edge for pair in flow.alternatives for edge in pair.edges]
    assert dashed_edges(figure) == [f"dashed {tuple(edge)}" for edge in edges]
    assert len(arrows(figure)) == len(edges)
    letters = {text.get_gid(): text.get_text() for text in texts(figure, "label")}
    assert letters == {f"label {tuple(e)}": letter for e, letter in zip(edges, "abcd", strict=True)}
    notes = [text.get_text() for text in texts(figure, "note")]
    assert notes == ["a or b suffices; both cut: −49.0", "c or d suffices; both cut: −39.0"]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "redundant route" in legend and "Dashed: no cut alone does" in caption_of(figure)
    plain = figures.information_flow(make_flow(2, 3))
    legend = [text.get_text() for text in plain.axes[0].get_legend().get_texts()]
    assert "redundant route" not in legend and "Dashed" not in caption_of(plain)


def test_a_route_that_gets_little_attention_is_not_drawn_and_is_counted():
    figure = figures.information_flow(with_routes(1, weight=0.03))
    assert dashed_edges(figure) == [] and texts(figure, "note") == []
    assert "1 more pair of routes is not drawn" in caption_of(figure)
    many = figures.information_flow(with_routes(4))
    assert len(dashed_edges(many)) == 6 and len(texts(many, "note")) == 3
    assert "1 more pair of routes is not drawn" in caption_of(many)


def test_the_caption_names_both_routes():
    edges = [[0, 2, 0], [1, 4, 2], [1, 4, 3]]
    accuracies = game(3, lambda s: s & {1, 2}).tolist()
    table = {"edges": edges, "accuracy_by_subset": accuracies, "tolerance": 0.01}
    results = SAID["two_layer"] | {"exact_circuit": {"zero": table}}
    (said,) = captions.information_flow(results)[2:]
    assert "L1 o2←SEP or L1 o2←o1" in said.replace("\u00a0", " ") and "−50.0" in said
    assert len(captions.information_flow(SAID["two_layer"])) == 2


def words_on(figure):
    """All words except tick labels: titles, axis labels, notes and legends."""
    words = [figure._suptitle] if figure._suptitle else []
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        words += legend.get_texts()
    for axes in figure.axes:
        words += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    return [word for word in words if word.get_text() and word.get_visible()]


def test_where_no_edge_matters_nothing_is_said_of_arrows():
    figure = figures.information_flow(make_flow(2, 2, share_critical=0))
    assert arrows(figure) == [] and overlapping(figure) == []
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["digits", "SEP", "outputs", "residual stream"]
    assert "There is no such edge." in caption_of(figure)
    assert "There is no solid arrow." in caption_of(figures.information_flow(with_routes()))


def check_words(figure):
    """Words lie on the page and not on each other."""
    figure.draw_without_rendering()
    words = boxes_of(words_on(figure))
    for word, box in words:
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, word
        assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, word
    assert [(a, b) for (a, p), (b, q) in itertools.combinations(words, 2) if p.overlaps(q)] == []


@pytest.mark.parametrize("list_len, n_layers", [(1, 1), (2, 2), (2, 3), (3, 3), (5, 2)])
def test_the_ablation_matrix_shows_every_edge_once(list_len, n_layers):
    ablation = make_flow(list_len, n_layers, share_critical=0.6).ablation
    figure = figures.ablation_matrix(ablation)
    check_words(figure)
    cells = {kind: [] for kind in ("live", "dead", "critical")}
    for layer in range(n_layers):
        for patch in figure.axes[layer].patches:
            cells[patch.get_gid()].append(Edge(layer, int(patch.get_y()), int(patch.get_x())))
    assert sorted(cells["live"] + cells["dead"]) == list(ablation.edges)
    assert cells["dead"] == [e for e, live in zip(ablation.edges, ablation.live, strict=True) if not live]
    assert cells["critical"] == list(ablation.critical)
    numbers = [text.get_text() for axes in figure.axes[:n_layers] for text in axes.texts]
    assert len(numbers) == (ablation.live.sum() if list_len <= 4 else 0)


def make_statistics(list_len, n_heads=1, n_layers=2, n_lists=50):
    random = np.random.RandomState(0)
    weights = random.dirichlet(np.ones(list_len), (2, n_lists, n_heads))
    positions = 2 * list_len + 1
    return AttentionStatistics(np.zeros((n_layers, n_heads, positions, positions)), 0.5, *weights)


@pytest.mark.parametrize("list_len, n_heads, n_layers", [(1, 1, 2), (2, 2, 2), (5, 1, 2), (2, 1, 1)])
def test_attention_histograms_count_every_list(list_len, n_heads, n_layers):
    figure = figures.attention_histograms(make_statistics(list_len, n_heads, n_layers))
    check_words(figure)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == min(n_layers, 2) * list_len  # in one layer outputs read nothing
    for axes in shown:
        shares = [steps.get_data().values.sum() for steps in axes.patches]
        np.testing.assert_allclose(shares, np.ones(n_heads))


def make_sep(list_len, n_heads=1, n_lists=60, correct=None):
    random = np.random.RandomState(0)
    pairs = tuple(itertools.combinations(range(list_len), 2))
    correct = random.rand(n_lists) < 0.7 if correct is None else np.full(n_lists, correct)
    gaps = np.full((2, len(pairs), n_heads), [[[0.5]], [[np.nan if correct.all() else 0.1]]])
    return SepAttention(0, random.randn(n_lists, n_heads, list_len), correct, pairs, *gaps)


@pytest.mark.parametrize(
    "list_len, n_heads, correct", [(2, 1, None), (2, 2, True), (3, 1, None), (4, 1, False)]
)
def test_sep_attention_shows_every_list_for_every_pair(list_len, n_heads, correct):
    sep = make_sep(list_len, n_heads, correct=correct)
    figure = figures.sep_attention_scores(sep)
    check_words(figure)
    assert len(figure.axes) == len(sep.pairs) * n_heads
    for axes in figure.axes:
        points = [len(p.get_offsets()) for p in axes.collections if isinstance(p, PathCollection)]
        assert points[:2] == [sep.correct.sum(), (~sep.correct).sum()]


@pytest.mark.parametrize("list_len, n_wrong", [(2, 40), (2, 0), (4, 10)])
def test_every_wrong_list_is_a_point(list_len, n_wrong):
    random = np.random.RandomState(0)
    lists = random.randint(0, 10, (n_wrong, list_len))
    wrong = random.rand(n_wrong, list_len) < 0.5
    wrong[:, -1] |= ~wrong.any(1)
    errors = ListErrors(lists, lists + wrong, 100)
    figure = figures.wrong_lists(errors, n_digits=10)
    check_words(figure)
    for axes, pair in zip(figure.axes, itertools.combinations(range(list_len), 2), strict=True):
        shown = np.concatenate([np.asarray(p.get_offsets()) for p in axes.collections])
        assert sorted(map(tuple, shown)) == sorted(map(tuple, lists[:, pair]))
    assert figure.get_suptitle() == f"{n_wrong} of 100 lists wrong"


def test_pictures_of_pairs_refuse_lists_of_one_digit():
    with pytest.raises(ValueError, match="at least two digits"):
        figures.sep_attention_scores(make_sep(1))
    with pytest.raises(ValueError, match="at least two digits"):
        figures.wrong_lists(ListErrors(np.zeros((3, 1), int), np.ones((3, 1), int), 10), n_digits=10)


def test_difference_bars_end_where_their_sum_line_ends():
    terms = dict.fromkeys(["P_o2", "neg_beta_sep_P_o1", "neg_beta_o1_alpha1_D1", "beta_o1_E_mask"], 2.5)
    figure = figures.difference_bars(Difference(90, -4.0, terms | {"neg_beta_o1_S": -1.0}, 0.8, {}))
    check_words(figure)
    axes = figure.axes[0]
    steps = next(patch for patch in axes.patches if hasattr(patch, "get_data"))
    np.testing.assert_allclose(steps.get_data().values, [-4, -1.5, 1, 3.5, 6, 5])
    bars = [patch.get_width() for patch in axes.containers[0]]
    np.testing.assert_allclose(bars, [-4, 2.5, 2.5, 2.5, 2.5, -1, 5])
    assert [text.get_text() for text in axes.texts] == [
        "−4.00", "+2.50", "+2.50", "+2.50", "+2.50", "−1.00", "+5.00"
    ]  # fmt: skip


def make_order(with_all=True):
    """An Order in which every number is another one."""
    shares = iter(np.linspace(0.01, 0.99, 400))

    def effect():
        return Effect(*(next(shares) for _ in range(5)))

    exchange = {name: effect() for name in EXCHANGES}
    counts, accuracy = np.array([3, 1_200, 7]), np.array([0.25, 0.5, np.nan])
    every = (4 * counts, accuracy / 2) if with_all else (None, None)
    return Order(
        n_lists=1210,
        g=np.zeros(4),
        c=0.0,
        fit_error=0.0,
        same_digit_larger=0.9,
        intact=effect(),
        exchange=exchange,
        random_vectors={name: effect() for name in EXCHANGES if name != "reversed_list"},
        steering={dose: (effect(), effect()) for dose in (0.0, 0.5)},
        scaling={factor: (effect(), effect()) for factor in (-1.0, 0.0, 2.0)},
        gaps=(0.0, 0.1, 0.5, 1.0),
        gap_lists=counts,
        gap_accuracy=accuracy,
        all_lists=every[0],
        all_accuracy=every[1],
    )


@pytest.mark.parametrize("with_all", [True, False])
def test_exchanges_stand_beside_their_names(with_all):
    found = make_order(with_all)
    figure = figures.order_exchanges(found)
    check_words(figure)
    effects, gaps, scaling, steering = figure.axes
    assert (
        all(axes.get_ylabel() for axes in (gaps, scaling)) and "dashed: a random" in legend_texts(figure)[2]
    )
    names = [label.get_text() for label in effects.get_yticklabels()]
    assert names == [EXCHANGES[name] for name in found.exchange][::-1]
    keys = [key for name in names for key, words in EXCHANGES.items() if words == name]
    lines = iter(effects.lines)
    for field in ("reversed", "right"):
        for of, lacking in ((found.exchange, ()), (found.random_vectors, ("reversed_list",))):
            expected = [(getattr(of[k], field), y) for y, k in enumerate(keys) if k not in lacking]
            np.testing.assert_allclose(np.transpose(next(lines).get_data()), expected)
    for axes, doses in ((scaling, found.scaling), (steering, found.steering)):
        expected = [
            [getattr(pair[i], f) for pair in doses.values()] for f in ("reversed", "right") for i in (0, 1)
        ]
        for line, values in zip(axes.lines, expected, strict=True):
            np.testing.assert_allclose(line.get_data(), [list(doses), values])
    drawn = [[bar.get_height() for bar in bars] for bars in gaps.containers]
    assert drawn == [[0.25, 0.5, 0], [0.125, 0.25, 0]][: 1 + with_all]
    counted = ["3", "1,200", "7", "12", "4,800", "28"][: 3 + 3 * with_all]
    assert [text.get_text() for text in gaps.texts] == counted


def test_a_census_draws_the_models_that_it_summarises():
    def order(share):
        return {"exchange": {name: {"reversed": share, "right": 1 - share} for name in EXCHANGES}}

    likeness = {key: {"jaccard": 0.5} for key in ("between_resamples", "between_modes", "between_draws")}
    circuits = {"zero": likeness | {"models": 2, "between_seeds": {"jaccard": None}}}
    said = {
        "models": {"two_layer": {str(seed): {"order": order(seed / 10)} for seed in range(5)}},
        "summary": {"two_layer": {"seeds": [0, 3], "circuits": circuits, "order": {}}},
    }
    figure = figures.census_overview(said)
    check_words(figure)
    *tables, below = figure.axes
    dots = [np.asarray(drawn.get_offsets())[:, 0] for drawn in below.collections]
    expected = [[0, 0.3]] * len(EXCHANGES) + [[1, 0.7]] * len(EXCHANGES)
    np.testing.assert_allclose(dots, expected)
    assert [axes.get_title(loc="center") for axes in tables] == [
        "lists resampled", "messages\nredrawn", "other meaning of a cut"
    ]  # fmt: skip
    (legend,) = [of for part in figure.subfigs for of in part.legends]
    assert [text.get_text() for text in legend.get_texts()] == ["lists reversed", "lists right"]
    with pytest.raises(UserError, match="no census to draw"):
        figures.census_overview({})


def test_a_census_tells_every_index_in_its_row_and_column():
    def found(*indices):
        modes = zip(("zero", "mean"), indices, strict=True)
        return {"circuits": {m: {"models": 3, "between_seeds": {"jaccard": x}} for m, x in modes}}

    figure = figures.census_overview({"summary": {"a": found(1.0, 0.79), "b": found(0.8, None)}})
    check_words(figure)
    (axes,) = figure.axes
    cells = {tuple(text.get_position()): text for text in axes.texts}
    assert {at: text.get_text() for at, text in cells.items()} == {
        (0, 0): "1.00", (1, 0): "0.79", (0, 1): "0.80"
    }  # fmt: skip
    assert [at for at, text in cells.items() if text.get_weight() == "bold"] == [(1, 0)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (3)", "b (3)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["zero", "mean"]


@pytest.mark.parametrize("n_runs, with_loss", [(1, True), (6, False), (12, False)])
def test_training_curves_mark_each_transition(n_runs, with_loss):
    steps = np.arange(0, 1001, 100)
    accuracies = [np.where(steps > 100 * run, 0.9, 0.5) for run in range(n_runs)]
    loss = 1 - accuracies[0] if with_loss else None
    curves = [figures.Curve(f"seed {i}", steps, accuracy, loss) for i, accuracy in enumerate(accuracies)]
    figure = figures.training_curves(*curves)
    check_words(figure)
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_gid() == "transition"]
    assert marks == [100 * (run + 1) for run in range(min(n_runs, 10))]
    assert len(figure.axes) == 1 + with_loss
    assert figures.Curve("flat", steps, np.full(len(steps), 0.5)).transition is None


@pytest.mark.parametrize("n_runs", [1, 3, 6, 12, 64])
def test_all_words_of_training_curves_lie_inside(n_runs):
    steps = np.arange(0, 100_001, 10_000)
    curves = [
        figures.Curve(f"seed {1_000 + i}, attempt {i}", steps, np.linspace(0.4, 0.95, 11))
        for i in range(n_runs)
    ]
    figure = figures.training_curves(*curves)
    check_words(figure)
    assert figure.axes[0].get_position().height * figure.get_figheight() > 1
    assert [len(of.get_texts()) for of in figure.legends] == [n_runs] * (n_runs <= 6)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and 0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_a_run_without_a_name_is_told_by_its_transition():
    figure = figures.training_curves(figures.Curve("", [0, 100], [0.5, 0.9]))
    assert legend_texts(figure) == ["transition 100"]


def test_a_curve_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match="seed 0"):
        figures.Curve("seed 0", [0, 1], [0.5])


def make_runs(transitions, steps=1000, **values):
    """A cell whose runs had these transitions, None for none, and trained so many steps."""
    transitions = np.array([np.nan if step is None else step for step in transitions], float)
    steps = np.broadcast_to(steps, transitions.shape).astype(int)
    return Summary(values, np.where(np.isfinite(transitions), 0.95, 0.5), transitions, steps)


FIVE = make_runs([100, None, 300, 300, None], [150, 200, 350, 350, 500])
NONE, ALL, ONE = make_runs([None] * 4), make_runs([100, 200, 300, 400]), make_runs([700])


def grid_of_runs():
    """Twelve cells: two alphabets, of one of which a cell is special, and six ways to make batches."""
    cells = [
        {"n_digits": digits, "layer_norm": False, "overrides": "", "batches": f"way {i}", "d_model": 64}
        for digits in (100, 30)
        for i in range(6)
    ]
    cells[7] |= {"layer_norm": True}
    return [make_runs([100 * (i + 1), None], **cell) for i, cell in enumerate(cells)]


@pytest.mark.parametrize("draw", [figures.outcome_strips, figures.success_rates])
def test_what_many_cells_share_is_said_once(draw):
    runs = grid_of_runs()
    figure = draw(runs)
    check_words(figure)
    (axes,) = figure.axes
    labels = {
        tick: label.get_text() for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }
    assert list(labels.values()) == [
        f"way {i}{', LayerNorm' * (k == 1 and i == 1)}" for k in range(2) for i in range(6)
    ]
    headings = {text.get_text(): text.get_position()[1] for text in axes.texts if text.get_gid() == "heading"}
    assert list(headings) == ["digits 100", "digits 30"]
    places = list(labels)
    assert np.diff(places).tolist() == [1] * 5 + [2] + [1] * 5
    assert headings["digits 100"] < places[0] and places[5] < headings["digits 30"] < places[6]
    assert axes.get_xlabel().endswith("\nall: width 64; unless said otherwise: no LayerNorm")


def test_runs_stand_at_the_labels_of_their_cells():
    runs = grid_of_runs()
    (axes,) = figures.outcome_strips(runs, "transition").axes
    for i, (place, line) in enumerate(zip(axes.get_yticks(), marked(axes, "runs"), strict=True)):
        assert line.get_xdata().tolist() == [100 * (i + 1)] and abs(line.get_ydata()[0] - place) < 0.5


def test_few_cells_are_named_in_full_and_none_is_left_without_a_name():
    (axes,) = figures.outcome_strips(grid_of_runs()[:8]).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "digits 100, no LayerNorm, way 0, width 64" and not axes.texts
    changed = [make_runs([1], overrides="w epsilon 1", d_model=i) for i in range(9)]
    silent = make_runs([1], overrides="", d_model=0)  # which says nothing of itself
    (axes,) = figures.outcome_strips([*changed, silent]).axes
    headings = [text.get_text() for text in axes.texts if text.get_gid() == "heading"]
    assert headings == ["epsilon 1 on w", "unchanged"]


def marked(axes, gid):
    return [artist for artist in [*axes.lines, *axes.collections] if artist.get_gid() == gid]


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_survival_curves_are_kaplan_and_meiers():
    figure = figures.survival_curves({"five runs": FIVE})
    check_words(figure)
    (axes,) = figure.axes
    (curve,), (band,), (stuck,) = (marked(axes, gid) for gid in ("curve", "band", "stuck"))
    assert curve.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(curve.get_xdata(), [0, 100, 200, 300, 500])
    np.testing.assert_allclose(curve.get_ydata(), [1, 4 / 5, 4 / 5, 4 / 5 * 1 / 3, 4 / 5 * 1 / 3])
    np.testing.assert_allclose(stuck.get_xydata(), [[200, 4 / 5], [500, 4 / 15]])
    corners = band.get_paths()[0].vertices
    assert (corners[:, 0].min(), corners[:, 0].max()) == (100, 500)
    at_first = corners[corners[:, 0] == 100][:, 1]  # as R's survfit has them with conf.type = "log-log"
    np.testing.assert_allclose([at_first.min(), at_first.max()], [0.204, 0.969], atol=5e-4)
    assert legend_texts(figure) == ["five runs: 3 of 5"]


@pytest.mark.parametrize("log", [False, True])
def test_survival_curves_of_none_all_and_one(log):
    figure = figures.survival_curves({"none": NONE, "all": ALL, "one": ONE}, log=log)
    check_words(figure)
    (axes,) = figure.axes
    none, every, one = (line.get_xydata()[1:].tolist() for line in marked(axes, "curve"))
    assert none == [[1000, 1]] and one == [[700, 0]]
    np.testing.assert_allclose(every, [[100, 0.75], [200, 0.5], [300, 0.25], [400, 0]])
    (band,) = marked(axes, "band")  # of those that all broke through, until the last did
    assert band.get_paths()[0].vertices[:, 0].max() == 400 and np.isfinite(band.get_paths()[0].vertices).all()
    assert [len(line.get_xdata()) for line in marked(axes, "stuck")] == [4, 0, 0]
    assert legend_texts(figure) == ["none: 0 of 4", "all: 4 of 4", "one: 1 of 1"]
    assert axes.get_xscale() == ("log" if log else "linear")


def test_survival_curves_that_run_together_lie_beside_each_other():
    cells = [make_runs([None] * 3, batch_size=2**i, layer_norm=False) for i in range(8)]
    figure = figures.survival_curves(cells)
    check_words(figure)
    heights = [line.get_transform().transform((500, 1))[1] for line in marked(figure.axes[0], "curve")]
    assert (np.diff(heights) < -0.5).all()
    assert legend_texts(figure) == [f"batch {2**i}, no LayerNorm: 0 of 3" for i in range(8)]
    assert len({(line.get_color(), line.get_linestyle()) for line in marked(figure.axes[0], "curve")}) == 8


@pytest.mark.parametrize(
    ("groups", "message"),
    [({}, "1 to 8 groups, got 0"), ([ALL] * 9, "got 9"), ({"no": make_runs([])}, "at least one run")],
)
def test_survival_curves_that_cannot_be_drawn(groups, message):
    with pytest.raises(ValueError, match=message):
        figures.survival_curves(groups)


LESS = make_runs([100, 200, None, None])  # half of its runs, so no upper quartile
RARE = make_runs([100, None, None, None])


def test_a_dose_response_shows_shares_above_and_steps_below():
    figure = figures.dose_response({"some": [(0.5, LESS), (0.0, ALL), (1.0, RARE)], "none": [(0.5, NONE)]})
    check_words(figure)
    above, below = figure.axes
    some, none = marked(above, "share")
    np.testing.assert_allclose(some.get_xydata(), [[0, 1], [0.5, 0.5], [1, 0.25]])
    np.testing.assert_allclose(none.get_xydata(), [[0.5, 0]])
    bars = [path.vertices[:, 1] for path in marked(above, "share bar")[0].get_paths()]
    np.testing.assert_allclose(bars, [wilson_interval(k, 4) for k in (4, 2, 1)])
    np.testing.assert_allclose(marked(below, "median")[0].get_xydata(), [[0, 200], [0.5, 200], [1, np.nan]])
    bars = [path.vertices[:, 1] for path in marked(below, "median bar")[0].get_paths()]
    top = below.get_ylim()[1]
    np.testing.assert_allclose(bars, [(100, 300), (100, top), (100, top)])
    assert [line.get_xdata().tolist() for line in marked(below, "endless")] == [[0.5, 1.0], []]
    at = [line.get_transform().transform((0.5, 0))[0] for line in marked(above, "share")]
    assert at[1] - at[0] > 4  # they are not drawn on each other
    assert legend_texts(figure) == ["some", "none"]
    assert [text.get_text() for text in below.get_xticklabels()] == ["0", "0.5", "1"]


def test_no_dose_stands_left_of_a_logarithmic_axis():
    figure = figures.dose_response({"": [(0, NONE), (1e-5, LESS), (1e-3, ALL), (1.1e-3, ALL)]}, log=True)
    check_words(figure)
    above, below = figure.axes
    x = marked(above, "share")[0].get_xdata()
    np.testing.assert_allclose(x[1:], [1e-5, 1e-3, 1.1e-3])
    assert below.get_xlim()[0] < x[0] < 1e-5 / 2
    assert [text.get_text() for text in below.get_xticklabels()] == ["0", "1e-5", "0.001"]  # one has no room
    np.testing.assert_allclose(below.get_xticks(), x[:3])
    np.testing.assert_allclose(below.get_xticks(minor=True), x[3:])
    for axes in figure.axes:
        (gap,) = (text for text in axes.texts if text.get_gid() == "break")
        assert x[0] < gap.get_position()[0] < 1e-5
    assert not figure.legends


def test_a_single_dose_without_a_transition():
    figure = figures.dose_response({"": [(3, NONE)]})
    check_words(figure)
    assert figure.axes[1].get_ylim() == (0, 1100) and np.isnan(
        marked(figure.axes[1], "median")[0].get_ydata()
    )


@pytest.mark.parametrize(
    ("series", "log", "message"),
    [
        ({}, False, "1 to 8 series, got 0"),
        ({str(i): [(1, ALL)] for i in range(9)}, False, "got 9"),
        ({"a": []}, False, "every series needs a dose"),
        ({"a": [(np.inf, ALL)]}, False, "must be finite"),
        ({"a": [(1, make_runs([]))]}, False, "at least one run"),
        ({"a": [(-1, ALL), (1, ALL)]}, True, "must not be negative"),
        ({"a": [(0, ALL)]}, True, "not all 0"),
    ],
)
def test_a_dose_response_that_cannot_be_drawn(series, log, message):
    with pytest.raises(ValueError, match=message):
        figures.dose_response(series, log=log)


def published(kind="two_layer"):
    return figures.read_published(SAID[kind], MEASURED[kind])


def test_the_published_flow_has_the_published_numbers():
    flow = published().flow
    assert {e: round(flow.deltas[e], 2) for e in flow.arrows} == {
        (0, 2, 0): -50.92, (0, 2, 1): -41.0, (1, 3, 2): -48.95, (1, 4, 2): -41.47, (1, 4, 3): -23.08
    }  # fmt: skip
    assert flow.row_labels == ("d1 = 80", "d2 = 52", "SEP", "o1 says 80", "o2 says 52")
    assert flow.lens[0].tolist() == [80, 52, 29, 51, 51] and flow.lens[-1].tolist() == [74, 74, 74, 80, 52]
    three = published("three_layer")
    assert three.flow.n_layers == 3 and not three.flow.alternatives
    assert three.difference is three.attention is three.sep is None
    figure = figures.information_flow(flow, make_flow(2, 2, example=(80, 52)))
    assert overlapping(figure) == []


def test_bars_of_two_models_are_on_one_scale():
    theirs = published().difference
    ours = dataclasses.replace(theirs, base=-40.0, terms={k: 2 * v for k, v in theirs.terms.items()})
    figure = figures.difference_bars(ours, theirs)
    check_words(figure)
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["published checkpoint", "this model"]
    for axes, of in ((left, theirs), (right, ours)):
        bars = [bar.get_width() for bar in axes.containers[0]]
        np.testing.assert_allclose(bars, [of.base, *of.terms.values(), of.final])
    assert theirs.final == pytest.approx(SAID["two_layer"]["logit_difference"]["final"], abs=1e-4)


def test_histograms_of_two_models_are_on_one_scale():
    theirs, ours = published().attention, make_statistics(2)
    figure = figures.attention_histograms(ours, theirs)
    check_words(figure)
    assert [part.get_suptitle() for part in figure.subfigs] == ["published checkpoint", "this model"]
    left, right = (part.axes for part in figure.subfigs)
    assert [axes.get_ylim() for axes in left] == [axes.get_ylim() for axes in right]
    for panels, of in ((left, theirs), (right, figures.AttentionHistograms.of(ours))):
        for axes, counts in zip(panels, of.counts[:, 0], strict=True):
            (steps,) = axes.patches
            np.testing.assert_allclose(steps.get_data().values, counts / of.n_lists)
            assert steps.get_data().values.max() <= axes.get_ylim()[1]
    said, names = SAID["two_layer"]["sep_attention"], ("alpha_d1", "alpha_d2", "beta_o2_sep", "beta_o2_o1")
    np.testing.assert_allclose(theirs.mean[:, 0], [said[f"{name}_mean"] for name in names], atol=1e-5)
    np.testing.assert_allclose(theirs.deviation[:, 0], [said[f"{name}_std"] for name in names], atol=1e-5)
    assert (theirs.counts.sum(-1) == theirs.n_lists).all() and theirs.counts.shape[-1] == len(BINS) - 1
    for other in (make_statistics(3), make_statistics(2, n_heads=2), make_statistics(2, n_layers=3)):
        with pytest.raises(UserError, match="one has lists of 2, 2 layers, 1 heads"):
            figures.attention_histograms(other, theirs)


def test_scores_of_two_models_are_on_one_scale():
    theirs, ours = published().sep, make_sep(2)
    figure = figures.sep_attention_scores(ours, theirs)
    check_words(figure)
    left, right = figure.axes
    assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    for axes, of in ((left, theirs), (right, ours)):
        points = [len(x.get_offsets()) for x in axes.collections]
        assert points[:2] == [of.correct.sum(), (~of.correct).sum()]
        low, high = axes.get_xlim()
        assert low < of.scores.min() and of.scores.max() < high
    said = SAID["two_layer"]["sep_attention"]
    gaps = float(theirs.gap_correct[0, 0]), float(theirs.gap_incorrect[0, 0])
    expected = said["score_gap_mean_correct"], said["score_gap_mean_incorrect"]
    assert gaps == pytest.approx(expected, abs=2e-3)
    assert (~theirs.correct).sum() == SAID["two_layer"]["wrong_lists"]["lists"]
    for other in (make_sep(3), make_sep(2, n_heads=2)):
        with pytest.raises(UserError, match="one head and lists of two digits"):
            figures.sep_attention_scores(other, theirs)


def reference(name):
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"there is no {path}: set ORDERSCALE_REFERENCE to the reference data")
    return path


@pytest.mark.parametrize("kind", MEASURED)
def test_what_is_stored_for_the_published_flows_is_so(kind):
    said, stored = SAID[kind], MEASURED[kind]
    arrays = read_arrays(reference(f"{said['name']}_weights.npz"))
    spelled = (arrays["embed.W_E"] @ arrays["unembed.W_U"]).argmax(-1)
    assert stored["embedding"] == spelled[said["logit_lens_first_val"]["tokens"]].tolist()
    table = json.loads(reference(f"circuits/{said['name']}.json").read_text("utf-8"))
    edges = [Edge(*edge) for edge in table["edges"]]
    routes = figures.alternatives(edges, table["zero"]["accuracy"])
    assert [x.edges for x in routes] == [x.edges for x in published(kind).flow.alternatives]


def test_what_is_stored_of_the_published_checkpoint_is_measured_on_it():
    arrays = read_arrays(reference(f"{SAID['two_layer']['name']}_weights.npz"))
    stored, found = MEASURED["two_layer"], measure(*from_torch(arrays), in_full=True)
    assert found.keys() == stored.keys() and found["alternatives"] == stored["alternatives"]
    assert found["embedding"] == stored["embedding"]
    moved = np.abs(np.subtract(found["attention"]["counts"], stored["attention"]["counts"])).sum()
    assert moved <= 8  # a handful lie at the edge of a bin
    for name in ("mean", "deviation"):
        np.testing.assert_allclose(found["attention"][name], stored["attention"][name], atol=1e-5)
    scores = (of["sep_scores"]["scores"] for of in (found, stored))
    np.testing.assert_allclose(*scores, atol=0.0101)
    assert len(set(found["sep_scores"]["wrong"]) ^ set(stored["sep_scores"]["wrong"])) <= 6


def test_a_report_leaves_out_pictures_that_would_be_empty(monkeypatch):
    monkeypatch.setattr(write, "figures", MagicMock())
    monkeypatch.setattr(write, "flow", MagicMock())
    found = MagicMock()
    for n_wrong in (0, 3):
        found.errors.lists = np.zeros((n_wrong, 2), int)
        assert ("wrong_lists" in write.draw(found)) == bool(n_wrong)
        assert "sep_attention" in write.draw(found)


def test_numbers_have_a_real_minus_and_no_negative_zero():
    assert [signed(x) for x in (-41.0, 3.06, -0.04, 0.0)] == ["−41.0", "+3.1", "0.0", "0.0"]


def test_save_writes_both_files_the_same_each_time(tmp_path, own_style):
    figure = figures.information_flow(make_flow(1, 1))
    png, pdf = figures.save(figure, tmp_path / "new" / "flow_0.5")
    assert (png.name, pdf.name) == ("flow_0.5.png", "flow_0.5.pdf")
    assert png.read_bytes().startswith(b"\x89PNG") and pdf.read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in pdf.read_bytes()
    before = png.read_bytes(), pdf.read_bytes()
    figures.save(figure, tmp_path / "new" / "flow_0.5")
    assert (png.read_bytes(), pdf.read_bytes()) == before
    assert len(list((tmp_path / "new").iterdir())) == 2
    (png,) = figures.save(figure, tmp_path / "alone", formats=("png",))
    assert png.read_bytes() == before[0] and not (tmp_path / "alone.pdf").exists()
    for formats in ("png", ("png", "jpg")):
        with pytest.raises(UserError, match="formats are some of"):
            figures.save(figure, tmp_path / "none", formats=formats)
    assert not list(tmp_path.glob("none*"))


def test_pyplot_and_global_settings_are_left_alone(forks):
    program = """
import sys, matplotlib
sys.path.insert(0, "")
from orderscale_jax.figures.style import STYLE
before = [matplotlib.rcParams[name] for name in STYLE]  # not all: asking for the backend loads pyplot
from tests.test_figures import figures, make_flow
figures.information_flow(make_flow(1, 1))
assert [matplotlib.rcParams[name] for name in STYLE] == before
assert "matplotlib.pyplot" not in sys.modules
"""
    assert forks.run(place=pathlib.Path(__file__).parents[1], code=program) == (0, "", "")
