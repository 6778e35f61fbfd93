"""Every edge cut in one pass is every edge cut in a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_model
from flax import nnx

from orderscale_jax.analysis import ablate_edges, ablation
from orderscale_jax.model import MODES, Interventions, ListTransformer, ModelConfig, cut, scales

N_LISTS = 41
TOLERANCE = 0.02
MODELS = {
    "scales, two layers": ModelConfig(d_model=8, n_digits=3),
    "scales, three digits": ModelConfig(d_model=8, n_digits=3, list_len=3),
    "residuals, two heads": ModelConfig(d_model=8, n_digits=3, n_heads=2, n_layers=3, learn_wv=True),
    "residuals, everything": ModelConfig(
        d_model=8, n_digits=3, list_len=3, n_heads=2, layer_norm=True, bias=True, learn_wo=True
    ),
    "one layer": ModelConfig(d_model=8, n_digits=3, list_len=1, n_layers=1),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def model(request):
    return gentle_model(request.param)


def gentle_model(config):
    """Random, with attention that is not saturated; it tends to answer digits that it has read."""
    model = random_model(config)
    is_digit = jnp.arange(config.d_vocab) < config.n_digits
    model.unembed.W_U[...] = model.embed.W_E[...].T * is_digit
    for block in model.blocks:
        block.attn.W_Q[...] = 0.1 * block.attn.W_Q[...]
    return model


def some_lists(config, n_lists=N_LISTS):
    return np.random.default_rng(2).integers(0, config.n_digits, (n_lists, config.list_len))


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, lists, keep, renormalize):
    return nnx.merge(graphdef, state)(lists, Interventions(keep, renormalize))


def accuracies(model, lists, edges, mode, head=None):
    """Accuracy per output with `edges` cut, by one call of the model."""
    config = model.config
    keep = cut(config, edges, head=head).keep
    keep = jnp.broadcast_to(keep, (config.n_layers, config.n_heads, *keep.shape[2:]))
    logits = _logits(*nnx.split(model), jnp.asarray(lists), keep, jnp.asarray(mode == "renormalize"))
    return (np.asarray(logits).argmax(-1) == lists).mean(0)


def assert_is_loop(found, model, lists, mode, head=None):
    graph = model.config.graph
    assert found.edges == graph.edges and (found.mode, found.head) == (mode, head)
    assert [e for e, live in zip(found.edges, found.live, strict=True) if live] == list(graph.live_edges)
    intact = accuracies(model, lists, [], mode)
    assert found.accuracy == pytest.approx(intact.mean(), abs=1e-6)
    for edge, row, accuracy, delta in zip(
        found.edges, found.position_accuracies, found.accuracies, found.deltas, strict=True
    ):
        looped = accuracies(model, lists, [edge], mode, head)
        np.testing.assert_allclose(row, looped, atol=1e-6, err_msg=graph.label(edge))
        assert accuracy == pytest.approx(looped.mean(), abs=1e-6)
        assert delta == pytest.approx(looped.mean() - intact.mean(), abs=1e-6)
    critical = tuple(e for e, d in zip(found.edges, found.deltas, strict=True) if d < -found.tolerance)
    assert found.critical == critical
    rest = [edge for edge in graph.edges if edge not in critical]
    without = accuracies(model, lists, rest, mode, head).mean()
    assert found.accuracy_without_non_critical == pytest.approx(without, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_one_pass_is_a_loop(model, mode):
    lists = some_lists(model.config)
    found = ablate_edges(model, lists, mode, tolerance=TOLERANCE)
    assert_is_loop(found, model, lists, mode)
    if model.config.n_layers > 1:
        assert len(np.unique(found.accuracies)) > 3  # so that something was tested
    if mode == "zero" and scales.is_faster(model.config):
        assert bool(found.critical) == (model.config.n_layers > 1)


def test_one_head_is_a_loop():
    model = gentle_model(MODELS["residuals, two heads"])
    lists = some_lists(model.config)
    found = [ablate_edges(model, lists, "zero", head=head, tolerance=TOLERANCE) for head in (0, 1)]
    for head in (0, 1):
        assert_is_loop(found[head], model, lists, "zero", head)
    assert (found[0].accuracies != found[1].accuracies).any()


@pytest.mark.parametrize("mode", MODES)
def test_the_residual_form_serves_plain_models_too(mode, monkeypatch):
    """The same as the scale form, also when the lists do not fit the device at once."""
    model = gentle_model(MODELS["scales, two layers"])
    lists = some_lists(model.config, 23)  # a number of lists that nothing was compiled for
    expected = ablate_edges(model, lists, mode, tolerance=TOLERANCE)
    monkeypatch.setattr(scales, "is_faster", lambda config: False)
    monkeypatch.setattr(ablation, "CHUNK_BYTES", 4 * 5 * 8 * 3 * 10)  # ten lists at a time
    monkeypatch.setattr(ablation, "count_right", jax.jit(_evaluate_anew, static_argnums=(0, 3, 4)))
    found = ablate_edges(model, lists, mode, tolerance=TOLERANCE)
    np.testing.assert_allclose(found.position_accuracies, expected.position_accuracies, atol=1e-6)
    assert found.critical == expected.critical
    assert found.accuracy_without_non_critical == pytest.approx(expected.accuracy_without_non_critical)


def _evaluate_anew(*arguments, evaluate=ablation.count_right.__wrapped__):
    return evaluate(*arguments)


def test_what_cannot_be_ablated():
    model = random_model(MODELS["scales, two layers"])
    lists = some_lists(model.config)
    with pytest.raises(ValueError, match="mode must be one of renormalize, zero, mean, resample; got 'cut'"):
        ablate_edges(model, lists, "cut")
    with pytest.raises(ValueError, match="head 1 does not exist"):
        ablate_edges(model, lists, head=1)
    with pytest.raises(ValueError, match="ablation needs at least one list"):
        ablate_edges(model, lists[:0])
    with pytest.raises(ValueError, match=r"lists must have shape \[B, 2\]"):
        ablate_edges(model, lists[:, :1])
    with pytest.raises(ValueError, match="digits must lie in 0 … 2"):
        ablate_edges(model, lists + 1)


def test_an_edge_that_costs_just_the_tolerance_is_spared_and_cut():
    """What is called critical and what is cut with the rest is decided once, ties included."""
    config = ModelConfig(d_model=8, n_digits=6)
    for seed in (22, 35, 50):
        model = ListTransformer(config, rngs=nnx.Rngs(seed))
        lists = np.random.RandomState(seed).randint(0, 6, (50, 2))
        found = ablate_edges(model, lists, tolerance=0.01)
        rest = [edge for edge in found.edges if edge not in found.critical]
        expected = accuracies(model, lists, rest, "renormalize").mean()
        assert found.accuracy_without_non_critical == pytest.approx(expected, abs=1e-6), seed
