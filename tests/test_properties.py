"""What holds for every list, graph, intervention and state, tried on many that are drawn."""

import collections
import dataclasses
import functools
import itertools
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from orderscale_jax import task
from orderscale_jax.checkpoint import (
    load_checkpoint,
    named_arrays,
    restore_latest,
    save_checkpoint,
    save_state,
)
from orderscale_jax.config import default_config
from orderscale_jax.convert import from_torch, to_torch
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Edge, Graph
from orderscale_jax.model import (
    Interventions,
    ModelConfig,
    bind,
    cut,
    init_params,
    keep_weights,
    patch,
    scales,
)
from orderscale_jax.task import TaskConfig, check_lists, make_split, tokens

_storage = tempfile.TemporaryDirectory(prefix="orderscale_hypothesis_", ignore_cleanup_errors=True)
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = _storage.name  # its tables of characters


def examples(count: int):
    """The same examples in every session, however long one takes."""
    return settings(max_examples=count, derandomize=True, database=None, deadline=None)


seeds = st.integers(0, 2**32 - 1)
truth = st.booleans()


# Lists


@st.composite
def task_configs(draw):
    list_len = draw(st.integers(1, 4))
    split = draw(st.sampled_from(task.SPLITS))
    hundredths = st.integers(0, 100).map(lambda number: number / 100)
    return TaskConfig(
        list_len,
        n_digits=draw(st.integers(2, {1: 30, 2: 12, 3: 6, 4: 4}[list_len])),
        duplicates="all" if list_len == 1 else draw(st.sampled_from(task.DUPLICATES)),
        train_fraction=draw(hundredths.filter(lambda fraction: 0 < fraction < 1)),
        split_seed=draw(seeds),
        split=split,
        paired_share=draw(st.just(1.0) | hundredths) if split == "paired" else 1.0,
    )


@examples(150)
@given(task_configs())
def test_a_split_keeps_its_promises(config):
    everything = list(itertools.product(range(config.n_digits), repeat=config.list_len))
    duplicates = {digits for digits in everything if len(set(digits)) == 1}
    pool = [digits for digits in everything if config.duplicates == "all" or digits not in duplicates]
    sizes = collections.Counter(tuple(sorted(digits)) for digits in pool)  # of sets of digits
    n_train, share = int(config.train_fraction * len(pool)), config.paired_share
    in_shares = config.split == "paired" and share < 1
    few, many = n_train < min(sizes.values()), n_train > len(sizes)
    impossible = (
        not n_train
        or {"published": False, "one_order": many, "paired": many if in_shares else few}[config.split]
    )
    try:
        split = make_split(config)
    except UserError:
        assert impossible
        return
    assert not impossible or in_shares  # with shares, whole sets may make room
    train, validation = (list(map(tuple, side.tolist())) for side in (split.train, split.validation))
    added = sorted(duplicates) if config.duplicates == "train_only" else []
    assert sorted(train + validation) == sorted(pool + added)
    assert train[len(train) - len(added) :] == added and not set(validation) & set(added)
    assert split.train.dtype == split.validation.dtype == np.int32

    train = train[: len(train) - len(added)]
    found = collections.Counter(tuple(sorted(digits)) for digits in train)
    left = min((size for digits, size in sizes.items() if found[digits] < size), default=0)
    if config.split == "paired" and share == 1:
        assert all(count == sizes[digits] for digits, count in found.items())
        assert 0 <= n_train - len(train) < left  # no other set would fit
        return
    assert len(train) == n_train
    if config.split == "one_order":
        assert set(found.values()) == {1}
    elif in_shares:
        assert all(count in (1, sizes[digits]) for digits, count in found.items())
        paired = sum(count for digits, count in found.items() if count > 1)
        assert paired <= round(share * n_train) < paired + len(duplicates & set(train)) + left


@examples(60)
@given(st.integers(0, 5), st.integers(1, 6), st.integers(2, 300), seeds, st.data())
def test_tokens_hold_the_list_and_wrong_digits_are_refused(n_lists, list_len, n_digits, seed, data):
    kinds = ["i2", "i4", "i8", "u2", "u4", "u8"] + ["i1", "u1"] * (n_digits <= 100)
    kind = np.dtype(data.draw(st.sampled_from(kinds)))
    lists = np.random.default_rng(seed).integers(0, n_digits, (n_lists, list_len)).astype(kind)
    config = ModelConfig(list_len=list_len, n_digits=n_digits)
    encoded = tokens(lists, n_digits)
    assert encoded.dtype == np.int32 and encoded.shape == (n_lists, config.n_positions)
    np.testing.assert_array_equal(encoded[:, :list_len], lists)
    assert (encoded[:, list_len] == config.sep_token).all()
    assert (encoded[:, list_len + 1 :] == config.mask_token).all()
    np.testing.assert_array_equal(check_lists(encoded[:, :list_len], list_len, n_digits), lists)
    assume(n_lists)

    smallest, largest = np.iinfo(kind).min, np.iinfo(kind).max
    wrong = [digit for digit in (-1, n_digits, n_digits + 1, largest) if smallest <= digit <= largest]
    wrong = data.draw(st.sampled_from(wrong + [smallest] * (smallest < 0)))
    lists[data.draw(st.integers(0, n_lists - 1)), data.draw(st.integers(0, list_len - 1))] = wrong
    for check in (
        functools.partial(tokens, n_digits=n_digits),
        functools.partial(check_lists, list_len=list_len, n_digits=n_digits),
        config.check_lists,
    ):
        with pytest.raises(UserError, match=f"digits must lie in 0 … {n_digits - 1}, got .*{wrong}"):
            check(lists)


numbers = st.integers(0, 4) | st.integers() | st.floats() | truth | st.none() | st.text("0a", max_size=2)
ragged = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=9)


def is_list_of_digits(given, list_len, n_digits):
    return (
        isinstance(given, list)
        and len(given) > 0
        and all(isinstance(digits, list) and len(digits) == list_len for digits in given)
        and all(isinstance(digit, int) and 0 <= digit < n_digits for digits in given for digit in digits)
        and not all(isinstance(digit, bool) for digits in given for digit in digits)
    )


@examples(200)
@given(ragged | st.lists(st.lists(numbers, min_size=2, max_size=2)), st.integers(1, 3))
def test_only_lists_of_digits_pass_for_lists(given, list_len):
    def passes(check):
        try:
            check(given)
        except UserError as error:
            assert "\n" not in str(error)
            return False
        return True

    config = ModelConfig(list_len=list_len, n_digits=5)
    fits = is_list_of_digits(given, list_len, 5)
    assert passes(lambda lists: check_lists(lists, list_len, 5)) == passes(config.check_lists) == fits
    assert passes(lambda lists: tokens(lists, 5)) == any(is_list_of_digits(given, n, 5) for n in range(1, 10))


# Graphs

graphs = st.builds(Graph, st.integers(1, 5), st.integers(1, 5))


@examples(25)
@given(graphs)
def test_edges_and_live_edges_are_as_described(graph):
    n, layers = graph.list_len, range(graph.n_layers)
    outputs = range(n + 1, 2 * n + 1)
    of_digits = [(0, 0), *((query, key) for query in range(n) for key in range(query))]
    of_sep = [(n, key) for key in range(n)]
    of_outputs = [(query, key) for query in outputs for key in range(n, query)]
    first = [Edge(0, output, output) for output in outputs]  # which carry nothing
    everything = {Edge(layer, *pair) for layer in layers for pair in (*of_digits, *of_sep)}
    everything |= {*first, *(Edge(layer, *pair) for layer in layers[1:] for pair in of_outputs)}
    live = {edge for edge in everything if edge.query > n} - {*first}
    live |= {edge for edge in everything if edge.query == n and edge.layer < graph.n_layers - 1}
    live |= {edge for edge in everything if edge.query < n and edge.layer < graph.n_layers - 2}
    assert graph.edges == tuple(sorted(everything)) and graph.live_edges == tuple(sorted(live))
    for edge in graph.edges:
        assert graph.is_live(graph.label(edge)) == (edge in live)
        assert graph.carries(edge) == (edge not in first)


def spellings(graph, edge):
    """One edge in the forms in which it can be given."""
    name = graph.label(edge)
    printed = name.replace(" ", "\u00a0").replace("<-", "←")
    return [edge, tuple(edge), list(edge), np.array(edge), name, printed]


@st.composite
def graphs_and_edges(draw, graphs=graphs):
    """A graph, some of its edges in any order and perhaps twice, and the same as one may write them."""
    graph = draw(graphs)
    edges = draw(st.lists(st.sampled_from(graph.edges), max_size=12))
    return graph, edges, [draw(st.sampled_from(spellings(graph, edge))) for edge in edges]


@examples(100)
@given(graphs_and_edges())
def test_an_edge_is_the_same_however_it_is_given(case):
    graph, edges, given = case
    assert graph.check(given) == tuple(edges)
    assert len({graph.label(edge) for edge in graph.edges}) == len(graph.edges)


@examples(200)
@given(graphs, st.tuples(*[st.integers(-1, 11)] * 3) | ragged | st.text("L01 oSEPd<-", max_size=9))
def test_an_edge_that_does_not_exist_is_refused(graph, given):
    known = [given, tuple(given)] if isinstance(given, list) else [given]
    exists = any(x in known for edge in graph.edges for x in (edge, graph.label(edge)))
    try:
        found = graph.check([given])
    except UserError as error:
        assert not exists and "\n" not in str(error)
    else:
        assert exists and found[0] in graph.edges


@examples(100)
@given(
    graphs,
    st.integers(-2, 12) | ragged | st.text("SEPod123", max_size=3) | st.sampled_from(["o1", "d1", "SEP"]),
)
def test_a_position_is_its_number_or_its_name(graph, given):
    whole = isinstance(given, int) and 0 <= given < graph.n_positions
    try:
        found = graph.position(given)
    except UserError as error:
        assert not whole and given not in graph.names and "\n" not in str(error)
    else:
        assert found == given if whole else graph.names[found] == given


# Interventions

SMALL = {"d_model": 8, "n_digits": 4}
DEEP, WIDE = ModelConfig(**SMALL, list_len=2, n_layers=3), ModelConfig(**SMALL, list_len=3, n_layers=2)
CONFIGS = (  # few, as every one is compiled
    WIDE,
    ModelConfig(**SMALL, list_len=1, n_layers=3, mlp=True, bias=True),
    ModelConfig(**SMALL, list_len=2, n_layers=2, n_heads=2, learn_wv=True, layer_norm=True),
)
N_LISTS = 4
generators = st.builds(np.random.default_rng, seeds)
shares = st.sampled_from([0.1, 0.4, 0.9])


@functools.cache
def shapes(config):
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def drawn_weights(config, rng):
    """Weights none of which is zero, with attention that is neither flat nor saturated."""
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes(config))


def drawn_lists(config, rng):
    return rng.integers(0, config.n_digits, (N_LISTS, config.list_len)).astype(np.int32)


def drawn(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def interventions(config, **fields):
    """Interventions with every field, so that one program runs them all; those not given change nothing."""
    L, H, T = config.n_layers, config.n_heads, config.n_positions
    blank = {
        "keep": np.ones((L, H, T, T), np.float32),
        "renormalize": np.array(True),
        "patterns": np.zeros((L, N_LISTS, H, T, T), np.float32),
        "patterns_at": np.zeros((L, T, T), bool),
        "residuals": np.zeros((L + 1, N_LISTS, T, config.d_model), np.float32),
        "residuals_at": np.zeros((L + 1, T), bool),
    }
    return Interventions(**{name: np.broadcast_to(fields.get(name, x), x.shape) for name, x in blank.items()})


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, lists, given):
    """(logits, trace)"""
    return bind(config, params)(lists, given, trace=True)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)


@examples(15)
@given(st.sampled_from(CONFIGS), generators, truth)
def test_what_is_put_nowhere_changes_no_bit(config, rng, renormalize):
    params, lists = drawn_weights(config, rng), drawn_lists(config, rng)
    L, H, T, D = config.n_layers, config.n_heads, config.n_positions, config.d_model
    intact = run(config, params, lists, interventions(config))
    nowhere = {"patterns": drawn(rng, L, N_LISTS, H, T, T), "residuals": drawn(rng, L + 1, N_LISTS, T, D)}
    assert_same(run(config, params, lists, interventions(config, renormalize=renormalize, **nowhere)), intact)


@examples(15)
@given(st.sampled_from(CONFIGS), generators, shares, truth)
def test_what_was_there_anyway_changes_nothing(config, rng, share, renormalize):
    """Also where edges are weighed, which they are after their patterns are replaced."""
    params, lists = drawn_weights(config, rng), drawn_lists(config, rng)
    shape = (config.n_layers, config.n_heads, config.n_positions, config.n_positions)
    keep = np.where(rng.random(shape) < 0.3, 0, rng.uniform(0.1, 2, shape)).astype(np.float32)
    weighed = {"keep": keep, "renormalize": renormalize}
    intact = run(config, params, lists, interventions(config, **weighed))
    changes = interventions(
        config,
        patterns=jax.nn.softmax(intact[1].scores),
        patterns_at=rng.random((config.n_layers, config.n_positions, config.n_positions)) < share,
        residuals=intact[1].residuals,
        residuals_at=rng.random((config.n_layers + 1, config.n_positions)) < share,
        **weighed,
    )
    assert_close(run(config, params, lists, changes), intact)


def seen(graph, edges, given):
    """Of which digits the residual that every position carries into every layer tells.

    `edges` are cut, and what is `given` [L+1, T] tells of none.
    """
    carried = [{p} if p < graph.list_len else set() for p in range(graph.n_positions)]
    found = []
    for layer in range(graph.n_layers + 1):
        carried = [set() if given[layer, p] else digits for p, digits in enumerate(carried)]
        found.append(carried)
        if layer < graph.n_layers:
            reads = [set(graph.reads(layer, p)) - set(edges) for p in range(graph.n_positions)]
            carried = [digits.union(*(carried[e.key] for e in reads[p])) for p, digits in enumerate(carried)]
    return found


@examples(40)
@given(st.sampled_from(CONFIGS), generators, shares, shares)
def test_what_a_position_does_not_see_does_not_matter_to_it(config, rng, share_cut, share_given):
    graph, params, lists = config.graph, drawn_weights(config, rng), drawn_lists(config, rng)
    edges = [edge for edge in graph.edges if rng.random() < share_cut]
    at = rng.random((config.n_layers + 1, config.n_positions)) < share_given / 3
    digits = rng.random(config.list_len) < 0.5
    digits[rng.integers(config.list_len)] = True
    changes = interventions(
        config,
        keep=keep_weights(config, edges),
        residuals=drawn(rng, config.n_layers + 1, 1, config.n_positions, config.d_model),
        residuals_at=at,
    )
    logits, trace = run(config, params, lists, changes)
    others = np.where(digits, (lists + 1) % config.n_digits, lists)
    other_logits, other_trace = run(config, params, others, changes)
    tells = seen(graph, edges, at)
    for layer, position in np.ndindex(at.shape):
        one, other = (np.asarray(x.residuals[layer, :, position]) for x in (trace, other_trace))
        if tells[layer][position] & set(np.flatnonzero(digits)):
            assert (one != other).any(), (layer, position)
        else:
            assert_close(one, other)
    for i, output in enumerate(graph.outputs):
        if not tells[-1][output] & set(np.flatnonzero(digits)):
            assert_close(logits[:, i], other_logits[:, i])


@examples(20)
@given(st.sampled_from(CONFIGS), generators, truth)
def test_weights_of_edges_that_are_not_live_change_no_bit(config, rng, renormalize):
    graph, params, lists = config.graph, drawn_weights(config, rng), drawn_lists(config, rng)
    shape = (config.n_layers, config.n_heads, config.n_positions, config.n_positions)
    keep = rng.choice(np.array([0, 0.5, 1, 3], np.float32), shape)  # also where there is no edge at all
    for layer, query, key in graph.live_edges:
        keep[layer, :, query, key] = 1
    weighed = interventions(config, keep=keep, renormalize=renormalize)
    intact, changed = (run(config, params, lists, x)[0] for x in (interventions(config), weighed))
    assert_same(changed, intact)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_in_scales(config, renormalize, params, lists, keep, shift):
    """(logits, attention by layer and query) with `shift` added to the scores of every last choice."""
    graph = config.graph
    weights = {edge: keep[edge.layer, 0, edge.query, edge.key] for edge in reversed(graph.edges)}

    def rule(scores):
        return [score + shift[i] for i, score in enumerate(scores)]

    form = scales.Scales(bind(config, params), lists, weights, renormalize, rule)
    table = scales.LogitTable(form.model)
    logits = [table.logits(form.final(output), table.rows(lists)) for output in graph.outputs]
    logits = jnp.stack([jnp.broadcast_to(x, (N_LISTS, table.width)) for x in logits], 1)
    attended = {
        place: jnp.stack([jnp.broadcast_to(weight, N_LISTS) for weight in found], -1)
        for place, found in form.attended.items()
    }
    return logits[..., : config.d_vocab], attended


@examples(30)
@given(st.sampled_from([(WIDE, True), (DEEP, False)]), generators, shares)
def test_both_forms_agree_whatever_is_weighed_and_shifted(case, rng, share):
    config, renormalize = case
    graph, params, lists = config.graph, drawn_weights(config, rng), drawn_lists(config, rng)
    last, n = config.n_layers - 1, config.list_len
    keep = rng.uniform(0.1, 2, (config.n_layers, 1, config.n_positions, config.n_positions))
    keep = np.where(rng.random(keep.shape) < share, 0, keep).astype(np.float32)
    shift = drawn(rng, n)  # of SEP, o1, o2 …
    weighed = {"keep": keep, "renormalize": renormalize}
    scores = run(config, params, lists, interventions(config, **weighed))[1].scores[last]
    patterns = np.zeros((config.n_layers, N_LISTS, 1, config.n_positions, config.n_positions), np.float32)
    patterns[last] = jax.nn.softmax(scores + np.pad(shift, (n, 1)))
    at = np.zeros((config.n_layers, config.n_positions, config.n_positions), bool)
    at[last, n + 1 :] = True
    changes = interventions(config, patterns=patterns, patterns_at=at, **weighed)
    logits, trace = run(config, params, lists, changes)
    found, attended = run_in_scales(config, renormalize, params, lists, keep, shift)
    assert_close(found, logits)
    assert attended.keys() == {(edge.layer, edge.query) for edge in graph.live_edges}
    for (layer, query), row in attended.items():
        keys = [edge.key for edge in graph.reads(layer, query)]
        assert_close(row, trace.patterns[layer, :, 0, query, keys].T)


@examples(60)
@given(st.sampled_from(CONFIGS), st.data())
def test_a_cut_is_a_set_of_edges(config, data):
    graph, edges, given = data.draw(graphs_and_edges(st.just(config.graph)))
    head = data.draw(st.none() | st.integers(0, config.n_heads - 1))
    weights = keep_weights(config, given, head=head)
    heads = range(config.n_heads) if head is None else [head]
    whole = np.broadcast_to(weights, (config.n_layers, config.n_heads, *weights.shape[2:]))
    expected = {(edge.layer, h, edge.query, edge.key) for edge in edges for h in heads}
    assert set(map(tuple, np.argwhere(whole != 1).tolist())) == expected and not whole[whole != 1].any()
    assert_same(cut(config, data.draw(st.permutations(given)), head=head).keep, weights)
    values = dict(zip(dict.fromkeys(edges), itertools.count(2)))
    named = {data.draw(st.sampled_from([edge, graph.label(edge)])): value for edge, value in values.items()}
    assert scales.Mixing(graph, None, named).keep == values


@examples(20)
@given(st.sampled_from(CONFIGS[::2]), generators, st.data())
def test_a_patch_is_the_residual_of_the_donors_at_one_place(config, rng, data):
    graph, params, lists = config.graph, drawn_weights(config, rng), drawn_lists(config, rng)
    layer = data.draw(st.integers(0, config.n_layers))
    position = data.draw(st.integers(0, config.n_positions - 1))
    donors = drawn_lists(config, rng)
    place = data.draw(st.sampled_from([position, graph.names[position]]))
    given = patch(bind(config, params), donors, layer, place)
    fields = {"residuals": given.residuals, "residuals_at": given.residuals_at}
    intact, donated = (run(config, params, x, interventions(config))[1] for x in (lists, donors))
    patched = run(config, params, lists, interventions(config, **fields))[1]
    assert np.argwhere(given.residuals_at).tolist() == [[layer, position]]
    assert_close(given.residuals, donated.residuals)
    assert_same(patched.residuals[layer, :, position], given.residuals[layer, :, position])
    elsewhere = np.arange(config.n_positions) != position
    assert_same(patched.residuals[layer][:, elsewhere], intact.residuals[layer][:, elsewhere])
    assert_same(patched.residuals[:layer], intact.residuals[:layer])


# Checkpoints

ODD = "abc 01/%\\\"'[]{}:é漢\n\t\x00_-~*"
WORDS = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345, 0x00400000, 2**32 - 1]
FINITE = [0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, 1.2e-38]  # as float32


@st.composite
def arrays(draw):
    """An array whose bits may be any, of what is in a training state."""
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    words = st.sampled_from(WORDS) | st.integers(0, 2**32 - 1)
    bits = np.resize(np.array(draw(st.lists(words, min_size=9, max_size=9)), np.uint32), shape)
    kind = draw(st.sampled_from([np.float32, np.int32, np.uint32, bool]))
    array = bits % 2 == 1 if kind is bool else bits.view(kind)
    return draw(st.sampled_from([np.asarray, jnp.asarray]))(array)


states = st.recursive(
    arrays(),
    lambda inner: (
        st.dictionaries(st.text(ODD, max_size=6), inner, min_size=1, max_size=4)
        | st.lists(inner, min_size=1, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def bits_of(array):
    array = np.asarray(array)
    return array.dtype, array.shape, array.tobytes()


@examples(20)
@given(states, st.integers(0, 10**10))
@example({"a": {"b": np.int32(1)}, "ab": np.int32(2), "of twelve": [np.int32(i) for i in range(12)]}, 0)
def test_any_state_comes_back_bit_for_bit(state, step):
    with tempfile.TemporaryDirectory() as folder:
        save_state(folder, step, state, {"step": step})
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        found, restored, metadata = restore_latest(folder, like)
    assert (found, metadata) == (step, {"step": step})
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.tree.map(bits_of, restored) == jax.tree.map(bits_of, state)


@examples(8)
@given(st.lists(st.sampled_from([0, 1, 2, 9, 10, 999_999_999, 10**9, 10**10]), min_size=1, max_size=6))
@example([999_999_999, 10**9, 2])  # whose names sort otherwise
def test_the_last_two_states_are_kept_in_whatever_order_they_come(steps):
    with tempfile.TemporaryDirectory() as folder:
        kept = {}
        for turn, step in enumerate(steps):
            save_state(folder, step, {"turn": np.int32(turn)}, {})
            kept = {other: at for other, at in kept.items() if other < step} | {step: turn}
            kept = dict(sorted(kept.items())[-2:])
            assert {int(entry.name.removeprefix("step_")) for entry in Path(folder).iterdir()} == kept.keys()
            found, state, _ = restore_latest(folder, {"turn": np.int32(0)})
            assert (found, int(state["turn"])) == (step, turn)


@st.composite
def models(draw):
    """A model of any variant, whose weights may be any that are finite."""
    n_heads = draw(st.sampled_from([1, 2]))
    switches = {name: draw(truth) for name in ("layer_norm", "bias", "learn_wv", "learn_wo", "mlp")}
    config = ModelConfig(
        n_layers=draw(st.integers(1, 2)),
        n_heads=n_heads,
        d_model=n_heads * draw(st.integers(1, 2)),
        list_len=draw(st.integers(1, 3)),
        n_digits=draw(st.integers(2, 4)),
        frozen_heads=draw(st.sampled_from(["shared", "block"])),
        **switches,
    )
    rng = draw(generators)

    def fill(leaf):
        odd = rng.choice(np.array(FINITE, np.float32), leaf.shape)
        return np.where(rng.random(leaf.shape) < 0.3, odd, drawn(rng, *leaf.shape))

    return bind(config, jax.tree.map(fill, shapes(config)))


def bits_of_model(model):
    return jax.tree.map(bits_of, named_arrays(model))


@examples(8)
@given(models())
def test_any_model_comes_back_bit_for_bit(model):
    config = default_config()
    for group in (config.task, config.model):
        group.update({key: getattr(model.config, key) for key in group if hasattr(model.config, key)})
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "model", model, config)
        loaded, _ = load_checkpoint(Path(folder) / "model")
    assert loaded.config == model.config and bits_of_model(loaded) == bits_of_model(model)


@examples(12)
@given(models())
def test_any_model_goes_out_and_comes_back(model):
    published = to_torch(model)
    found, _ = from_torch(published)
    config = model.config
    if config.n_heads == 1 or (config.learn_wv and config.learn_wo):
        config = dataclasses.replace(config, frozen_heads="shared")  # which says nothing, and is not written
    assert found.config == config and bits_of_model(found) == bits_of_model(model)
    assert jax.tree.map(bits_of, to_torch(found)) == jax.tree.map(bits_of, published)
