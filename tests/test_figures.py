"""Pictures: nothing overlaps, every critical edge has its arrow, files are written whole."""

import dataclasses
import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from orderscale_jax import figures
from orderscale_jax.graph import Edge, Graph


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Stands for `EdgeAblation`, so that these tests need no model."""

    edges: tuple[Edge, ...]
    live: np.ndarray
    accuracies: np.ndarray
    accuracy: float = 0.95
    tolerance: float = 0.01
    mode: str = "renormalize"
    head: int | None = None

    @property
    def deltas(self):
        return self.accuracies - self.accuracy

    @property
    def critical(self):
        return tuple(e for e, d in zip(self.edges, self.deltas, strict=True) if d < -self.tolerance)


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
    ablation = Ablation(graph.edges, live, accuracies, head=head)
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


FLOWS = [(2, 2, 1.0), (2, 3, 1.0), (1, 1, 1.0), (1, 2, 1.0), (3, 3, 1.0), (4, 4, 1.0), (4, 4, 0.5)]


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
    figure = figures.information_flow(make_flow(2, 2, example=(80, 52)), make_flow(2, 3, example=(80, 52)))
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
    monkeypatch.setattr("orderscale_jax.figures.flow.WIDEST_COLUMN", 10.0)
    flow = make_flow(6, 2)
    figure = figures.information_flow(flow)
    assert overlapping(figure) == []
    missing = len(flow.arrows) - len(texts(figure, "label"))
    assert missing > 0 and f"{missing} numbers are left off" in texts(figure, "caption")[0].get_text()


def test_save_writes_both_files_the_same_each_time(tmp_path):
    figure = figures.information_flow(make_flow(1, 1))
    png, pdf = figures.save(figure, tmp_path / "new" / "flow_0.5")
    assert (png.name, pdf.name) == ("flow_0.5.png", "flow_0.5.pdf")
    assert png.read_bytes().startswith(b"\x89PNG") and pdf.read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in pdf.read_bytes()
    before = png.read_bytes(), pdf.read_bytes()
    figures.save(figure, tmp_path / "new" / "flow_0.5")
    assert (png.read_bytes(), pdf.read_bytes()) == before
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_pyplot_and_global_settings_are_left_alone():
    program = """
import sys, matplotlib
from orderscale_jax.figures.style import STYLE
before = [matplotlib.rcParams[name] for name in STYLE]  # not all: asking for the backend loads pyplot
from tests.test_figures import figures, make_flow
figures.information_flow(make_flow(1, 1))
assert [matplotlib.rcParams[name] for name in STYLE] == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[1])
