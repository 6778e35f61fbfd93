"""The kernels of accelerators, interpreted: they train on the loss of the scale form, and draw its lists.

Whether compilers take them is in `test_accelerators`; `interpret` runs them on a CPU, slowly.
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VARIANTS, random_model
from flax import nnx

from orderscale_jax.config import Setup, TrainConfig
from orderscale_jax.errors import UserError
from orderscale_jax.model import ModelConfig, fused, kernels, metrics, scales
from orderscale_jax.task import TaskConfig, make_split
from orderscale_jax.training import run as training
from orderscale_jax.training.batches import training_batch
from orderscale_jax.training.devices import CompiledTraining, Placement, start_runs

# (list_len, n_layers, n_digits, number of lists): with no score, with scores of digits, with three keys, with
# more digits than fit a GPU's table.
SHAPES = [(1, 2, 5, 7), (2, 3, 5, 40), (3, 2, 5, 300), (2, 2, 130, 100)]
MANY = (2, 2, 110, 600)  # several blocks of either kernel, the last one not full; a GPU's table is full


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(kernel, graphdef, params, lists):
    """Loss and gradient in a kernel, or the scale form; lists [2, B, n] are of two models."""

    def loss(params, lists):
        model = nnx.merge(graphdef, params)
        if kernel is None:
            return scales.loss(model, lists)
        return fused.loss(model, lists, kernel, interpret=True)

    function = jax.value_and_grad(loss)
    return (jax.vmap(function) if lists.ndim == 3 else function)(params, lists)


@functools.cache
def example(list_len, n_layers, n_digits, n_lists):
    """(graphdef, params, lists) of a model whose attention is not saturated."""
    config = ModelConfig(d_model=8, list_len=list_len, n_layers=n_layers, n_digits=n_digits)
    model = random_model(config)
    for block in model.blocks:
        block.attn.W_Q[...] = 0.1 * block.attn.W_Q[...]
    lists = np.random.default_rng(0).integers(0, n_digits, (n_lists, list_len))
    return (*nnx.split(model), jnp.asarray(lists))


def assert_same(found, expected, rtol=3e-6):
    """Losses and gradients that differ by rounding only, of the largest number in all arrays."""
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    ours, theirs = (jax.tree.leaves_with_path(gradient) for gradient in (found[1], expected[1]))
    largest = max(float(abs(leaf).max()) for _, leaf in theirs)
    assert 0.01 < largest < np.inf
    for (path, our), (_, their) in zip(ours, theirs, strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(our, their, rtol=0, atol=rtol * largest, err_msg=name)


@pytest.mark.parametrize(("list_len", "n_layers", "n_digits", "n_lists"), SHAPES)
def test_loss_and_gradient_are_those_of_the_scale_form(list_len, n_layers, n_digits, n_lists):
    graphdef, params, lists = example(list_len, n_layers, n_digits, n_lists)
    expected = value_and_gradient(None, graphdef, params, lists)
    config = nnx.merge(graphdef, params).config
    fitting = [kernel for kernel in fused.KERNELS if fused.applies(config, kernel)]
    assert fitting == (["tpu"] if n_digits == 130 or n_layers == 3 else ["gpu", "tpu"])
    for kernel in fitting:
        assert_same(value_and_gradient(kernel, graphdef, params, lists), expected)


@pytest.fixture(scope="module", params=fused.KERNELS)
def many(request):
    """(kernel, its loss and gradient for parameters and the lists of MANY)."""
    graphdef, _, _ = example(*MANY)
    return request.param, functools.partial(value_and_gradient, request.param, graphdef)


def test_every_list_counts_the_same(many):
    """In whatever block it stands, and whatever the last block is filled up with."""
    _, function = many
    graphdef, params, lists = example(*MANY)
    whole = function(params, lists)
    assert_same(whole, value_and_gradient(None, graphdef, params, lists))
    assert_same(function(params, jnp.roll(lists, 299, 0)), whole)
    alike = jnp.broadcast_to(lists[:1], lists.shape)
    of_alike, _ = function(params, alike)
    steps = []
    for place in (0, 255, 256, 511, 512, 599):  # a list among others that are all alike
        steps.append(function(params, alike.at[place].set(lists[1]))[0] - of_alike)
    assert abs(steps[0]) > 1e-3
    np.testing.assert_allclose(steps, steps[0], rtol=0.01)


def test_several_models_are_each_what_they_are_alone(many):
    """Under vmap, as runs train together; the loss of a batch is the mean of its halves'."""
    _, function = many
    graphdef, params, lists = example(*MANY)
    halves = lists.reshape(2, -1, lists.shape[1])
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    assert_same(jax.tree.map(lambda x: x.mean(0), function(twice, halves)), function(params, lists))
    different = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x[::-1]]), params)
    found, expected = function(different, halves), value_and_gradient(None, graphdef, different, halves)
    assert abs(expected[0][0] - expected[0][1]) > 0.1
    for i in (0, 1):
        assert_same(*(jax.tree.map(operator.itemgetter(i), both) for both in (found, expected)))


@pytest.mark.parametrize("kernel", fused.KERNELS)
def test_a_gradient_is_passed_on(kernel):
    """The loss may be part of another; here that of one layer, which reads nothing."""
    graphdef, params, lists = example(2, 1, 5, 40)

    def square(params):
        return fused.loss(nnx.merge(graphdef, params), lists, kernel, interpret=True) ** 2

    loss, gradient = value_and_gradient(None, graphdef, params, lists)
    squared = jax.tree.map(lambda x: 2 * loss * x, gradient)
    assert_same(jax.jit(jax.value_and_grad(square))(params), (loss**2, squared))


@functools.partial(jax.jit, static_argnums=0)
def capped(graphdef, params, lists, headroom):
    """Loss and gradient where logits count as no more than `headroom` above those of the list's digits."""

    def loss(params):
        logits = scales.logits(nnx.merge(graphdef, params), lists)  # [B, n, V]
        of_list = jnp.take_along_axis(logits, lists[:, None, :], -1)  # of each output's n digits
        most = of_list.max(-1, keepdims=True) + headroom
        losses = metrics.token_losses(jnp.minimum(logits, most), lists)
        slopes = jax.nn.softmax(jnp.minimum(logits, most)) - jax.nn.one_hot(lists, logits.shape[-1])
        pulled = (jax.lax.stop_gradient(slopes) * logits).sum(-1)
        return (jax.lax.stop_gradient(losses - pulled) + pulled).mean()

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("far", ["one column of logits", "scores", "all logits", "everything"])
def test_logits_and_scores_far_apart(many, far):
    """A TPU's are exact, a GPU's capped as in `readout`, but sooner."""
    kernel, function = many
    graphdef, params, lists = example(*MANY)

    def scaled(path, x):
        name = jax.tree_util.keystr(path)
        if far == "one column of logits":  # no other is beyond the cap
            return (0.1 * x).at[:, 3].multiply(10_000) if "W_U" in name else x
        return 1000 * x if {"scores": "W_Q", "all logits": "W_U", "everything": ""}[far] in name else x

    params = jax.tree.map_with_path(scaled, params)
    headroom = np.inf if kernel == "tpu" else kernels.GPU_HEADROOM * kernels.LN_2
    assert_same(function(params, lists), capped(graphdef, params, lists, headroom), 1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("plain", "three layers")])
def test_other_models_are_refused(name):
    model, lists = random_model(VARIANTS[name]), jnp.zeros((1, 2), int)
    for use in (functools.partial(fused.loss, kernel="tpu"), fused.judge):
        with pytest.raises(UserError, match="one head, frozen projections"):
            use(model, lists, interpret=True)


@pytest.mark.parametrize(
    ("kernel", "config", "said"),
    [
        ("cuda", ModelConfig(), "there is no kernel 'cuda'; there are gpu, tpu"),
        ("gpu", ModelConfig(n_layers=3), "the kernel 'gpu' does not train ModelConfig.n_layers=3"),
        ("gpu", ModelConfig(n_digits=120), "the kernel 'gpu' does not train"),
        ("tpu", ModelConfig(n_layers=8), "the kernel 'tpu' does not train"),
    ],
)
def test_a_kernel_refuses_what_it_does_not_train(kernel, config, said):
    with pytest.raises(UserError, match=said):
        fused.loss(random_model(config), jnp.zeros((1, 2), int), kernel, interpret=True)


def test_a_kernel_is_tried_out_against_the_other_form(monkeypatch):
    def wrong(model, lists, kernel):
        """The right loss, and a gradient that is too large by a thousandth."""
        loss = scales.loss(model, lists)
        return loss + 0.001 * (loss - jax.lax.stop_gradient(loss))

    def interpreted(*arguments, interpret):
        return kernels.on_gpu(*arguments, interpret=True)

    monkeypatch.setitem(fused.KERNELS, "gpu", interpreted)
    fused.try_out("gpu", jax.devices()[0])
    monkeypatch.setattr(fused, "loss", wrong)
    with pytest.raises(ArithmeticError, match="does not compute what it should"):
        fused.try_out("gpu", jax.devices()[0])


def test_outputs_are_judged_as_from_their_logits():
    """The first of equal logits is the answer, and a NaN is a miss."""
    graphdef, params, lists = example(2, 3, 5, 40)

    @jax.jit
    def judge(params):
        model = nnx.merge(graphdef, params)
        logits = scales.logits(model, lists)
        expected = metrics.token_losses(logits, lists), metrics.is_correct(logits, lists)
        return fused.judge(model, lists, interpret=True), expected

    in_pairs = jax.tree.map(jnp.copy, params)
    in_pairs["unembed"]["W_U"][...] = in_pairs["unembed"]["W_U"][:, np.array([0, 0, 2, 2, 4, 5, 6])]
    (losses, right), expected = judge(in_pairs)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(right, expected[1])
    assert right.dtype == bool and right[(lists == 0) | (lists == 2)].any()
    assert not right[(lists == 1) | (lists == 3)].any()
    (losses, right), _ = judge(jax.tree.map(lambda x: x * jnp.nan, params))
    assert jnp.isnan(losses).all() and not right.any()


@pytest.mark.parametrize("kernel", fused.KERNELS)
def test_they_apply_to_plain_models_that_fit_the_chip(kernel):
    assert fused.applies(ModelConfig(), kernel)
    for name, config in VARIANTS.items():
        assert fused.applies(config, kernel) == (name in ("plain", "three layers")[: 1 + (kernel == "tpu")])
    most = fused.LARGEST[kernel] - 16 - 2  # scores have 16 columns; MASK and SEP
    assert fused.applies(ModelConfig(n_digits=most), kernel)
    assert not fused.applies(ModelConfig(n_digits=most + 1), kernel)
    deep, deeper = ModelConfig(n_layers=4), ModelConfig(n_layers=5)  # XLA's compiler for TPUs says so
    assert scales.is_faster(deeper) and not fused.applies(deeper, kernel)
    assert fused.applies(deep, kernel) == (kernel == "tpu")
    assert not fused.applies(dataclasses.replace(deep, n_digits=130), kernel)


@pytest.mark.parametrize(
    ("n_lists", "n", "n_places"), [(1, 1, 1), (127, 2, 5), (2049, 3, 128), (32768, 2, 2100)]
)
def test_lists_are_taken_exactly(n_lists, n, n_places):
    generator = np.random.default_rng(0)
    lists = generator.integers(0, 2**16, (n_lists, n), np.int32)
    lists[0], lists[-1] = 2**16 - 1, np.arange(n)
    places = generator.integers(0, n_lists, n_places, np.int32)
    places[0], places[-1] = 0, n_lists - 1
    assert n_lists <= kernels.MOST_TAKEN
    taken = jax.jit(functools.partial(kernels.take, interpret=True))(lists, places)
    assert taken.dtype == jnp.int32
    np.testing.assert_array_equal(taken, lists[places])


@pytest.mark.parametrize("split", [kernels._parts, kernels._truncated])
def test_three_bfloat16_numbers_hold_a_float32_number(split):
    """All of its bits, summed from either end; of numbers below 2**-103 the last bits may be lost."""
    generator = np.random.default_rng(0)
    bits = generator.integers(2**23, 2**24, 2000) * generator.choice([-1, 1], 2000)
    x = np.ldexp(bits.astype(np.float32), generator.integers(-103, 127, 2000) - 23)
    x = np.append(x, np.float32([0, 1, -1, 2**24 - 1, 1 / 3, 1 + 2**-23, 2 - 2**-23, 2.0**-103, -(2.0**126)]))
    tiny = np.ldexp(bits.astype(np.float32), generator.integers(-126, -103, 2000) - 23)
    for numbers, error in ((x, 0), (tiny, 2.0**-125)):
        parts = jax.jit(split)(numbers)
        assert len(parts) == 3 and all(part.dtype == jnp.bfloat16 for part in parts)
        first, second, third = (np.asarray(part, np.float32) for part in parts)
        for total in ((first + second) + third, first + (second + third)):
            np.testing.assert_allclose(total, numbers, rtol=0, atol=error)


def test_rows_are_looked_up_and_summed_back_exactly():
    """By products with zeros and ones, here each with a single one."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(128, 128)), jnp.float32)
    order = np.random.default_rng(1).permutation(128)
    chosen = kernels._exact(jnp.arange(128)[:, None] == order)
    np.testing.assert_array_equal(kernels._product(kernels._parts(x), chosen), x[:, order])
    row = jnp.broadcast_to(jnp.arange(128)[:, None], (128, 128))
    summed = kernels._add_rows(jnp.zeros(x.shape), row, jnp.asarray(order), -1, x)
    np.testing.assert_array_equal(summed[order], x)


# Sizes that no other test file has: what is traced here, interpreted, might else be remembered there.
SETUP = Setup(
    ModelConfig(d_model=8, n_digits=9, n_layers=1),
    TaskConfig(n_digits=9),
    TrainConfig(batch_size=24, eval_every=8, max_steps=16, learning_rate=0.01, batches="resample"),
)


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels that run without their accelerator, and the names of those that were used."""
    used = set()

    def interpret(name, kernel):
        def run(*arguments, interpret=True):
            used.add(name)
            return kernel(*arguments, interpret=True)

        return run

    ours = {name: interpret(name, kernel) for name, kernel in fused.KERNELS.items()}
    monkeypatch.setattr(fused, "KERNELS", ours)
    for name in ("take", "judge_on_tpu"):
        monkeypatch.setattr(kernels, name, interpret(name, getattr(kernels, name)))
    return used


@functools.cache
def split():
    return make_split(SETUP.task)


def trained(kernel):
    """(parameters, reports) of two runs, side by side, after two validations."""
    advance = CompiledTraining(SETUP, Placement(2, 1, "runs", True, "cpu", kernel))
    runs, reports = advance.load(start_runs(SETUP, np.arange(2))), []
    for _ in range(2):
        runs, report = advance(runs, split().train, split().validation)
        reports.append(report)
    return advance.fetch(runs.params), reports


def test_training_goes_the_same_way(interpreted):
    expected = trained(None)
    first, second = (report["train_loss"] for report in expected[1])
    assert (second < first - 0.01).all() and not interpreted
    for kernel in ("gpu", "tpu"):
        found = trained(kernel)
        for (path, our), (_, their) in zip(*map(jax.tree.leaves_with_path, (found, expected)), strict=True):
            where = kernel + jax.tree_util.keystr(path)
            np.testing.assert_allclose(our, their, rtol=1e-4, atol=2e-5, err_msg=where)
    assert interpreted == {"gpu", "tpu", "take", "judge_on_tpu"}


@pytest.mark.parametrize("recipe", ["reshuffle", "resample", "mirrored"])
def test_batches_are_the_same_lists(recipe, interpreted):
    setup = dataclasses.replace(SETUP, train=dataclasses.replace(SETUP.train, batches=recipe))
    run, train = training.start(setup, 3), jnp.asarray(split().train)

    @functools.partial(jax.jit, static_argnums=0)
    def batches(kernel, part):
        return training.batches(setup, run, jnp.arange(7), train, part, 2, kernel)

    for part in (0, 1):
        np.testing.assert_array_equal(batches("tpu", part), batches(None, part))
    assert interpreted == {"take"}


def test_a_training_set_that_is_too_large_is_gathered(interpreted):
    """Every list of 182 digits is one more than can be taken."""
    task = TaskConfig(n_digits=182)
    train = jnp.asarray(np.indices((182, 182), np.int32).reshape(2, -1).T)
    lists, key = [], jax.random.key(0)
    for kernel in (None, "tpu"):
        lists.append(training_batch("resample", task, 12, key, 5, train, 0, 1, kernel))
    np.testing.assert_array_equal(*lists)
    assert len(train) > kernels.MOST_TAKEN and not interpreted
