"""Cheap rankings of edges, the marks they get, and what is written for other tools."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from orderscale_jax import figures
from orderscale_jax.circuits import (
    CircuitTable,
    all_sets,
    circuit_table,
    find_circuits,
    score_sets,
    shapley_values,
    tabulate_comparison,
)
from orderscale_jax.circuits.approximations import (
    compare,
    greedy_backward,
    greedy_pruning,
    kernel_shap,
    single_edge,
)
from orderscale_jax.circuits.attribution import (
    METRICS,
    edge_attribution,
    integrated_activations,
    integrated_inputs,
    learned_masks,
)
from orderscale_jax.circuits.export import to_mib_graph, to_shapiq
from orderscale_jax.circuits.scoring import (
    auroc,
    best_marks,
    faithfulness,
    in_minimal,
    mark_ranking,
    nested_circuits,
    random_marks,
    ranking,
    spearman,
)
from orderscale_jax.errors import MissingPackage, UserError
from orderscale_jax.figures.comparison import METHODS
from orderscale_jax.graph import Graph
from orderscale_jax.model import CUTS, ListTransformer, ModelConfig, metrics
from orderscale_jax.model.cuts import cutting, donors, replacements
from orderscale_jax.model.interventions import Interventions

THREE = np.array([0, 1, 0, 3, 2, 3, 2, 8.0])  # worth of {}, a, b, ab, c, ac, bc, abc
HEADS = {"n_heads": 2, "frozen_heads": "block", "layer_norm": True, "bias": True}
EXACT = ("edge_attribution", "integrated_inputs", "integrated_activations")


def _model(double=False, **options) -> ListTransformer:
    config = ModelConfig(**{"d_model": 8, "list_len": 2, "n_digits": 6, **options})
    model = ListTransformer(config, rngs=nnx.Rngs(params=3))
    # larger weights, so that attention differs from edge to edge
    dtype = jnp.float64 if double else jnp.float32
    nnx.update(model, jax.tree.map(lambda x: (3 * x + 0.1).astype(dtype), nnx.state(model, nnx.Param)))
    return model


def _lists(count=13):
    return np.random.default_rng(0).integers(0, 6, (count, 2)).astype(np.int32)


def _metric(metric, logits, intact, lists):
    """The mean metric of logits, written anew."""
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(intact)
    right = np.eye(logits.shape[-1])[lists]
    if metric == "loss":
        return (log_p * right).sum(-1).mean().item()
    if metric == "kl":
        return -(np.exp(log_q) * (log_q - log_p)).sum(-1).mean().item()
    return ((logits * right).sum(-1) - np.where(right == 1, -np.inf, logits).max(-1)).mean()


def _worth(model, lists, mode, metric="logit_difference", seed=0):
    """A function of weights of edges [E]: the mean metric with them."""
    replaced, intact = replacements(model, lists, mode, seed=seed), model(lists)
    run = jax.jit(lambda keep: model(lists, cutting(model.config, keep, mode == "renormalize", replaced)))
    return lambda keep: float(_metric(metric, np.asarray(run(jnp.asarray(keep))), intact, lists))


@pytest.mark.parametrize("mode", CUTS)
def test_edge_attribution_is_a_derivative(mode, monkeypatch):
    monkeypatch.setattr("orderscale_jax.circuits.attribution.CHUNK", 8)  # 13 lists in two parts of 7
    with jax.enable_x64(True):
        model, lists, step = _model(double=True, layer_norm=True, n_heads=2), _lists(), 1e-6
        for metric in METRICS if mode == "mean" else ["logit_difference"]:
            found = edge_attribution(model, lists, mode, metric=metric, seed=4)
            worth, ones = _worth(model, lists, mode, metric, seed=4), np.ones(5)
            slopes = [(worth(ones + step * e) - worth(ones - step * e)) / (2 * step) for e in np.eye(5)]
            np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-7)
            assert (np.abs(found).max() > 0.01) == (metric != "kl")  # least in the intact model


@pytest.mark.parametrize(
    ("mode", "options"), [("zero", {}), ("renormalize", HEADS), ("mean", {}), ("resample", {})]
)
def test_a_path_that_is_the_intact_input_gives_the_derivative(mode, options):
    model, lists = _model(**options), _lists()
    at_end = integrated_inputs(model, lists, mode, points=[1.0], seed=2)
    np.testing.assert_allclose(at_end, edge_attribution(model, lists, mode, seed=2), rtol=1e-4, atol=1e-5)
    parts = [integrated_inputs(model, lists, mode, points=[x], seed=2) for x in (0.25, 0.75)]
    assert np.abs(parts[0] - at_end).max() > 5e-4
    if mode == "mean":
        whole = integrated_inputs(model, lists, mode, steps=2, seed=2)
        np.testing.assert_allclose(whole, np.mean(parts, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["renormalize", "mean", "resample"])
def test_the_path_starts_at_the_baseline(mode):
    model, lists = _model(), _lists()
    embedded = np.concatenate([np.broadcast_to(x, (13, *x.shape[1:])) for x in model.stations(lists)], 1)
    baseline = {
        "mean": np.broadcast_to(embedded.mean(0), embedded.shape),
        "resample": embedded[donors(13, 3)],
    }.get(mode, np.zeros_like(embedded))
    residuals = np.zeros((3, *embedded.shape), np.float32)
    residuals[0] = baseline
    at = np.zeros((3, 5), bool)
    at[0] = True
    edge, step = model.config.graph.live_edges.index((0, 2, 0)), 1e-2
    # what d1's message to SEP is worth there: its first-order part, by differences
    _, trace = model(lists, trace=True)
    weight, stand_in = trace.patterns[0, :, 0, 2, 0, None], replacements(model, lists, mode, seed=3)
    message = weight * embedded[:, 0]
    if mode == "renormalize":
        message = weight * (embedded[:, 0] - (trace.patterns[0, :, 0, 2, :2, None] * embedded[:, :2]).sum(1))
    elif stand_in is not None:
        message = message - stand_in[edge]

    def worth(amount):
        added = np.zeros((2, *embedded.shape), np.float32)
        added[0, :, 2] = amount * message
        logits = model(lists, Interventions(residuals=residuals, residuals_at=at, added=added))
        return _metric("loss", np.asarray(logits, float), model(lists), lists)

    found = integrated_inputs(model, lists, mode, metric="loss", points=[0.0], seed=3)[edge]
    assert found == pytest.approx((worth(step) - worth(-step)) / (2 * step), rel=0.02, abs=2e-3)


@pytest.mark.parametrize("mode", ["zero", "resample"])
def test_scores_of_a_layer_add_up(mode):
    model, lists = _model(n_layers=3), _lists()
    layers = np.array([edge.layer for edge in model.config.graph.live_edges])
    worth = _worth(model, lists, mode, "loss", seed=1)
    found = integrated_activations(model, lists, mode, metric="loss", steps=60, seed=1)
    for layer in range(3):
        lost = worth(np.ones(len(layers), np.float32)) - worth((layers != layer).astype(np.float32))
        assert found[layers == layer].sum() == pytest.approx(lost, abs=2e-2)
        assert abs(lost) > 0.1


def test_rescaling_hides_the_only_edge_of_a_row():
    model, lists = _model(), _lists()
    only = model.config.graph.live_edges.index((1, 3, 2))  # o1 reads nothing but SEP
    worth = _worth(model, lists, "renormalize")
    ones = np.ones(5, np.float32)
    assert abs(worth(ones) - worth(ones - np.eye(5, dtype=np.float32)[only])) > 0.1
    for found in (edge_attribution(model, lists), integrated_activations(model, lists)):
        assert abs(found[only]) < 1e-4 < np.abs(found).max()


def test_masks_keep_what_is_worth_its_price():
    lists, few = _lists(40), {"metric": "loss", "n_lists": 32, "n_groups": 8, "steps": 60}
    model = _model(**HEADS)
    values = -circuit_table(model, lists, "zero").values("loss")
    has = np.arange(32)[:, None] >> np.arange(5) & 1 == 1
    gains = np.array([values[x].mean() - values[~x].mean() for x in has.T])
    most, least = gains.argmax(), gains.argmin()
    assert gains[most] > 1 and gains[least] < -1
    free, fair, dear = (learned_masks(model, lists, "zero", lambdas=[x, x], **few) for x in (0.0, 0.5, 1e3))
    assert free[most] > 0.9 and free[least] < 0.5
    assert fair[most] > 0.8 and (np.delete(fair, most) < 0.7).all()
    assert (dear < 0.1).all()
    both = learned_masks(model, lists, "zero", lambdas=[0.0, 1e3], **few)
    np.testing.assert_allclose(both, (free + dear) / 2, atol=1e-3)


@pytest.mark.parametrize("mode", CUTS)
def test_masks_are_learned_as_written_out(mode):
    """Three steps, group by group: the mean gradient of what weighs between 0 and 1, taken by Adam."""
    model, lists = _model(**HEADS), _lists(40)
    found = learned_masks(
        model, lists, mode, metric="loss", lambdas=[0.2], n_lists=8, n_groups=4, steps=3, seed=3
    )
    replaced, penalty = replacements(model, lists, mode, seed=3), 0.2

    @jax.jit
    def gradient(keep, group, given):
        def worth(keep):
            logits = model(group, cutting(model.config, keep, mode == "renormalize", given))
            return -metrics.token_losses(logits, group).mean()

        return jax.grad(worth)(keep)

    log_odds, optimiser = jnp.ones(5), optax.adam(0.1)
    state = optimiser.init(log_odds)
    for key in jax.random.split(jax.random.key(3), 3):
        which, between, drawn, kind = jax.random.split(key, 4)
        theta = jax.nn.sigmoid(log_odds)
        indices = np.asarray(jax.random.randint(which, (4, 2), 0, 40))
        free = np.asarray(jax.random.uniform(kind, (4, 5)) < 0.25)
        keep = np.where(
            free, jax.random.uniform(between, (4, 5)), jax.random.uniform(drawn, (4, 5)) < theta
        ).astype(np.float32)
        gains = np.zeros(5)
        for g in range(4):
            given = replaced[:, indices[g]] if mode == "resample" else replaced
            gains += free[g] * np.asarray(gradient(keep[g], lists[indices[g]], given))
        gain = gains / np.maximum(free.sum(0), 1) - penalty
        updates, state = optimiser.update(-jnp.asarray(gain) * theta * (1 - theta), state)
        log_odds += updates
    np.testing.assert_allclose(found, jax.nn.sigmoid(log_odds), atol=1e-4)


def test_a_game_of_three_edges_by_hand():
    np.testing.assert_array_equal(single_edge(THREE), [6, 5, 5])
    # c, b, a from abc: 5, then of what is left. At tau 5 c goes (8 to 3), b goes (3 to 1), a goes (1 to 0).
    np.testing.assert_array_equal(greedy_pruning(THREE), [5, 5, 5])
    # c and b cost 5 each, the last goes first; of ab b costs 2 and a 3
    np.testing.assert_array_equal(greedy_backward(THREE), [2, 1, 0])
    np.testing.assert_array_equal(faithfulness(THREE), THREE / 8)
    np.testing.assert_array_equal(ranking(np.array([1.0, 3, 1])), [1, 0, 2])
    np.testing.assert_array_equal(nested_circuits(np.array([1.0, 3, 1])), [0, 2, 3, 7])


def test_pruning_goes_from_the_last_edge_to_the_first():
    # c alone costs 1, b then 3, a then 6; at 0 nothing goes
    chain = np.array([0, 6, 3, 9, 1, 7, 4, 10.0])
    np.testing.assert_array_equal(greedy_pruning(chain), [6, 3, 1])
    # c or b is enough: the last goes for nothing, and what it stood in for then counts
    either = np.array([0, 0, 1, 1, 1, 1, 1, 1.0])
    np.testing.assert_array_equal(greedy_pruning(either), [0, 1, 0])
    # cutting c helps by 2
    np.testing.assert_array_equal(greedy_pruning(np.array([0, 2, 5, 7, -2, 0, 3, 5.0])), [2, 5, -2])


def test_marks_by_hand():
    members = np.array([True, False, True])
    marks = mark_ranking(np.array([0.5, -2, 0.1]), THREE, members)  # a, c, b; by size b, a, c
    assert marks.cpr == pytest.approx((0 + 2 * 1 + 2 * 3 + 8) / 8 / 6)
    assert marks.cmd == pytest.approx((8 + 2 * 8 + 2 * 5 + 0) / 8 / 6)
    np.testing.assert_array_equal(marks.regret, [0, 1, 0, 0])  # c is worth 2, ab and ac 3
    assert (marks.mean_regret, marks.max_regret) == (0.25, 1)
    assert marks.auroc == 1
    assert marks.spearman == pytest.approx(np.sqrt(3) / 2)  # ranks 3, 1, 2 and 2.5, 1, 2.5
    chance = random_marks(THREE, members)
    assert chance.cpr == pytest.approx((0 + 2 * 1 + 2 * 8 / 3 + 8) / 8 / 6)
    np.testing.assert_allclose(chance.regret, [0, 1, 1 / 3, 0])
    best = best_marks(THREE)
    assert best.cpr == pytest.approx((0 + 2 * 2 + 2 * 3 + 8) / 8 / 6)
    assert best.cmd == pytest.approx((8 + 2 * 6 + 2 * 5 + 0) / 8 / 6)


def test_chance_is_the_mean_over_rankings():
    rng = np.random.default_rng(0)
    values, members = rng.normal(size=32), np.array([1, 0, 1, 1, 0], bool)
    drawn = [mark_ranking(rng.permutation(5) + 1.0, values, members) for _ in range(1500)]
    chance = random_marks(values, members)
    span = abs(values[-1] - values[0])
    assert np.mean([x.cpr for x in drawn]) == pytest.approx(chance.cpr, abs=0.08 / span)
    assert np.mean([x.cmd for x in drawn]) == pytest.approx(chance.cmd, abs=0.08 / span)
    np.testing.assert_allclose(np.mean([x.regret for x in drawn], 0), chance.regret, atol=0.08)
    assert np.mean([x.auroc for x in drawn]) == pytest.approx(chance.auroc, abs=0.03)
    assert max(x.cpr for x in drawn) <= best_marks(values).cpr + 1e-9
    assert min(x.cmd for x in drawn) >= best_marks(values).cmd - 1e-9


def test_an_ideal_ranking_regrets_nothing():
    values = np.array([sum(w for e, w in enumerate((4, 1, 3, 2)) if s >> e & 1) for s in range(16)], float)
    members = np.array([True, False, True, False])
    for scores in (
        shapley_values(values),
        single_edge(values),
        greedy_backward(values),
        greedy_pruning(values),
    ):
        marks = mark_ranking(scores, values, members)
        assert marks.max_regret == 0 and marks.cpr == pytest.approx(best_marks(values).cpr)
        assert marks.spearman == pytest.approx(1) and marks.auroc == 1
    worst = mark_ranking(-shapley_values(values), values, members)
    np.testing.assert_allclose(worst.regret, [0, 3, 4, 3, 0])
    assert worst.spearman == pytest.approx(-1) and worst.auroc == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, bool])
def test_games_of_any_type(dtype):
    given = (THREE > 2 if dtype is bool else THREE).astype(dtype)
    values, members = given.astype(float), np.array([True, False, True])
    for of in (single_edge, greedy_pruning, greedy_backward, kernel_shap, faithfulness):
        np.testing.assert_array_equal(of(given), of(values))
    scores = np.array([3, 1, 2], np.uint8)
    for ours, theirs in (
        (mark_ranking(scores, given, members), mark_ranking(scores.astype(float), values, members)),
        (random_marks(given, members), random_marks(values, members)),
        (best_marks(given), best_marks(values)),
    ):
        np.testing.assert_equal(vars(ours), vars(theirs))


def test_areas_under_curves_and_ranks_by_hand():
    members = np.array([1, 0, 1, 0, 0], bool)
    assert auroc(np.array([3, 3, 1, 2, 0.0]), members) == pytest.approx((0.5 + 1 + 1 + 0 + 0 + 1) / 6)
    assert auroc(np.ones(5), members) == 0.5
    assert auroc(np.ones(5), np.ones(5)) is None and auroc(np.ones(5), np.zeros(5)) is None
    assert spearman(np.array([1, 5, 9.0]), np.array([-3, 4, 2.0])) == pytest.approx(0.5)
    assert spearman(np.ones(3), np.arange(3)) is None
    np.testing.assert_array_equal(in_minimal((3, 9), 5), [True, True, False, True, False])
    flat = mark_ranking(np.arange(2.0), np.zeros(4), np.zeros(2))
    assert np.isnan(flat.cpr) and flat.spearman is None and flat.max_regret == 0


def test_kernel_shap():
    rng = np.random.default_rng(1)
    for n_edges in range(7):
        values = rng.normal(size=2**n_edges)
        np.testing.assert_allclose(kernel_shap(values), shapley_values(values), atol=1e-10)
    few = kernel_shap(values, 20, seed=2)
    assert few.sum() == pytest.approx(values[-1] - values[0])
    assert np.abs(few - shapley_values(values)).max() > 1e-3
    weights = rng.normal(size=6)
    additive = np.array([sum(w for e, w in enumerate(weights) if s >> e & 1) for s in range(64)])
    np.testing.assert_allclose(kernel_shap(additive, 30, seed=2), weights, atol=1e-10)


def test_drawn_sets_come_close_to_shapley_values():
    values = np.random.default_rng(5).normal(size=256)
    exact = shapley_values(values)
    off = np.mean([kernel_shap(values, 200, seed=s) for s in range(200)], 0) - exact
    assert np.abs(off).max() < 0.1 * np.abs(exact).max()


def test_comparison():
    model, lists = _model(), _lists(30)
    table = circuit_table(model, lists, "resample", seed=3)
    found = compare(model, lists, table, metric="loss", tolerance=0.05)
    values, named = -table.values("loss"), dict(zip(found.methods, found.scores, strict=True))
    expected = {f.__name__: f(values) for f in (single_edge, greedy_pruning, greedy_backward, shapley_values)}
    expected["kernel_shap"] = kernel_shap(values, 128, 3)
    for method in (edge_attribution, integrated_inputs, integrated_activations, learned_masks):
        expected[method.__name__] = method(model, lists, "resample", metric="loss", seed=3)
    assert set(named) == set(expected)
    for name, scores in expected.items():
        np.testing.assert_array_equal(named[name], scores, err_msg=name)
    assert found.marks[found.methods.index("shapley_values")].spearman == pytest.approx(1)
    members = in_minimal(find_circuits(table, tolerance=0.05).minimal, 5)
    for scores, marks in zip(found.scores, found.marks, strict=True):
        assert marks.auroc == auroc(scores, members)
        assert marks.cpr <= found.best.cpr + 1e-12 and marks.cmd >= found.best.cmd - 1e-12
        np.testing.assert_array_equal(marks.regret, mark_ranking(scores, values, members).regret)
    lines = found.table().splitlines()
    assert len(lines) == 1 + 9 + 2 and "resample, loss" in lines[0] and "CPR" in lines[0]
    assert [line.split("  ")[0] for line in lines[1:]] == [*found.methods, "random", "best of each size"]
    told = tabulate_comparison(found)["marks"]
    assert list(told) == [*found.methods, "random", "best"]
    assert told["random"]["mean_regret"] == found.random.mean_regret
    figure = figures.regret_curves({"mean": found})
    (axes,) = figure.axes
    for line, marks in zip(axes.lines, found.marks, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), marks.regret)
        np.testing.assert_array_equal(line.get_xdata(), range(6))
    assert [line.get_label() for line in axes.lines] == [METHODS[name][0] for name in found.methods]
    (shade,) = axes.collections
    assert shade.get_datalim(axes.transData).y1 == pytest.approx(found.random.max_regret)
    assert axes.get_title(loc="left") == "cut: mean" and axes.get_ylabel().startswith("loss")
    with pytest.raises(UserError, match="of accuracy, loss"):
        figures.regret_curves({"mean": found, "zero": dataclasses.replace(found, measure="accuracy")})


def test_shapiq_reads_a_table():
    shapiq = pytest.importorskip("shapiq")
    model, lists = _model(), _lists(30)
    table = circuit_table(model, lists, "zero")
    game = to_shapiq(table, "loss")
    values = -table.values("loss")
    np.testing.assert_allclose(game(table.kept), values - values[0])
    exact = shapiq.ExactComputer(game, n_players=5)("SV", order=1)
    expected = shapley_values(values)
    np.testing.assert_allclose([exact[(e,)] for e in range(5)], expected, atol=1e-8)
    drawn = shapiq.KernelSHAP(n=5, random_state=0).approximate(2**5, game)
    np.testing.assert_allclose([drawn[(e,)] for e in range(5)], expected, atol=1e-6)


def test_the_form_of_circuit_files():
    graph = Graph(list_len=2, n_layers=2)
    assert [graph.label(e) for e in graph.live_edges] == [
        "L0 SEP<-d1", "L0 SEP<-d2", "L1 o1<-SEP", "L1 o2<-SEP", "L1 o2<-o1",
    ]  # fmt: skip
    found = json.loads(json.dumps(to_mib_graph(graph, [1, 2, 3, 4, 5.5], np.array([1, 0, 0, 0, 1], bool))))
    assert set(found) == {"cfg", "nodes", "edges"} and found["cfg"] == {"n_layers": 2, "list_len": 2}
    assert len(found["edges"]) == 13 and len(found["nodes"]) == 3 * 5 + 1
    assert found["edges"]["input.d1->a0.SEP"] == {"score": 1.0, "in_graph": True}
    assert found["edges"]["input.d2->a0.SEP"] == {"score": 2.0, "in_graph": False}
    assert found["edges"]["a0.o1->a1.o2"] == {"score": 5.5, "in_graph": True}
    assert found["edges"]["input.d1->a0.d2"] == {"score": 0.0, "in_graph": False}
    inside = {name for name, node in found["nodes"].items() if node["in_graph"]}
    assert inside == {"input.d1", "a0.SEP", "a0.o1", "a1.o2", "logits"}
    assert sum(edge["in_graph"] for edge in to_mib_graph(graph, np.zeros(5))["edges"].values()) == 5


def test_what_is_wrong_is_said(monkeypatch):
    model, lists = _model(), _lists()
    table, graph = circuit_table(model, lists), model.config.graph
    flat, other, broken, few = (
        _model(n_layers=1),
        _model(),
        _model(),
        score_sets(model, lists, all_sets(5)[:9]),
    )
    for changed, amount in ((other, 0.1), (broken, jnp.nan)):
        changed.embed.W_E[...] = changed.embed.W_E[...].at[0, 0].add(amount)
    for wrong, said in {
        lambda: edge_attribution(model, lists, metric="accuracy"): "logit_difference, loss, kl",
        lambda: edge_attribution(model, lists, "off"): "renormalize, zero, mean, resample",
        lambda: edge_attribution(model, lists[:0]): "at least one",
        lambda: edge_attribution(graph, lists): "ListTransformer",
        lambda: integrated_inputs(model, lists, steps=0): "steps",
        lambda: integrated_inputs(model, lists, points=[]): "from 0 to 1",
        lambda: integrated_inputs(model, lists, points=[1.5]): "from 0 to 1",
        lambda: learned_masks(model, lists, n_lists=10, n_groups=4): "multiple",
        lambda: integrated_inputs(model, lists, points="ab"): "points must hold numbers",
        lambda: integrated_activations(model, lists, seed=1.5): "seed must be",
        lambda: learned_masks(model, lists, lambdas=[-1.0]): r"from 0 to 1e\+09",
        lambda: learned_masks(model, lists, lambdas=[1e20]): r"from 0 to 1e\+09",
        lambda: learned_masks(model, lists, lambdas="dear"): "lambdas must hold numbers",
        lambda: learned_masks(model, lists, lambdas=[[1.0], [1.0, 2.0]]): "rows of different lengths",
        lambda: learned_masks(model, lists, learning_rate=np.nan): "learning_rate must hold finite numbers",
        lambda: learned_masks(model, lists, learning_rate="x"): "learning_rate must hold numbers",
        lambda: learned_masks(model, lists, learning_rate=0): "learning_rate must be a number above 0",
        lambda: learned_masks(model, lists, learning_rate=[0.1]): "learning_rate must be a number above 0",
        lambda: learned_masks(model, lists, seed=None): "seed must be",
        lambda: learned_masks(flat, lists): "no live edge",
        lambda: edge_attribution(flat, lists): "no live edge",
        lambda: compare(flat, lists, circuit_table(flat, lists)): "no live edge",
        lambda: edge_attribution(broken, lists): "not finite",
        lambda: compare(broken, lists, table): "not finite",
        lambda: compare(model, lists, table, tolerance=1): "from 0 to below 1",
        lambda: compare(model, 5, table): r"\[B, 2\]",
        lambda: compare(other, lists, table): "not of this model and these lists",
        lambda: compare(model, 5 - lists, table): "not of this model and these lists",
        lambda: compare(model, lists, few): "or not of all sets",
        lambda: kernel_shap(THREE, 0): "n_samples",
        lambda: single_edge(np.zeros(3)): r"2\^E",
        lambda: mark_ranking(np.zeros(2), THREE, np.ones(3)): "3 finite numbers",
        lambda: mark_ranking(np.array([0, np.nan, 0]), THREE, np.ones(3)): "finite numbers, and one is nan",
        lambda: mark_ranking(np.zeros(3), THREE, np.ones(2)): "3 truth values",
        lambda: random_marks(THREE, np.ones(2)): "3 truth values",
        lambda: best_marks([0.0, np.inf]): "finite numbers, and one is inf",
        lambda: faithfulness(["a", "b"]): "must hold numbers",
        lambda: greedy_pruning(np.array([0, 1, np.nan, 2])): "finite numbers, and one is nan",
        lambda: greedy_backward(np.array([0, 1, np.nan, 2])): "finite numbers, and one is nan",
        lambda: kernel_shap(THREE, seed=-1): "seed must be a whole number from 0 to 4294967295",
        lambda: kernel_shap(THREE, n_samples=True): "n_samples must be",
        lambda: compare(model, lists[:5], table): "not of this model and these lists",
        lambda: compare(_model(n_layers=3), lists, table): "not of this model and these lists",
        lambda: compare(model, lists, table, measure="acc"): "measure must be one of",
        lambda: to_mib_graph(graph, np.zeros(4)): "5 finite numbers",
        lambda: to_mib_graph(graph, np.zeros(5), np.ones(5)): "5 truth values",
        lambda: to_mib_graph(model, np.zeros(5)): "Graph",
        lambda: to_shapiq(table, "acc"): "measure must be one of",
    }.items():
        with pytest.raises(UserError, match=said):
            wrong()
    monkeypatch.setitem(sys.modules, "shapiq", None)
    assert isinstance(table, CircuitTable)
    with pytest.raises(MissingPackage, match="pip install shapiq"):
        to_shapiq(table)
