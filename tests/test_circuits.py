"""Exact circuits: the table of all sets of edges, and what follows from a game on them."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_reference import REFERENCE

from orderscale_jax import figures
from orderscale_jax.analysis import ablate_edges, ablate_jointly, observe
from orderscale_jax.circuits import (
    MEASURES,
    all_sets,
    as_game,
    circuit_table,
    find_circuits,
    greedy_circuit,
    interactions,
    inverse_moebius,
    minimal_sets,
    moebius,
    pair_kinds,
    sample_shapley,
    score_sets,
    search_circuits,
    shapley_values,
    tabulate_circuits,
    tabulate_samples,
)
from orderscale_jax.circuits.versions import plan
from orderscale_jax.convert import from_torch, read_arrays
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Graph
from orderscale_jax.model import CUTS, ListTransformer, ModelConfig, metrics
from orderscale_jax.model.cuts import cutting, donors, replacements
from orderscale_jax.task import TaskConfig, make_split

VARIANTS = {
    "plain": {},
    "three layers": {"n_layers": 3},
    "one layer": {"n_layers": 1},
    "three digits": {"list_len": 3},
    "LayerNorm, biases": {"layer_norm": True, "bias": True},
    "MLP, learned projections": {"mlp": True, "learn_wv": True, "learn_wo": True},
    "heads": {"n_heads": 2, "frozen_heads": "block"},
}


def _model(**options) -> ListTransformer:
    config = ModelConfig(**{"d_model": 8, "list_len": 2, "n_digits": 6, **options})
    model = ListTransformer(config, rngs=nnx.Rngs(params=3))
    # larger weights, so that attention differs from edge to edge
    nnx.update(model, jax.tree.map(lambda x: 3 * x + 0.1, nnx.state(model, nnx.Param)))
    return model


def _lists(model, count=31, seed=0):  # odd; and of one shape, so that most programs are compiled once
    config = model.config
    return np.random.default_rng(seed).integers(0, config.n_digits, (count, config.list_len)).astype(np.int32)


@pytest.mark.parametrize(
    ("variant", "mode"),
    [
        ("plain", "zero"),
        ("three layers", "renormalize"),
        ("three layers", "mean"),
        ("three digits", "zero"),
        ("heads", "renormalize"),
        ("LayerNorm, biases", "resample"),
        ("MLP, learned projections", "resample"),
        ("one layer", "zero"),
    ],
)
def test_every_row_is_a_forward_pass(variant, mode):
    model = _model(**VARIANTS[variant])
    lists = _lists(model)
    edges = model.config.graph.live_edges
    kept = all_sets(len(edges))
    if len(kept) > 64:
        kept = kept[np.random.default_rng(1).choice(len(kept), 40, replace=False)]
    table = score_sets(model, lists, kept, mode, seed=5)
    replaced = replacements(model, lists, mode, seed=5)

    @jax.jit
    def seen(keeps):
        intact = jax.nn.log_softmax(model(lists))

        def of(keep):
            logits = model(lists, cutting(model.config, keep, mode == "renormalize", replaced))
            kl = (jnp.exp(intact) * (intact - jax.nn.log_softmax(logits))).sum(-1)
            return logits, metrics.is_correct(logits, lists), metrics.token_losses(logits, lists), kl

        return jax.lax.map(of, keeps)

    for row, (logits, right, losses, kl) in enumerate(
        zip(*map(np.asarray, seen(kept.astype(np.float32))), strict=True)
    ):
        np.testing.assert_array_equal(table.correct(row), right)
        others = np.where(np.arange(logits.shape[-1]) == lists[..., None], -np.inf, logits)
        margins = np.take_along_axis(logits, lists[..., None], -1)[..., 0] - others.max(-1)
        for name, found in {"loss": losses, "logit_difference": margins, "kl": kl}.items():
            np.testing.assert_allclose(getattr(table, name)[row], found.mean(0), rtol=1e-4, atol=1e-4)
            worst = found.mean(1).min() if name == "logit_difference" else found.mean(1).max()
            np.testing.assert_allclose(table.worst[name][row], worst, rtol=1e-4, atol=1e-4)
        assert table.list_accuracy[row] == right.all(1).mean()
        assert table.worst["accuracy"][row] == pytest.approx(right.mean(1).min())
        assert table.worst["list_accuracy"][row] == right.all(1).min()


@pytest.mark.parametrize(
    ("variant", "mode"),
    [
        *itertools.product(["plain"], CUTS),
        ("three layers", "zero"),
        ("three layers", "resample"),
        ("LayerNorm, biases", "renormalize"),
        ("LayerNorm, biases", "mean"),
    ],
)
def test_single_and_joint_ablations_are_rows(variant, mode):
    model = _model(**VARIANTS[variant])
    lists = _lists(model)
    table, edges = circuit_table(model, lists, mode), model.config.graph.live_edges
    full, seen = len(table.kept) - 1, observe(model, lists)
    found = ablate_edges(model, lists, mode)
    for i, edge in enumerate(edges):
        row = full - 2**i
        np.testing.assert_allclose(
            table.accuracy[row], found.position_accuracies[found.edges.index(edge)], atol=1e-12
        )
    for row in np.random.default_rng(0).choice(full, 5):
        cut = [edge for i, edge in enumerate(edges) if not row >> i & 1]
        outcome = ablate_jointly(seen, cut, mode).outcome
        np.testing.assert_array_equal(outcome.correct, table.correct(row))
        assert outcome.loss == pytest.approx(table.values("loss")[row], rel=1e-4)


def test_parts_and_progress_do_not_change_the_table(monkeypatch):
    model = _model(n_layers=3)
    lists, told = _lists(model), []
    whole = circuit_table(model, lists, "resample")
    monkeypatch.setattr("orderscale_jax.circuits.table.CHUNK_BYTES", 1)
    parts = circuit_table(model, lists, "resample", progress=lambda done, of: told.append((done, of)))
    assert told == [(i, 31) for i in range(1, 32)]
    for name in MEASURES:
        np.testing.assert_allclose(parts.values(name), whole.values(name), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(parts.worst[name], whole.worst[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(parts.correct(77), whole.correct(77))


def test_what_stands_in_for_a_message():
    model = _model(n_heads=2, bias=True)
    lists = _lists(model, 9)
    mean = replacements(model, lists, "mean")
    drawn = replacements(model, lists, "resample", seed=2)
    assert mean.shape == (5, 1, 8) and drawn.shape == (5, 9, 8)
    np.testing.assert_allclose(drawn.mean(1), mean[:, 0], atol=1e-5)  # each list is drawn once
    chosen = donors(9, 2)
    assert sorted(chosen) == list(range(9)) and (chosen != np.arange(9)).all()
    heads = sum(replacements(model, lists, "resample", seed=2, head=h) for h in range(2))
    np.testing.assert_allclose(heads, drawn, atol=1e-5)
    assert replacements(model, lists, "zero") is None


@pytest.mark.parametrize("mode", CUTS)
def test_a_cut_of_every_head_in_turn_is_a_cut_of_all(mode):
    model = _model(n_heads=2)
    lists, rescale = _lists(model), mode == "renormalize"
    per_head = [replacements(model, lists, mode, head=h) for h in range(2)]
    whole = replacements(model, lists, mode)
    ones = np.ones(5, np.float32)
    for e in range(5):
        keep = ones - np.eye(5, dtype=np.float32)[e]
        parts = [cutting(model.config, keep, rescale, r, head=h) for h, r in enumerate(per_head)]
        both = cutting(model.config, keep, rescale, whole)
        assert all(part.renormalize == both.renormalize == rescale for part in parts)
        product = parts[0].keep * parts[1].keep
        np.testing.assert_array_equal(product, np.broadcast_to(both.keep, product.shape))
        if whole is not None:
            np.testing.assert_allclose(parts[0].added + parts[1].added, both.added, atol=1e-5)


THREE = np.array([0, 1, 0, 3, 2, 3, 2, 8.0])  # worth of {}, a, b, ab, c, ac, bc, abc


def test_a_game_of_three_edges_by_hand():
    # dividends: a 1, b 0, c 2, ab 2, ac 0, bc 0, abc 8 - (1 + 2 + 2) = 3
    np.testing.assert_array_equal(moebius(THREE), [0, 1, 0, 2, 2, 0, 0, 3])
    np.testing.assert_allclose(shapley_values(THREE), [1 + 1 + 1, 1 + 1, 2 + 1])
    pairs = interactions(THREE)
    assert pairs[0, 1] == 2 + 1.5 and pairs[0, 2] == 1.5 and pairs[1, 2] == 1.5
    assert minimal_sets(THREE >= 3) == (3, 5)
    assert minimal_sets(~(THREE >= 3)[::-1]) == (1, 6)  # without a, or without both b and c
    # cut from abc (8): a costs 6, b 5, c 5; ab 6, ac 8, bc 7: each less than its two together
    assert pair_kinds(THREE, 0.5) == {"and": 3, "or": 0, "additive": 0, "idle": 0}


def test_an_or_game_and_an_idle_edge():
    values = np.array([0, 1, 1, 1] * 2, float)  # a or b; c does nothing
    assert minimal_sets(values >= 1) == (1, 2)
    assert minimal_sets(~(values >= 1)[::-1]) == (3,)
    assert pair_kinds(values, 0.01) == {"and": 0, "or": 1, "additive": 0, "idle": 2}
    assert interactions(values)[0, 1] == -1
    np.testing.assert_allclose(shapley_values(values), [0.5, 0.5, 0])


def test_games_of_any_values():
    rng = np.random.default_rng(0)
    for n_edges in range(7):
        values = rng.normal(size=2**n_edges)
        np.testing.assert_allclose(inverse_moebius(moebius(values)), values, atol=1e-10)
        shapley = shapley_values(values)
        assert shapley.sum() == pytest.approx(values[-1] - values[0])
        for e in range(n_edges if n_edges <= 5 else 0):  # the definition: the mean over all orders
            gains = []
            for order in itertools.permutations(range(n_edges)):
                before = sum(1 << x for x in order[: order.index(e)])
                gains.append(values[before | 1 << e] - values[before])
            assert shapley[e] == pytest.approx(np.mean(gains))
        wanted = rng.random(2**n_edges) < 0.4
        found = set(minimal_sets(wanted))
        for s in range(2**n_edges):
            below = any(wanted[t] for t in range(s) if t & s == t)
            assert (s in found) == (bool(wanted[s]) and not below)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, bool, list])
def test_games_of_any_type(dtype):
    worth = THREE > 2 if dtype is bool else THREE
    given, values = worth.tolist() if dtype is list else worth.astype(dtype), worth.astype(float)
    for of in (moebius, inverse_moebius, shapley_values, interactions, as_game):
        assert of(given).dtype == np.float64
        np.testing.assert_array_equal(of(given), of(values))
    assert pair_kinds(given, 0.5) == pair_kinds(values, 0.5)
    assert minimal_sets(given) == minimal_sets(values != 0)


def test_as_many_right_is_as_good():
    table = circuit_table(_model(list_len=3), _lists(_model(list_len=3)))
    counts = np.random.default_rng(0).integers(0, 50, (len(table.kept), 3))
    values = dataclasses.replace(table, n_lists=49, accuracy=counts / 49).values()
    assert len(set(values)) == len(set(counts.sum(1)))
    np.testing.assert_allclose(values, counts.mean(1) / 49)


def test_a_table_has_the_precision_that_holds_where_it_is_made():
    with jax.enable_x64(True):
        model = _model(n_layers=1)
        nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model, nnx.Param)))
        lists = _lists(model)
        losses = np.asarray(metrics.token_losses(model(lists), lists))
        np.testing.assert_allclose(circuit_table(model, lists).loss[-1], losses.mean(0), rtol=1e-12)


@pytest.mark.parametrize("mode", CUTS)
def test_a_model_without_live_edges_has_one_set(mode):
    model = _model(n_layers=1)
    table = circuit_table(model, _lists(model), mode)
    found = find_circuits(table)
    assert table.kept.shape == (1, 0) and found.minimal == (0,) and found.damaging == ()
    assert tabulate_circuits(table, found)["minimal_circuits"] == [[]]
    assert "no edge" in found.table() and "none" in table.table()
    (axes,) = figures.circuit_lattice({mode: table}).axes
    assert axes.texts[-1].get_text().startswith("a: 0 edges")


def test_what_is_tabulated_is_of_one_table_and_one_measure():
    model = _model()
    lists = _lists(model)
    tables = {mode: circuit_table(model, lists, mode) for mode in ("zero", "mean")}
    table = tables["zero"]
    told = tabulate_circuits(table, find_circuits(table))
    assert "measure" not in told and len(told["shapley_by_output"]) == 2
    loss = find_circuits(table, measure="loss", tolerance=0.2)
    told = tabulate_circuits(table, loss)
    assert told["measure"] == "loss"
    np.testing.assert_allclose(np.mean(told["shapley_by_output"], 0), loss.shapley)
    of_first = find_circuits(table, measure="loss", output=0, tolerance=0.2)
    wanted = [[i for i in range(5) if x >> i & 1] for x in of_first.minimal]
    assert told["minimal_circuits_by_output"][0] == wanted
    assert "shapley_by_output" not in tabulate_circuits(table, find_circuits(table, measure="list_accuracy"))
    other = circuit_table(model, lists[::2], "zero")
    for wrong in (find_circuits(tables["mean"]), find_circuits(other)):
        with pytest.raises(UserError, match="not of this table"):
            tabulate_circuits(table, wrong)
    drawn = {name: sample_shapley(model, lists, 2, "zero", measure=name) for name in ("accuracy", "loss")}
    found = {name: greedy_circuit(model, lists, "zero", measure=name) for name in drawn}
    told = tabulate_samples(drawn["accuracy"], found["accuracy"])
    assert "measure" not in told and told["circuits_accuracy"] == found["accuracy"].worth.tolist()
    told = tabulate_samples(drawn["loss"], found["loss"])
    assert told["measure"] == "loss" and told["circuits_loss"] == (-found["loss"].worth).tolist()
    for wrong, said in (
        (found["loss"], "their measure is the same"),
        (greedy_circuit(model, lists, "mean"), "their mode is the same"),
    ):
        with pytest.raises(UserError, match=said):
            tabulate_samples(drawn["accuracy"], wrong)


def test_parts_do_not_change_samples(monkeypatch):
    model = _model()
    lists = _lists(model)
    whole = sample_shapley(model, lists, 30, "zero", measure="loss")
    monkeypatch.setattr("orderscale_jax.circuits.sampling.SETS_AT_ONCE", 7 * 6)
    parts = sample_shapley(model, lists, 30, "zero", measure="loss")
    np.testing.assert_allclose(parts.shapley, whole.shapley, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(parts.standard_error, whole.standard_error, rtol=1e-4, atol=1e-6)
    assert (whole.standard_error > 1e-3).any()


def test_samples_come_near_the_exact_values():
    model = _model(n_layers=3)
    lists = _lists(model)
    exact = find_circuits(circuit_table(model, lists, "zero", seed=1), measure="loss").shapley
    told = []
    found = sample_shapley(
        model, lists, 400, "zero", measure="loss", seed=1, progress=lambda done, of: told.append(done)
    )
    assert told == [315, 400]
    assert found.shapley.sum() == pytest.approx(found.intact - found.empty)
    off = np.abs(found.shapley - exact)
    assert (off <= 4 * found.standard_error + 1e-6).all()
    assert (found.standard_error < 0.5 * np.abs(exact).max()).all()
    again = sample_shapley(model, lists, 400, "zero", measure="loss", seed=2)
    spread = (found.shapley - again.shapley) / np.hypot(found.standard_error, again.standard_error)
    assert 0.3 < np.nanstd(spread) < 2.5  # the errors are of the size that they say


def test_searches_find_what_the_table_has(monkeypatch):
    monkeypatch.setattr("orderscale_jax.circuits.sampling.SETS_AT_ONCE", 200)
    model, told = _model(n_layers=3), []
    lists = _lists(model)
    table = circuit_table(model, lists)
    # of this measure a set can lose much, so that some are sufficient and some are not
    tolerance = float(np.quantile(table.values("loss"), 0.3) - table.values("loss")[-1])
    exact = find_circuits(table, measure="loss", tolerance=max(tolerance, 0.0))
    few = search_circuits(
        model,
        lists,
        4,
        measure="loss",
        tolerance=max(tolerance, 0.0),
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(200, 794), (400, 794), (600, 794), (794, 794)]
    assert few.n_sets == 1 + sum(math.comb(12, k) for k in range(5))
    found = {int(sum(1 << i for i in np.flatnonzero(row))) for row in few.found}
    assert found == {x for x in exact.minimal if x.bit_count() <= 4}
    values = -table.values("kl")
    for tolerance, size in ((0.01, 10), (0.1, 8), (0.5, 3)):
        greedy = greedy_circuit(model, lists, measure="kl", tolerance=tolerance)
        index = int(sum(1 << i for i in np.flatnonzero(greedy.found[0])))
        kept, tried = 4095, 1
        while kept:  # the same search in the table
            left = [kept ^ 1 << e for e in range(12) if kept >> e & 1]
            tried += len(left)
            best = max(left, key=values.__getitem__)
            if values[best] < values[-1] - tolerance:
                break
            kept = best
        assert (index, greedy.n_sets) == (kept, tried)
        assert index.bit_count() == size


def test_a_few_sets_of_edges_have_the_shapes_of_others():
    graph, random = Graph(2, 3), np.random.default_rng(0)
    shapes = set()
    for _ in range(5):
        layers, version = plan(graph, random.random((12, 12)) < 0.7, fill_up=True)
        shapes.add(str(jax.tree.map(np.shape, layers)))
        unfilled = plan(graph, random.random((12, 12)) < 0.7)[0]
        assert len(unfilled[-1][graph.outputs[-1]].own) <= 12 and version.shape == (12, 2)
    assert len(shapes) == 1


def _cases():
    found = sorted((REFERENCE / "circuits").glob("*.json")) if REFERENCE.is_dir() else []
    if not found:
        return [
            pytest.param(None, marks=pytest.mark.skip(reason=f"{REFERENCE} holds no circuits"), id="none")
        ]
    return [pytest.param(path, id=path.stem) for path in found]


@pytest.mark.parametrize("path", _cases())
def test_published_models_by_brute_force(path):
    said = json.loads(path.read_text())
    model, _ = from_torch(read_arrays(REFERENCE / f"{path.stem}_weights.npz"))
    config = model.config
    lists = make_split(TaskConfig(list_len=config.list_len, n_digits=config.n_digits)).validation
    lists = lists[: said["n_lists"]]
    modes = [mode for mode in CUTS if mode in said]
    assert modes
    for mode in modes:
        table = circuit_table(model, lists, mode)
        assert [list(edge) for edge in table.edges] == said["edges"]
        off = np.abs(table.values() - said[mode]["accuracy"]) * lists.size
        assert off.max() <= config.list_len + 1e-6  # one list
        found = find_circuits(table)
        np.testing.assert_allclose(found.shapley, said[mode]["shapley"], atol=1e-3)
        minimal = {tuple(i for i in range(len(table.edges)) if x >> i & 1) for x in found.minimal}
        assert minimal == set(map(tuple, said[mode]["subset_minimal"]))


def test_what_is_wrong_is_said():
    model = _model()
    lists = _lists(model)
    table = circuit_table(model, lists)
    flat, long = _model(n_layers=1), _model(n_layers=3, list_len=3)
    broken = _model()
    broken.embed.W_E[...] = broken.embed.W_E[...].at[0, 0].set(jnp.nan)
    for wrong, said in {
        lambda: circuit_table(broken, lists): "not finite",
        lambda: score_sets(broken, lists, all_sets(5)): "not finite",
        lambda: sample_shapley(broken, lists, 2): "not finite",
        lambda: greedy_circuit(broken, lists): "not finite",
        lambda: search_circuits(broken, lists, 1): "not finite",
        lambda: sample_shapley(flat, lists, 2): "no live edge",
        lambda: greedy_circuit(flat, lists): "no live edge",
        lambda: search_circuits(flat, lists, 0): "no live edge",
        lambda: circuit_table(model, 5): r"\[B, 2\]",
        lambda: circuit_table(model, lists, seed=-1): "seed must be a whole number from 0 to 4294967295",
        lambda: score_sets(model, lists, all_sets(5), seed=None): "seed must be",
        lambda: sample_shapley(model, lists, 2, seed=1.5): "seed must be",
        lambda: greedy_circuit(model, lists, seed=True): "seed must be",
        lambda: search_circuits(model, lists, 1, seed=2**32): "seed must be",
        lambda: score_sets(model, lists, [[True] * 5, [True]]): "rows of different lengths",
        lambda: table.values(output=True): "output must be a whole number from 0 to 1",
        lambda: table.correct(99): "row must be a whole number from 0 to 31",
        lambda: search_circuits(model, lists, True): "most_edges must be",
        lambda: moebius(np.array([0, 1, np.nan, 2])): "finite numbers, and one is nan",
        lambda: shapley_values(["a", "b"]): "must hold numbers",
        lambda: minimal_sets([[True], [True, False]]): "rows of different lengths",
        lambda: interactions(np.zeros((2, 2))): r"2\^E sets, got \[2, 2\]",
        lambda: inverse_moebius(np.zeros(0)): r"2\^E",
        lambda: pair_kinds(3.0, 0.1): r"2\^E",
        lambda: pair_kinds(np.zeros(4), np.nan): "tolerance must be a number, 0 or more",
        lambda: shapley_values(np.array([0, 1e101])): r"numbers up to 1e\+100, and one is 1e\+101",
        lambda: circuit_table(model, lists, np.array(["zero", "mean"])): "mode must be one of",
        lambda: table.values(np.array(["loss"])): "measure must be one of",
        lambda: figures.circuit_lattice([table]): "no table of circuits",
        lambda: circuit_table(model, lists[:0]): "at least one",
        lambda: circuit_table(model, lists, "off"): "renormalize, zero, mean, resample",
        lambda: circuit_table(model, lists[:1], "resample"): "at least two",
        lambda: score_sets(model, lists, all_sets(4)): r"\[K, 5\]",
        lambda: score_sets(model, lists, all_sets(5).astype(int)): "truth values",
        lambda: circuit_table(
            long, _lists(long)
        ): r"2\^22 = 4,194,304.* s and .* GB.*circuits.sample_shapley$",
        lambda: find_circuits(table, tolerance=1.0): "from 0 to below 1",
        lambda: find_circuits(table, tolerance=-0.1): "from 0 to below 1",
        lambda: find_circuits(table, tolerance=float("nan")): "from 0 to below 1",
        lambda: find_circuits(table, measure="acc"): "measure must be one of",
        lambda: find_circuits(table, output=2): "from 0 to 1; got 2",
        lambda: find_circuits(table, measure="list_accuracy", output=0): "all outputs together",
        lambda: find_circuits(score_sets(model, lists, all_sets(5)[:9])): "all sets",
        lambda: find_circuits(model): "CircuitTable",
        lambda: sample_shapley(model, lists, 1): "n_orders must be a whole number from 2 on",
        lambda: search_circuits(model, lists, 6): "from 0 to 5",
        lambda: search_circuits(long, _lists(long), 20): "greedy_circuit",
        lambda: moebius(np.zeros(3)): r"2\^E",
    }.items():
        with pytest.raises(UserError, match=said):
            wrong()
    np.testing.assert_array_equal(table.values(output=np.int64(1)), table.accuracy[:, 1])


def test_a_lattice_names_the_minimal_circuits():
    model = _model()
    lists = _lists(model)
    tables = {mode: circuit_table(model, lists, mode) for mode in ("renormalize", "mean")}
    enough = [any(x & y == y for y in (0b01001, 0b00110, 0b10101, 0b11100, 0b01010)) for x in range(32)]
    accuracy = np.repeat(np.where(enough, 0.9, 0.3)[:, None], 2, 1)
    tables["zero"] = dataclasses.replace(tables["mean"], mode="zero", accuracy=accuracy)
    figure = figures.circuit_lattice(tables, tolerance=0.2)
    for axes, table in zip(figure.axes, tables.values(), strict=True):
        dots, marks = axes.collections
        np.testing.assert_allclose(dots.get_offsets()[:, 1], table.values())
        np.testing.assert_array_equal(dots.get_offsets()[:, 0], table.kept.sum(1))
        found, sizes = find_circuits(table, tolerance=0.2), table.kept.sum(1)
        minimal = list(found.minimal)
        np.testing.assert_allclose(marks.get_offsets()[:, 1], table.values()[minimal])
        np.testing.assert_array_equal(marks.get_offsets()[:, 0], sizes[minimal])
        best, floor = axes.lines
        np.testing.assert_allclose(best.get_ydata(), [table.values()[sizes == k].max() for k in range(6)])
        assert set(floor.get_ydata()) == {table.values()[-1] - 0.2}
        *letters, written = axes.texts
        named = {text.xy: text.get_text() for text in letters}
        for size in set(sizes[minimal[:4]]):
            rows = [(letter, row) for letter, row in zip("abcd", minimal, strict=False) if sizes[row] == size]
            lowest = min(table.values()[row] for _, row in rows)
            assert named.pop((size, lowest)) == " ".join(letter for letter, _ in rows)
        assert not named
        told = {}
        for line in written.get_text().splitlines():
            if not line.startswith(" "):
                told[line] = set()
            else:
                layer, _, edges = line.strip().partition(" ")
                told[list(told)[-1]] |= {f"{layer} {edge.replace('←', '<-')}" for edge in edges.split(", ")}
        for (line, edges), letter, row in zip(told.items(), "abcd", minimal, strict=False):
            assert line.startswith(f"{letter}: {sizes[row]} edge")
            assert edges == {table.graph.label(edge) for edge in found.edges_of(row)}
        assert len(told) == min(len(minimal), 5)
    assert list(told)[-1] == "and 1 more"
    with pytest.raises(UserError, match="no table"):
        figures.circuit_lattice({})
