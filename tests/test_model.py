"""The journey digits -> SEP -> outputs is the masked transformer, and interventions do what they say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VARIANTS, random_model
from flax import nnx

from orderscale_jax.checkpoint import named_arrays
from orderscale_jax.convert import to_torch
from orderscale_jax.model import (
    Interventions,
    ListTransformer,
    ModelConfig,
    bind,
    frozen_projections,
    init_params,
    keep_weights,
)
from orderscale_jax.task import tokens

SHAPES = {
    f"n={n} L={layers}": ModelConfig(d_model=4, n_digits=3, list_len=n, n_layers=layers)
    for n, layers in [(1, 3), (3, 4), (4, 1)]
}
MODELS = {**VARIANTS, **SHAPES}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def model(request):
    return gentle_model(request.param)


def gentle_model(config):
    """Random, with attention that is neither flat nor saturated and nothing that grows by layer."""
    model = random_model(config)
    for block in model.blocks:
        for part in filter(None, (block.attn, block.mlp)):
            nnx.update(part, jax.tree.map(lambda x: 0.3 * x, nnx.state(part)))
    return model


def some_lists(config, n_lists=6):
    return np.random.default_rng(1).integers(0, config.n_digits, (n_lists, config.list_len))


def run(model, lists, edges=(), *, head=None, renormalize=True):
    """(logits, Trace) with edges cut; one compiled program a model, whatever is cut."""
    config = model.config
    keep = np.broadcast_to(
        keep_weights(config, edges, head=head),
        (config.n_layers, config.n_heads, config.n_positions, config.n_positions),
    )
    interventions = Interventions(keep=jnp.asarray(keep), renormalize=jnp.asarray(renormalize))
    return _run(*nnx.split(model), jnp.asarray(lists), interventions)


@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef, state, lists, interventions):
    return nnx.merge(graphdef, state)(lists, interventions, trace=True)


def dense(model, lists, edges=(), head=None, renormalize=True):
    """The published model as anybody would write it: every position, all T x T, float64, no JAX.

    Returns (logits [B, n, V], residuals [L+1, B, T, D], scores and patterns [L, B, H, T, T]).
    """
    config, weights = model.config, {k: x.astype(np.float64) for k, x in to_torch(model).items()}
    n, d_head = config.list_len, config.d_head

    def norm(x, name):
        if not config.layer_norm:
            return x
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.w"] + weights[f"{name}.b"]

    x = weights["embed.W_E"][tokens(lists, config.n_digits)] + weights["pos_embed.W_pos"]
    residuals, all_scores, patterns = [x], [], []
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        attn = {k.rsplit(".", 1)[-1]: v for k, v in weights.items() if k.startswith(f"{block}.attn.")}
        normed = norm(x, f"{block}.ln1")
        q, k, v = (
            np.einsum("btd,hdc->bhtc", normed, attn[f"W_{p}"]) + attn[f"b_{p}"][:, None] for p in "QKV"
        )
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(d_head)
        scores = np.where(config.graph.readable(layer), scores, -np.inf)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        if layer == 0:
            pattern[:, :, n + 1 :] = 0
        for edge in edges:
            if edge[0] == layer:
                heads = slice(None) if head is None else head
                row = pattern[:, heads, edge[1]]
                row[..., edge[2]] = 0
                total = row.sum(-1, keepdims=True)
                if renormalize:
                    row /= np.where(total > 0, total, 1)
        message = np.einsum("bhqk,bhkc,hcd->bqd", pattern, v, attn["W_O"]) + attn["b_O"]
        x = x + message
        if config.mlp:
            hidden = norm(x, f"{block}.ln2") @ weights[f"{block}.mlp.W_in"] + weights[f"{block}.mlp.b_in"]
            x = x + gelu(hidden) @ weights[f"{block}.mlp.W_out"] + weights[f"{block}.mlp.b_out"]
        residuals.append(x), all_scores.append(scores), patterns.append(pattern)
    logits = norm(x, "ln_final")[:, n + 1 :] @ weights["unembed.W_U"] + weights["unembed.b_U"]
    return logits, np.stack(residuals), np.stack(all_scores), np.stack(patterns)


def gelu(x):
    return 0.5 * x * (1 + np.asarray(jax.scipy.special.erf(x / np.sqrt(2))))


def assert_is_dense(model, **what):
    lists = some_lists(model.config)
    logits, trace = run(model, lists, **what)
    ours = logits, trace.residuals, trace.scores, trace.patterns
    for name, our, their in zip(
        ("logits", "residuals", "scores", "patterns"), ours, dense(model, lists, **what), strict=True
    ):
        scale = np.abs(their[np.isfinite(their)]).max()
        np.testing.assert_allclose(our, their, rtol=0, atol=2e-5 * max(1, scale), err_msg=name)


def test_it_is_the_dense_transformer(model):
    assert_is_dense(model)


@pytest.mark.parametrize("renormalize", [True, False])
def test_cutting_edges_is_cutting_them_in_the_dense_transformer(model, renormalize):
    edges = model.config.graph.edges
    for head in (None, model.config.n_heads - 1):
        assert_is_dense(model, edges=edges[1::3], head=head, renormalize=renormalize)
        assert_is_dense(model, edges=edges[::2], head=head, renormalize=renormalize)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, lists):
    return nnx.merge(graphdef, state)(lists)


@pytest.mark.parametrize("name", ["three layers", "everything"])
def test_a_trace_changes_nothing(name):
    model = gentle_model(MODELS[name])
    lists = some_lists(model.config)
    np.testing.assert_allclose(
        _logits(*nnx.split(model), jnp.asarray(lists)), run(model, lists)[0], rtol=1e-5, atol=1e-5
    )


def test_without_the_edges_into_sep_no_digit_matters(model):
    graph = model.config.graph
    into_sep = [edge for edge in graph.edges if edge.query == graph.sep]
    lists = some_lists(model.config)
    others = (lists + 1) % model.config.n_digits
    for renormalize in (True, False):
        logits, other_logits = (run(model, x, into_sep, renormalize=renormalize)[0] for x in (lists, others))
        np.testing.assert_array_equal(logits, other_logits)
    if graph.n_layers > 1:
        assert (run(model, lists)[0] != run(model, others)[0]).any()


@pytest.mark.parametrize("renormalize", [True, False])
def test_live_edges_matter_and_dead_ones_do_not(model, renormalize):
    graph, lists = model.config.graph, some_lists(model.config)
    intact, _ = run(model, lists, renormalize=renormalize)
    for edge in graph.edges:
        logits, _ = run(model, lists, [edge], renormalize=renormalize)
        assert (logits != intact).any() == graph.is_live(edge), graph.label(edge)


def paths(graph):
    """[L+1, T, T]: may the final residual of query depend on what key carries into layer l?"""
    T = graph.n_positions
    reach = [np.eye(T, dtype=bool)]
    for layer in reversed(range(graph.n_layers)):
        moves = np.eye(T, dtype=bool) | graph.readable(layer)
        if layer == 0:
            moves[list(graph.outputs)] = np.eye(T, dtype=bool)[list(graph.outputs)]
        reach.append(reach[-1] @ moves)
    return np.stack(reach[::-1])


@functools.partial(jax.jit, static_argnums=0)
def _jacobian(graphdef, state, lists, residuals, at, direction):
    """[T, L+1, B, T, D]: what each position's final residual along `direction` owes to residuals."""

    def final(residuals):
        interventions = Interventions(residuals=residuals, residuals_at=at)
        _, trace = nnx.merge(graphdef, state)(lists, interventions, trace=True)
        return (trace.residuals[-1] * direction).sum((0, 2))

    return jax.jacrev(final)(residuals)


@pytest.mark.parametrize("name", ["three layers", "everything"])
def test_gradients_are_zero_exactly_where_no_path_leads(name):
    model = gentle_model(MODELS[name])
    config, lists = model.config, jnp.asarray(some_lists(model.config))
    residuals = run(model, lists)[1].residuals
    direction = jnp.asarray(np.random.default_rng(2).normal(size=config.d_model), jnp.float32)
    for layer in range(config.n_layers + 1):
        at = jnp.zeros((config.n_layers + 1, config.n_positions), bool).at[layer].set(True)
        jacobian = _jacobian(*nnx.split(model), lists, residuals, at, direction)
        depends = np.asarray(jacobian != 0).any((2, 4))  # [T, L+1, T]
        np.testing.assert_array_equal(depends[:, layer], paths(config.graph)[layer])
        assert not np.delete(depends, layer, axis=1).any()


def test_given_patterns_replace_and_respect_the_mask():
    model = gentle_model(VARIANTS["two heads"])
    config, lists = model.config, jnp.asarray(some_lists(model.config))
    _, trace = run(model, lists)

    @jax.jit
    def replaced(patterns, at):
        _, trace = model(lists, Interventions(patterns=patterns, patterns_at=at), trace=True)
        return trace

    everywhere = jnp.ones((config.n_layers, config.n_positions, config.n_positions), bool)
    again = replaced(trace.patterns, everywhere)
    np.testing.assert_allclose(again.residuals, trace.residuals, rtol=1e-5, atol=1e-5)

    half = replaced(jnp.full_like(trace.patterns, 0.5), everywhere)
    readable = np.stack([config.graph.readable(layer) for layer in range(config.n_layers)])
    readable[0, list(config.graph.outputs)] = False
    np.testing.assert_array_equal(
        half.patterns, np.broadcast_to(0.5 * readable[:, None, None], (*half.patterns.shape,))
    )

    sep_only = np.zeros(everywhere.shape, bool)
    sep_only[0, config.graph.sep] = True
    partly = replaced(jnp.full_like(trace.patterns, 0.5), jnp.asarray(sep_only))
    np.testing.assert_array_equal(partly.patterns[0, :, :, config.graph.sep, :2], 0.5)
    np.testing.assert_allclose(partly.patterns[0, :, :, :2], trace.patterns[0, :, :, :2], atol=1e-6)


def test_given_residuals_replace_where_they_should():
    model = gentle_model(VARIANTS["plain"])
    config, lists = model.config, jnp.asarray(some_lists(model.config))
    graph, donor = config.graph, jnp.asarray(some_lists(model.config)[::-1].copy())

    @jax.jit
    def patched(residuals, at):
        return model(lists, Interventions(residuals=residuals, residuals_at=at))

    residuals = run(model, donor)[1].residuals
    nowhere = np.zeros((config.n_layers + 1, config.n_positions), bool)
    np.testing.assert_allclose(
        patched(residuals, nowhere), _logits(*nnx.split(model), lists), rtol=1e-5, atol=1e-5
    )
    sep = nowhere.copy()
    sep[1, graph.sep] = True  # all that the outputs of two layers learn of the digits
    np.testing.assert_allclose(
        patched(residuals, sep), _logits(*nnx.split(model), donor), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_frozen_projections_are_not_arrays(name):
    config = VARIANTS[name]
    names = set(named_arrays(random_model(config)))
    assert any(name.endswith(".W_V") for name in names) == config.learn_wv
    assert any(name.endswith(".W_O") for name in names) == config.learn_wo
    assert any(".b_" in name for name in names) == config.bias
    W_V, W_O = frozen_projections(config)
    assert W_V.shape == (config.n_heads, 8, config.d_head) == W_O.swapaxes(1, 2).shape
    if config.n_heads == 1 or config.frozen_heads == "block":
        np.testing.assert_array_equal(np.einsum("hdc,hce->de", W_V, W_O), np.eye(8))


@pytest.mark.parametrize(("n_layers", "expected"), [(2, 29_760), (3, 37_952)])
def test_published_parameter_counts(n_layers, expected):
    model = nnx.eval_shape(lambda: ListTransformer(ModelConfig(n_layers=n_layers), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == expected


def test_initial_weights():
    config = ModelConfig(n_layers=1, bias=True, layer_norm=True, learn_wo=True)
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    arrays = named_arrays(bind(config, params))
    for name, array in arrays.items():
        kind = name.rsplit(".", 1)[-1]
        if kind.startswith("W_") and kind != "W_pos":  # a matrix of 320 numbers says too little
            assert abs(array.mean()) < 5e-3 and array.std() == pytest.approx(0.8 / 8, rel=0.05), name
        elif not kind.startswith("W_"):
            np.testing.assert_array_equal(array, 1.0 if kind == "w" else 0.0, err_msg=name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_layers": 0}, "model.n_layers must be at least 1, got 0"),
        ({"n_heads": 0}, "model.n_heads must be at least 1"),
        ({"d_model": 10, "n_heads": 4}, "model.n_heads must divide model.d_model: 10 is not a multiple of 4"),
        ({"n_digits": 1}, "model.n_digits must be at least 2"),
        ({"frozen_heads": "own"}, "model.frozen_heads must be one of shared, block; got 'own'"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(**options)
