"""The scale form is the residual form: logits, loss and gradient, intact and cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VARIANTS, random_model
from flax import nnx

from orderscale_jax.errors import UserError
from orderscale_jax.model import Interventions, ModelConfig, keep_weights, metrics, scales, tables
from orderscale_jax.model.readout import HEADROOM, readout_loss

# (list_len, n_layers, n_digits); 14 digits make a vocabulary of 16, which needs no padding
SHAPES = [(1, 2, 5), (2, 1, 5), (2, 2, 14), (2, 3, 5), (3, 2, 5)]


def example(list_len, n_layers, n_digits):
    config = ModelConfig(d_model=8, list_len=list_len, n_layers=n_layers, n_digits=n_digits)
    model = random_model(config)
    for block in model.blocks:
        block.attn.W_Q[...] = 0.1 * block.attn.W_Q[...]  # attention that is not saturated
    lists = np.random.default_rng(0).integers(0, n_digits, (17, list_len))
    return model, jnp.asarray(lists)


@functools.partial(jax.jit, static_argnums=0)
def both_forms(graphdef, params, lists):
    """(logits, loss, gradient) of the residual form, then of the scale form."""

    def residual(params):
        return metrics.cross_entropy(nnx.merge(graphdef, params)(lists), lists)

    def scale(params):
        return scales.loss(nnx.merge(graphdef, params), lists)

    model = nnx.merge(graphdef, params)
    return (
        (model(lists), *jax.value_and_grad(residual)(params)),
        (scales.logits(model, lists), *jax.value_and_grad(scale)(params)),
    )


@pytest.mark.parametrize(("list_len", "n_layers", "n_digits"), SHAPES)
def test_both_forms_agree(list_len, n_layers, n_digits):
    model, lists = example(list_len, n_layers, n_digits)
    (logits, loss, gradient), (logits_, loss_, gradient_) = both_forms(*nnx.split(model), lists)
    np.testing.assert_allclose(logits_, logits, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(loss_, loss, rtol=1e-5)
    ours, theirs = nnx.to_flat_state(gradient_), nnx.to_flat_state(gradient)
    largest = max(float(abs(leaf[...]).max()) for _, leaf in theirs)
    for (path, our), (_, their) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our[...], their[...], rtol=1e-4, atol=1e-5 * largest, err_msg=str(path))
    assert largest > 0.01


@pytest.mark.parametrize("renormalize", [True, False])
def test_both_forms_agree_when_edges_are_cut(renormalize):
    model, lists = example(3, 2, 5)
    graph = model.config.graph
    sets = [[edge] for edge in graph.live_edges]
    sets += [list(graph.live_edges[:2]), list(graph.edges[::2]), list(graph.edges)]
    keeps = jnp.stack([jnp.asarray(keep_weights(model.config, edges)) for edges in sets])

    @jax.jit
    def residual(keep):
        return model(lists, Interventions(keep, renormalize))

    @jax.jit
    def scale(keep):
        weights = {edge: keep[edge.layer, 0, edge.query, edge.key] for edge in graph.edges}
        residuals, table = scales.Scales(model, lists, weights, renormalize), scales.LogitTable(model)
        rows, shape = table.rows(lists), (len(lists), table.width)
        logits = [table.logits(residuals.final(output), rows) for output in graph.outputs]
        return jnp.stack([jnp.broadcast_to(x, shape) for x in logits], 1)[..., : model.config.d_vocab]

    for edges, keep in zip(sets, keeps, strict=True):
        np.testing.assert_allclose(scale(keep), residual(keep), rtol=1e-5, atol=1e-4, err_msg=str(edges))


@pytest.mark.parametrize("name", VARIANTS)
def test_it_applies_to_plain_models_only(name):
    model = random_model(VARIANTS[name])
    applies = name in ("plain", "three layers")
    assert scales.is_faster(model.config) == applies
    if not applies:
        with pytest.raises(UserError, match="the scale form needs one head, frozen projections"):
            scales.Scales(model, jnp.zeros((1, 2), int))


@pytest.mark.parametrize("n_indices", [1, 2])
def test_both_gradients_of_a_lookup_agree(n_indices):
    """The scatter of a CPU and the one-hot product of other devices."""
    generator = np.random.default_rng(0)
    shape = (5, 4)[:n_indices]
    indices = [jnp.asarray(generator.integers(0, size, 30)) for size in shape]
    gradient = jnp.asarray(generator.normal(size=(30, 3)), jnp.float32)
    expected = np.zeros((*shape, 3))
    np.add.at(expected, tuple(map(np.asarray, indices)), gradient)
    for summed in (tables._scatter, tables._one_hot_sum):
        np.testing.assert_allclose(summed(shape, gradient, *indices), expected, rtol=1e-5, atol=1e-5)


def test_padding_columns_are_never_answered():
    model, lists = example(2, 1, 5)
    model.unembed.W_U[...] += 1000 * jax.random.normal(jax.random.key(5), (model.config.d_model, 1))
    _, (logits, loss, _) = both_forms(*nnx.split(model), lists)
    assert logits.shape == (17, 2, 7) and logits.max(-1).min() < -1000  # all of some list's are very low
    np.testing.assert_allclose(loss, metrics.cross_entropy(logits, lists), rtol=1e-4)


def test_loss_of_logits_far_apart():
    """Exact where a digit of the list is within the headroom of the largest logit, else capped there."""
    shared = jnp.zeros((3, 16)).at[:, 5:].set(scales.IMPOSSIBLE)
    lists = jnp.array([[0, 1]])

    def loss(first):
        rows = jnp.zeros((2, 5, 16)).at[0, 0, :5].set(first)
        zero, one = {0: jnp.ones(()), 3: jnp.ones(())}, {4: jnp.ones(())}
        return readout_loss(((), ()), tuple(rows), shared, (zero, one), lists)

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    uniform = np.log(5)
    for first in ([500.0, 0, 0, 0, -500], [-500.0, 0, 0, 0, -500], [0.0, 0, 70, 0, 0]):
        expected = (metrics.token_losses(jnp.array([first]), jnp.array([0]))[0] + uniform) / 2
        found, slope = value_and_grad(jnp.array(first))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(slope, (jax.nn.softmax(jnp.array(first)) - np.eye(5)[0]) / 2, atol=1e-6)
    found, slope = value_and_grad(jnp.array([0.0, 0, 500, 0, 0]))
    np.testing.assert_allclose(found, (HEADROOM + uniform) / 2, rtol=1e-6)
    np.testing.assert_allclose(slope, (np.eye(5)[2] - np.eye(5)[0]) / 2, atol=1e-6)
