"""Interventions answer for what they say, in value and in gradient, and nothing that does not fit passes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VARIANTS, random_model
from flax import nnx

from orderscale_jax import Interventions, cut, patch
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Graph
from orderscale_jax.model import MODES, keep_weights, metrics, scales
from orderscale_jax.model.interventions import rescaled
from orderscale_jax.training import step

PLAIN = VARIANTS["plain"]  # two layers, lists of two of five digits, 8 wide
LISTS = np.array([[0, 1], [3, 2], [4, 4]])


def gentle_model(config):
    """Random, with attention that is neither flat nor saturated."""
    model = random_model(config)
    for block in model.blocks:
        block.attn.W_Q[...] = 0.1 * block.attn.W_Q[...]
    return model


def summed_loss(form, graphdef, state, lists, renormalize, keep):
    """Loss with live edge e weighing keep[e], in the residual or the scale form."""
    model = nnx.merge(graphdef, state)
    graph = model.config.graph
    if form == "residual":
        weights = jnp.ones((graph.n_layers, 1, graph.n_positions, graph.n_positions))
        for i, edge in enumerate(graph.live_edges):
            weights = weights.at[edge.layer, 0, edge.query, edge.key].set(keep[i])
        return metrics.cross_entropy(model(lists, Interventions(weights, renormalize)), lists)
    weights = {edge: keep[i] for i, edge in enumerate(graph.live_edges)}
    form, table = scales.Scales(model, lists, weights, renormalize), scales.LogitTable(model)
    rows, shape = table.rows(lists), (len(lists), table.width)
    logits = [jnp.broadcast_to(table.logits(form.final(o), rows), shape) for o in graph.outputs]
    return metrics.cross_entropy(jnp.stack(logits, 1), lists)


@pytest.mark.parametrize("form", ["residual", "scale"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [1.0, 0.5])
def test_gradients_are_central_differences(form, mode, at):
    """In float64, for every live edge, also where nothing is cut, which is where attribution looks."""
    model = gentle_model(PLAIN)
    n_edges, step_size = len(model.config.graph.live_edges), 1e-5
    with jax.enable_x64(True):
        graphdef, state = nnx.split(model)
        state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), state)
        loss = jax.jit(
            functools.partial(
                summed_loss, form, graphdef, state, jnp.asarray(LISTS), jnp.asarray(mode == "renormalize")
            )
        )
        keep = jnp.full(n_edges, at, jnp.float64)
        gradient = np.asarray(jax.grad(loss)(keep))
        steps = step_size * jnp.eye(n_edges)
        differences = [float(loss(keep + e) - loss(keep - e)) / (2 * step_size) for e in steps]
    np.testing.assert_allclose(gradient, differences, atol=1e-8)
    if mode == "zero":
        assert np.abs(gradient).min() > 1e-5
    else:  # o1 reads SEP alone, so its row is 1 whatever the edge weighs; elsewhere edges compete
        alone = [graph_edge.query == 3 for graph_edge in model.config.graph.live_edges]
        assert np.all(gradient[alone] == 0) and np.abs(gradient[~np.array(alone)]).min() > 1e-5


@pytest.mark.parametrize("renormalize", [True, False])
def test_weights_of_one_change_no_bit(renormalize):
    """Operation by operation, as the compiler rounds two programs differently whatever they say."""
    model = gentle_model(PLAIN)
    ones = Interventions(jnp.asarray(keep_weights(PLAIN, ())), renormalize)
    np.testing.assert_array_equal(model(LISTS, ones), model(LISTS))
    weights = dict.fromkeys(PLAIN.graph.live_edges, jnp.ones(()))
    weighed, intact = (scales.Scales(model, LISTS, keep, renormalize) for keep in (weights, {}))
    for output in PLAIN.graph.outputs:
        for source, scale in intact.final(output).items():
            np.testing.assert_array_equal(weighed.final(output)[source], scale)


def test_a_row_of_which_nothing_is_cut_keeps_every_bit():
    rows = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2000, 7)))

    @jax.jit
    def scaled(rows, keep):
        kept = rows * keep
        return rescaled(kept, kept.sum(-1, keepdims=True), (rows - kept).sum(-1, keepdims=True))

    np.testing.assert_array_equal(scaled(rows, jnp.ones_like(rows)), rows)


def test_a_cut_row_keeps_its_sum_and_an_emptied_one_stays_empty():
    row, keep = jnp.array([0.2, 0.5, 0.3]), jnp.array([1.0, 0.0, 0.5])

    def scaled(keep):
        kept = row * keep
        return rescaled(kept, kept.sum(), (row - kept).sum())

    np.testing.assert_allclose(scaled(keep), np.array([0.2, 0, 0.15]) / 0.35, rtol=1e-6)
    chex.assert_tree_all_finite((scaled(0 * keep), jax.jacobian(scaled)(0 * keep)))
    np.testing.assert_array_equal(scaled(0 * keep), 0)


def test_interventions_go_through_vmap_and_grad():
    model = gentle_model(PLAIN)
    config, graph, lists = PLAIN, PLAIN.graph, jnp.asarray(LISTS)
    keeps = jnp.stack([jnp.asarray(keep_weights(config, [edge])) for edge in graph.edges])

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)  # one compilation, whatever is cut
    def summed(keep):
        return jnp.square(model(lists, Interventions(keep, False))).sum()

    one_by_one = [summed(keep) for keep in keeps]
    summed = summed.__wrapped__.__wrapped__
    np.testing.assert_allclose(jax.jit(jax.vmap(summed))(keeps), one_by_one, rtol=1e-5)
    gradient = jax.jit(jax.grad(summed))(jnp.ones_like(keeps[0]))
    places = {tuple(int(i) for i in (place[0], place[2], place[3])) for place in np.argwhere(gradient)}
    assert places == set(graph.live_edges)


ONES, MASKS = np.ones((2, 1, 5, 5)), np.ones((2, 5, 5), bool)
RESIDUALS, AT = np.ones((3, 1, 5, 8)), np.zeros((3, 5), bool)
MISFITS = {
    "keep of one layer": ({"keep": ONES[:1]}, r"keep must have shape \[2, 1, 5, 5\], got \[1, 1, 5, 5\]"),
    "keep of three heads": ({"keep": np.ones((2, 3, 5, 5))}, r"\[2, 1, 5, 5\], got \[2, 3, 5, 5\]"),
    "keep without heads": ({"keep": ONES[:, 0]}, r"keep must have shape .* got \[2, 5, 5\]"),
    "keep in a list": ({"keep": [[1, 2]]}, r"keep must have shape .* got \[1, 2\]"),
    "a ragged list": ({"keep": [[1], [2, 3]]}, "keep must be an array of numbers, got list"),
    "words": ({"keep": "all"}, "keep must"),
    "keep below 0": ({"keep": -ONES}, "keep must hold finite numbers, none below 0"),
    "keep not finite": ({"keep": np.nan * ONES}, "keep must hold finite numbers"),
    "complex": ({"keep": 1j * ONES}, "keep must hold real numbers"),
    "renormalize None": ({"renormalize": None}, "renormalize must be an array of numbers, got NoneType"),
    "renormalize a word": ({"renormalize": "zero"}, "renormalize must hold numbers, got <U4"),
    "renormalize a number": ({"renormalize": 0}, "renormalize must hold truth values, got int64"),
    "renormalize per layer": ({"renormalize": [True, False]}, r"renormalize must have shape \[\], got \[2\]"),
    "patterns of two lists": (
        {"patterns": np.ones((2, 2, 1, 5, 5))},
        r"patterns must have shape \[2, 1 or 3,",
    ),
    "patterns not finite": ({"patterns": np.inf * np.ones((2, 3, 1, 5, 5))}, "patterns must hold finite"),
    "where alone": ({"patterns_at": MASKS}, "patterns and patterns_at must be given together"),
    "numbers as a mask": ({"patterns": ONES[:, None], "patterns_at": 1 * MASKS}, "must hold truth values"),
    "residuals alone": ({"residuals": RESIDUALS}, "residuals and residuals_at must be given together"),
    "residuals at alone": ({"residuals_at": AT}, "residuals and residuals_at must be given together"),
    "residuals not finite": (
        {"residuals": np.nan * RESIDUALS, "residuals_at": AT},
        "residuals must hold finite numbers",
    ),
    "an array of words": ({"keep": np.array(["a"])}, "keep must hold numbers"),
    "a layer too few": ({"residuals": RESIDUALS[:2], "residuals_at": AT}, r"shape \[3, 1 or 3, 5, 8\]"),
    "places too few": (
        {"residuals": RESIDUALS, "residuals_at": AT[:2]},
        r"residuals_at must have shape \[3, 5",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused(case):
    given, said = MISFITS[case]
    with pytest.raises(UserError, match=said) as error:
        gentle_model(PLAIN)(LISTS, Interventions(**given))
    assert "\n" not in str(error.value)


def test_shapes_are_checked_while_tracing_too():
    model = gentle_model(PLAIN)
    run = jax.jit(lambda lists, given: model(lists, given))
    for given, said in (MISFITS["keep of one layer"], MISFITS["a layer too few"]):
        with pytest.raises(UserError, match=said):
            run(jnp.asarray(LISTS), Interventions(**jax.tree.map(jnp.asarray, given)))
    with pytest.raises(UserError, match=r"lists must have shape \[B, 2\], got \[3, 1\]"):
        run(jnp.asarray(LISTS[:, :1]), None)
    with pytest.raises(UserError, match="lists must hold integers, got float32"):
        run(jnp.asarray(LISTS, jnp.float32), None)
    with pytest.raises(UserError, match="must be given as Interventions, as cut"):
        run(jnp.asarray(LISTS), jnp.asarray(ONES))
    with pytest.raises(UserError, match=r"lists must have shape \[B, 2\]"):
        jax.jit(lambda lists: scales.logits(model, lists))(jnp.asarray(LISTS[:, :1]))


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ([[0, 5]], "digits must lie in 0 … 4, got 0 … 5"),  # MASK
        ([[0, 500]], "digits must lie in 0 … 4"),
        ([[-1, 2]], "digits must lie in 0 … 4"),
        ([[3.7, 1]], "lists must hold integers, got float64"),
        ([3, 1], r"lists must have shape \[B, 2\], got \[2\]"),
        ([[3, 1], [2]], "rows of different lengths"),
        (None, "lists must have shape"),
    ],
)
def test_lists_that_do_not_fit(lists, said):
    model = gentle_model(PLAIN)
    for run in (model, functools.partial(scales.logits, model), functools.partial(scales.loss, model)):
        with pytest.raises(UserError, match=said):
            run(lists)


def test_lists_may_be_python_lists():
    model = gentle_model(PLAIN)
    np.testing.assert_array_equal(model([[3, 1]]), model(np.array([[3, 1]], np.int64)))


def test_edges_have_names():
    graph = Graph(2, 2)
    assert graph.check([graph.label(edge) for edge in graph.edges]) == graph.edges
    assert graph.check(["L1 o2<-o1", (1, 4, 2), np.array([0, 2, 0])]) == ((1, 4, 3), (1, 4, 2), (0, 2, 0))
    for name in ("L1 o2<-o1", "L1\u00a0o2←o1"):  # the second as reports print it
        np.testing.assert_array_equal(cut(PLAIN, [name]).keep, cut(PLAIN, [(1, 4, 3)]).keep)


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ([(0, 4, 3)], r"edge \(0, 4, 3\) does not exist"),
        ([(1, 2, 3)], "does not exist"),
        ([(2, 2, 0)], "layer 2 has none"),
        ([(-1, 4, 3)], "does not exist"),
        ([(1.9, 4, 3)], r"three whole numbers \(layer, query, key\) or a name, got \(1.9, 4, 3\)"),
        ([(1, 4)], "three whole numbers"),
        ((1, 4, 3), "three whole numbers .* got 1$"),
        (["L1 o2<-o3"], "edge 'L1 o2<-o3' does not exist: there are L0 d1<-d1, "),
        ("L1 o2<-o1", "must be given as a list"),
        (None, "must be given as a list"),
    ],
)
def test_edges_that_do_not_exist_cannot_be_cut(edges, said):
    with pytest.raises(UserError, match=said):
        cut(PLAIN, edges)


def test_heads():
    config = VARIANTS["two heads"]
    for head in (-1, 2):
        with pytest.raises(UserError, match=f"head {head} does not exist: the model has heads 0 … 1"):
            cut(config, [(0, 2, 0)], head=head)
    for head in (0.5, True):
        with pytest.raises(UserError, match=f"head must be a whole number, got {head}"):
            cut(config, [(0, 2, 0)], head=head)
    keep = keep_weights(config, [(0, 2, 0), (1, 4, 3)], head=1)
    assert np.argwhere(keep == 0).tolist() == [[0, 1, 2, 0], [1, 1, 4, 3]]


@pytest.mark.parametrize("position", ["SEP", 2])
def test_patching_sep_tells_the_outputs_of_other_lists(position):
    """After layer 0 all that the outputs of two layers learn of the digits is in SEP."""
    model, donors = gentle_model(PLAIN), LISTS[::-1]
    np.testing.assert_allclose(
        model(LISTS, patch(model, donors, 1, position)), model(donors), rtol=1e-5, atol=1e-5
    )
    of_one = model(LISTS, patch(model, donors[:1], 1, position))
    np.testing.assert_allclose(of_one, model(donors[[0, 0, 0]]), rtol=1e-5, atol=1e-5)


def test_a_patch_changes_what_depends_on_it_and_nothing_else():
    model = gentle_model(PLAIN)
    donors = (LISTS + 1) % 5
    intact, final = model(LISTS), model(LISTS, patch(model, donors, 2, "o1"))
    np.testing.assert_allclose(final[:, 1], intact[:, 1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(final[:, 0], model(donors)[:, 0], rtol=1e-5, atol=1e-5)
    too_late = model(LISTS, patch(model, donors, 1, "d1"))  # SEP has read by then
    np.testing.assert_allclose(too_late, intact, rtol=1e-5, atol=1e-5)
    assert np.abs(model(LISTS, patch(model, donors, 0, "d1")) - intact).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((LISTS, 3, "SEP"), "layer 3 does not exist: the model has layers 0 … 2"),
        ((LISTS, "SEP", 1), "layer must be a whole number, got 'SEP'"),
        ((LISTS, 1, 5), "position 5 does not exist: there are d1, d2, SEP, o1, o2, or 0 … 4"),
        ((LISTS, 1, "sep"), "position 'sep' does not exist"),
        ((LISTS + 1, 1, "SEP"), "digits must lie in 0 … 4"),
        ((LISTS[:2], 1, "SEP"), r"residuals must have shape \[3, 1 or 3, 5, 8\], got \[3, 2, 5, 8\]"),
    ],
)
def test_patches_that_do_not_exist(arguments, said):
    model = gentle_model(PLAIN)
    with pytest.raises(UserError, match=said):
        model(LISTS, patch(model, *arguments))


def _programs():
    """What is compiled for a plain model and for one with everything: forward, loss, gradient, validation."""
    from orderscale_jax.config import Setup, TrainConfig
    from orderscale_jax.task import TaskConfig
    from orderscale_jax.training.hyper import hyper_of

    for name in ("plain", "everything"):
        config = VARIANTS[name]
        graphdef, params = nnx.split(random_model(config), nnx.Param)
        setup = Setup(config, TaskConfig(n_digits=5), TrainConfig())
        yield f"{name}: forward", lambda p, lists, g=graphdef: nnx.merge(g, p)(lists, trace=True), params
        hyper = hyper_of(setup.train)

        def loss(params, lists, setup=setup, hyper=hyper):
            return step.loss(setup, hyper, params, lists, 0)

        yield f"{name}: gradient", jax.grad(loss), params
        yield f"{name}: validation", functools.partial(step.evaluate, setup), params


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_every_product_is_real_float32_on_every_device(platform):
    """Lowered for the device, though there is none: no product may leave its precision to it."""
    for name, program, params in _programs():
        lowered = jax.jit(program).trace(params, jnp.asarray(LISTS)).lower(lowering_platforms=(platform,))
        products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
        assert products, name
        wrong = [line.strip() for line in products if "precision = [HIGHEST, HIGHEST]" not in line]
        assert not wrong, f"{name}: {wrong[0]}"


def test_the_model_and_its_configuration_are_not_mixed_up():
    model = gentle_model(PLAIN)
    with pytest.raises(UserError, match=r"edges are cut by model\.config and not by a ListTransformer"):
        cut(model, ["L1 o2<-o1"])
    with pytest.raises(UserError, match="needs the model and not its configuration"):
        patch(PLAIN, LISTS, 1, "SEP")


def test_no_lists_have_no_logits():
    model, none = gentle_model(PLAIN), np.zeros((0, 2), int)
    assert model(none).shape == scales.logits(model, none).shape == (0, 2, 7)


def test_the_scale_form_checks_its_edges():
    model = gentle_model(PLAIN)
    by_name = scales.Scales(model, LISTS, {"L1 o2<-o1": 0.0}, False).final(4)
    by_number = scales.Scales(model, LISTS, {(1, 4, 3): 0.0}, False).final(4)
    jax.tree.map(np.testing.assert_array_equal, by_name, by_number)
    np.testing.assert_array_equal(by_name[3], 0.0)  # nothing of o1
    with pytest.raises(UserError, match="does not exist"):
        scales.Scales(model, LISTS, {(7, 4, 3): 0.0})
