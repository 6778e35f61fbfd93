"""What is set for some arrays holds for them and no others; set for all of them it is the plain option."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SMALL, VARIANTS, adamw, random_model
from flax import nnx

from orderscale_jax.checkpoint import named_arrays
from orderscale_jax.config import (
    LAST_SCORES,
    Setup,
    TrainConfig,
    as_drawn,
    default_config,
)
from orderscale_jax.errors import UserError
from orderscale_jax.model import ModelConfig, array_names, init_params, matching_arrays
from orderscale_jax.overrides import overrides_text, parse_overrides
from orderscale_jax.storage import weight_digest
from orderscale_jax.task import TaskConfig
from orderscale_jax.training import step as training
from orderscale_jax.training import sweep, sweep_training
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup, result
from orderscale_jax.training.hyper import hyper_of, of_array, untrained
from orderscale_jax.training.sweep import sweep_config

PLAIN = VARIANTS["plain"]
NORMED = ModelConfig(**SMALL, n_heads=2, layer_norm=True)
LISTS = jnp.asarray(np.indices((5, 5), np.int32).reshape(2, -1).T)
LAST = "blocks.-1.attn.W_[QK]"
SCHEDULE = {"max_grad_norm": 0.5, "schedule": "cosine", "warmup_steps": 2, "max_steps": 6}


def setup_of(*overrides, model=PLAIN, **options):
    return Setup(model, TaskConfig(n_digits=5), TrainConfig(overrides=overrides, **options))


def by_name(model, params):
    return dict(zip(array_names(model), map(np.asarray, jax.tree.leaves(params)), strict=True))


_init = jax.jit(init_params, static_argnums=0)


def init(model):
    return _init(model, jax.random.key(0))


def replay(setup, n_steps=4):
    """Weights by name before and after steps on all lists."""
    before = init(setup.model)
    after, _ = training.replay(setup, before, jnp.broadcast_to(LISTS, (n_steps, *LISTS.shape)))
    return by_name(setup.model, before), by_name(setup.model, after)


@functools.partial(jax.jit, static_argnums=0)
def _walk(setup, params, gradients):
    transform = training.optimizer(setup, hyper_of(setup.train))

    def body(carry, gradient):
        updates, state = transform.update(gradient, carry[1], carry[0])
        params = optax.apply_updates(carry[0], updates)
        return (params, state), params

    return jax.lax.scan(body, (params, transform.init(params)), gradients)[1]


EACH = (  # an override of every kind that the optimiser knows, for one array each
    ("embed.W_E", "epsilon", 0.1),
    ("unembed.W_U", "beta2", 0.9),
    ("pos_embed.W_pos", "weight_decay", 0.5),
    ("blocks.0.attn.W_Q", "learning_rate", 0.03),
    ("blocks.1.attn.W_Q", "learning_rate", 0.0),
    ("blocks.0.attn.W_K", "first_step", 2),
    ("blocks.1.attn.W_K", "last_step", 3),
)


@pytest.mark.parametrize("options", [{}, SCHEDULE], ids=["plain", "clipping and schedule"])
def test_every_array_goes_its_own_way(options):
    """That of AdamW by hand, given the gradients; the norm that is clipped is that of all arrays."""
    setup = setup_of(*EACH, model=NORMED, weight_decay=0.1, learning_rate=0.01, **options)
    generator, params = np.random.default_rng(0), init(NORMED)
    gradients = jax.tree.map(lambda x: generator.normal(size=(5, *x.shape)).astype(np.float32), params)
    gradients["blocks"][1]["attn"]["W_Q"][...] = np.zeros((5, 2, 8, 4), np.float32)  # what is frozen has none
    before, after = by_name(NORMED, params), by_name(NORMED, _walk(setup, params, gradients))
    steps = by_name(NORMED, gradients)
    factors, schedule = np.ones(5), np.ones(5)
    if options:
        norms = np.sqrt(sum((g.astype(float) ** 2).reshape(5, -1).sum(1) for g in steps.values()))
        factors = np.minimum(1, 0.5 / (norms + 1e-6))
        schedule = np.array([0, 0.5, 1, 0.5 * (1 + np.cos(np.pi / 4)), 0.5])
    for name, array in before.items():
        said = {field: value for pattern, field, value in EACH if pattern == name}
        rates = said.get("learning_rate", 0.01) * schedule
        rates[: int(said.get("first_step", 0))] = 0
        rates[int(said.get("last_step", 5)) :] = 0
        config = TrainConfig(
            epsilon=said.get("epsilon", 1e-8), weight_decay=said.get("weight_decay", 0.1)
        )  # without clipping: the factors are given
        clipped = [{name: g * factor} for g, factor in zip(steps[name], factors, strict=True)]
        if name == "blocks.1.attn.W_Q":  # only decays, and by the learning rate of the others
            expected = array * np.prod(1 - 0.01 * schedule * 0.1)
        else:
            beta2 = said.get("beta2", 0.999)
            expected = adamw({name: array}, clipped, config, rates, beta2)[name]
        np.testing.assert_allclose(after[name][-1], expected, rtol=0, atol=2e-6, err_msg=name)
    for moving, still in (
        (after["blocks.0.attn.W_K"][2:], [before["blocks.0.attn.W_K"], *after["blocks.0.attn.W_K"][:2]]),
        (after["blocks.1.attn.W_K"][:3], after["blocks.1.attn.W_K"][2:]),
    ):
        assert all((array == still[0]).all() for array in still)
        assert (moving[-1] != moving[0]).any()


def test_an_override_of_all_arrays_is_the_plain_option():
    """With two heads, clipped and scheduled; a whole run of a plain model is compared below."""
    values = {"learning_rate": 0.02, "epsilon": 1e-4, "weight_decay": 0.3}
    everywhere = [(".*", field, value) for field, value in values.items()]
    _, expected = replay(setup_of(model=NORMED, **values, **SCHEDULE))
    before, found = replay(setup_of(*everywhere, model=NORMED, **SCHEDULE))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert (array != before[name]).any(), name


FROZEN = (
    (".*", "learning_rate", 0.02),  # not that by which what is frozen decays
    (LAST, "learning_rate", 0.0),
    ("blocks.1.attn.W_K", "weight_decay", 0.0),
)


def test_what_is_frozen_only_decays_and_the_rest_learns():
    before, after = replay(setup_of(*FROZEN, learning_rate=0.01, weight_decay=0.5))
    shrunk, kept = "blocks.1.attn.W_Q", "blocks.1.attn.W_K"
    np.testing.assert_array_equal(after.pop(kept), before[kept])
    np.testing.assert_allclose(after.pop(shrunk), before[shrunk] * (1 - 0.01 * 0.5) ** 4, rtol=1e-6)
    for name, array in after.items():
        share = np.mean(abs(array - before[name]) > 0.02)  # Adam moves an entry by its rate in a step
        assert share > 0.2, name


def test_what_is_frozen_has_no_moments_and_no_gradient():
    free, frozen = setup_of(), setup_of(*FROZEN)
    params = jax.eval_shape(functools.partial(init_params, PLAIN), jax.random.key(0))
    sizes = {name: leaf.size for name, leaf in zip(array_names(PLAIN), jax.tree.leaves(params), strict=True)}

    def state_of(setup):
        return jax.eval_shape(training.optimizer(setup, hyper_of(setup.train)).init, params)

    def in_moments(setup):
        return sum(leaf.size for leaf in jax.tree.leaves(state_of(setup)) if leaf.ndim)

    def products(setup):
        transform = training.optimizer(setup, hyper_of(setup.train))
        step = functools.partial(training.train_step, setup, hyper_of(setup.train), transform)
        return str(jax.make_jaxpr(step)(params, state_of(setup), LISTS, 0)).count("dot_general")

    assert in_moments(free) == 2 * sum(sizes.values())
    assert in_moments(frozen) == 2 * sum(n for name, n in sizes.items() if not untrained(frozen, name))
    assert [name for name in sizes if untrained(frozen, name)] == [
        "blocks.1.attn.W_K",
        "blocks.1.attn.W_Q",
    ]
    assert products(frozen) < products(free)


def test_all_arrays_can_be_frozen():
    before, after = replay(setup_of((".*", "learning_rate", 0.0), weight_decay=0.0))
    chex.assert_trees_all_equal(after, before)


def test_of_two_overrides_the_later_counts():
    def epsilons(*overrides):
        setup = setup_of(*overrides, epsilon=1e-6)
        hyper = hyper_of(setup.train)
        return {name: float(of_array(setup, hyper, name, "epsilon")) for name in array_names(PLAIN)}

    all_of_them, one = (".*", "epsilon", 0.5), ("embed.W_E", "epsilon", 0.25)
    other_field = ("embed.W_E", "weight_decay", 0.125)
    assert epsilons(all_of_them, one, other_field) == dict.fromkeys(array_names(PLAIN), 0.5) | {
        "embed.W_E": 0.25
    }
    assert epsilons(one, all_of_them) == dict.fromkeys(array_names(PLAIN), 0.5)
    assert epsilons(one)["embed.W_E"] == 0.25 and epsilons(one)["unembed.W_U"] == pytest.approx(1e-6)
    thawed = setup_of(("blocks.*", "learning_rate", 0.0), (LAST, "learning_rate", 0.1))
    assert untrained(thawed, "blocks.0.attn.W_Q") and not untrained(thawed, "blocks.1.attn.W_Q")


def test_the_initial_scale_is_a_factor_on_what_is_drawn():
    setup = setup_of(("embed.W_E", "initial_scale", 0.5), (LAST, "initial_scale", 0.0))
    plain, scaled = (start_runs(each, [0, 1]) for each in (setup_of(), setup))
    drawn = by_name(PLAIN, plain.params)
    for params in (scaled.params, scaled.best_params):
        for name, array in by_name(PLAIN, params).items():
            factor = {"embed.W_E": 0.5, "blocks.1.attn.W_Q": 0.0, "blocks.1.attn.W_K": 0.0}.get(name, 1.0)
            np.testing.assert_array_equal(array, factor * drawn[name], err_msg=name)


def test_noise_in_one_gradient_changes_that_array_alone():
    setup = setup_of(("embed.W_E", "gradient_noise", 3.0), epsilon=1.0, learning_rate=1.0)
    assert training.has_noise(setup) and not training.has_noise(setup_of())

    @jax.jit
    def both(params):
        hyper = hyper_of(setup.train)
        transform = training.optimizer(setup, hyper)
        step = functools.partial(training.train_step, setup, hyper, transform)
        state = transform.init(params)
        return [step(params, state, LISTS, 0, noise_key=key)[0] for key in (None, jax.random.key(1))]

    before = by_name(PLAIN, init(PLAIN))
    calm, noisy = (by_name(PLAIN, params) for params in both(init(PLAIN)))
    for name, array in calm.items():
        assert (array != before[name]).any(), name
        assert (noisy[name] != array).any() == (name == "embed.W_E"), name
    update, change = calm["embed.W_E"] - before["embed.W_E"], noisy["embed.W_E"] - calm["embed.W_E"]
    # With so large an epsilon an update is about the gradient, and decay is the same in both.
    assert 1.5 < change.std() / np.sqrt(np.mean((update + 0.01 * before["embed.W_E"]) ** 2)) < 4.5


def tiny(n_layers=2, **options):
    """A run that compiles soon."""
    config = default_config()
    config.task.n_digits, config.model.d_model, config.model.n_layers = 4, 4, n_layers
    config.train.update(batch_size=4, max_steps=20, eval_every=10, max_attempts=1, **options)
    return config


def train_alone(config):
    setup, split = make_setup(config)
    running = Ensemble(setup, split, start_runs(setup, [config.seed]))
    while not running.done:
        running.advance()
    return result(running.state(), 0)


def assert_same(found, expected):
    for field in dataclasses.fields(expected):
        ours, theirs = (getattr(each, field.name) for each in (found, expected))
        if field.name == "params":
            chex.assert_trees_all_equal(ours, theirs)
        else:
            assert ours == theirs, field.name


def test_a_run_with_an_override_of_all_arrays_is_the_plain_run():
    values = {"learning_rate": 0.02, "epsilon": 1e-4, "weight_decay": 0.3}
    everywhere = tuple((".*", field, value) for field, value in values.items())
    assert_same(train_alone(tiny(1, overrides=everywhere)), train_alone(tiny(1, **values)))


FIELDS = "train.overrides", "train.epsilon", "train.scores_value"
CELLS = (
    (((LAST, "learning_rate", 0.003), (".*", "initial_scale", 0.5)), 1e-8, 1.0),
    (((LAST, "learning_rate", 0.05), (".*", "initial_scale", 2.0)), 1e-2, 0.25),
)


def test_cells_that_differ_in_numbers_are_one_program(tmp_path):
    """And a run of the last is what it is alone, to the last bit, and not one of the first."""
    base = tiny(scores="bounded", scores_value=1.0, learning_rate=0.01)
    rows = sweep_training.train(sweep_config(base, {FIELDS: CELLS}, seeds=1), tmp_path)
    jobs = sweep.plan(sweep_config(base, {FIELDS: CELLS}, seeds=1))
    assert [len(group) for group in sweep.programs(jobs)] == [2]
    for job, row in zip(jobs, rows, strict=True):
        assert parse_overrides(row["overrides"]) == job.cell.setup.train.overrides
    job, (first, last) = jobs[-1], rows
    alone = train_alone(job.cell.config)
    for name in ("accuracy", "train_accuracy", "position_accuracy", "best_step", "steps"):
        assert last[name] == getattr(alone, name), name
    arrays = by_name(job.cell.setup.model, alone.params)
    names = named_arrays(random_model(job.cell.setup.model))
    assert last["weights_sha256"] == weight_digest({name: arrays[name] for name in names})
    assert last["weights_sha256"] != first["weights_sha256"]


def test_what_decides_the_program_is_not_a_number():
    def n_programs(*values, field="train.overrides", **options):
        jobs = sweep.plan(sweep_config(tiny(**options), {field: values}, seeds=2))
        return len(sweep.programs(jobs))

    def rates(*values):
        return [((LAST, "learning_rate", value),) for value in values]

    assert n_programs(*rates(0.1, 0.2, 0.3)) == 1
    assert n_programs(*rates(0.1, 0.0)) == 2  # what is frozen has no gradient
    assert n_programs(*[((LAST, "beta2", value),) for value in (0.9, 0.99)]) == 2
    assert n_programs(((LAST, "epsilon", 1.0),), (("embed.*", "epsilon", 1.0),), ()) == 3
    assert n_programs(0.1, 0.2, field="train.scores_value", scores="divided", scores_value=1.0) == 1
    assert n_programs("bounded", "divided", field="train.scores", scores_value=1.0) == 2
    assert n_programs(1e-8, 1e-4, field="train.epsilon") == 1


def test_array_names_are_those_of_checkpoints_in_the_order_of_the_leaves(any_model):
    config = any_model.config
    drawn = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    leaves, published = jax.tree.leaves(nnx.state(any_model, nnx.Param)), named_arrays(any_model)
    assert [leaf.shape for leaf in jax.tree.leaves(drawn)] == [leaf.shape for leaf in leaves]
    assert sorted(array_names(config)) == sorted(published)
    for name, leaf in zip(array_names(config), leaves, strict=True):
        np.testing.assert_array_equal(leaf, published[name], err_msg=name)


def test_array_names_of_more_than_ten_layers():
    model = random_model(ModelConfig(**SMALL, n_layers=12))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    for name, leaf in zip(array_names(model.config), leaves, strict=True):
        np.testing.assert_array_equal(leaf, named_arrays(model)[name], err_msg=name)


def layers(n_layers, pattern):
    return [name.split(".")[1] for name in matching_arrays(ModelConfig(**SMALL, n_layers=n_layers), pattern)]


@pytest.mark.parametrize("n_layers", [1, 2, 3, 12])
def test_layers_are_counted_from_either_end(n_layers):
    assert layers(n_layers, LAST) == [str(n_layers - 1)] * 2
    assert layers(n_layers, f"blocks.{-n_layers}.attn.W_Q") == ["0"] == layers(n_layers, "blocks.0.attn.W_Q")
    assert layers(n_layers, "blocks.*") == sorted(layers(n_layers, "blocks.*"), key=int)
    assert len(layers(n_layers, "blocks.*")) == 2 * n_layers


def test_a_pattern_is_for_whole_names():
    assert layers(12, "blocks.1.attn.W_Q") == ["1"] and layers(12, "blocks.11.attn.W_Q") == ["11"]
    assert matching_arrays(PLAIN, "embed.*") == ("embed.W_E",)
    assert matching_arrays(PLAIN, ".*W_[EU]") == ("embed.W_E", "unembed.W_U")
    assert matching_arrays(PLAIN, ".*") == array_names(PLAIN)


@pytest.mark.parametrize(
    ("pattern", "n_arrays"),
    [
        ("(?!blocks.-1).*", 5),
        (r"(?!blocks\.-1\.).*", 5),
        ("(?!blocks.1).*", 5),
        ("blocks.[^0].*", 2),
        (".*", 7),
    ],
)
def test_what_a_pattern_excludes_is_not_found_under_its_other_name(pattern, n_arrays):
    assert len(matching_arrays(ModelConfig(d_model=8, n_digits=5), pattern)) == n_arrays


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a{99999999999999999999}", "is not a regular expression"),
        ("blocks.2.attn.W_Q", r"'blocks.2.attn.W_Q' names no array of this model; there are blocks\.0"),
        ("W_E", "'W_E' names no array of this model; .*embed.W_E, pos_embed.W_pos, unembed.W_U"),
        ("blocks.[", r"'blocks\.\[' is not a regular expression: "),
        ("(", "is not a regular expression"),
    ],
)
def test_patterns_that_name_nothing(pattern, said):
    with pytest.raises(UserError, match=said):
        make_setup(tiny(overrides=(("embed.W_E", "epsilon", 1.0), (pattern, "epsilon", 1.0))))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((("embed.W_E", "epsilon"),), r"holds \(pattern, field, value\), got \('embed.W_E', 'epsilon'\)"),
        (("embed.W_E", "epsilon", 1.0), r"holds \(pattern, field, value\), got 'embed.W_E'"),
        ((("embed.W_E", "epsilon", 1.0, 2.0),), r"holds \(pattern, field, value\), got "),
        (("abc",), "got 'abc'"),
        ((3,), "got 3"),
        ("embed.W_E epsilon 1", "must be a tuple, got 'embed.W_E epsilon 1'"),
        (None, "must be a tuple, got None"),
        ((("embed.W_E", "rate", 1.0),), "one of learning_rate, weight_decay, .*; got .*'rate'"),
        ((("embed.W_E", ["epsilon"], 1.0),), "one of learning_rate, "),
        (((3, "epsilon", 1.0),), "with a word"),
        ((("embed.W_E", "epsilon", True),), "and a number; got .*True"),
        ((("embed.W_E", "epsilon", "1"),), "and a number; got .*'1'"),
        ((("embed.W_E", "epsilon", None),), "and a number; got .*None"),
        ((("embed.W_E", "epsilon", float("nan")),), "and a number; got .*nan"),
        ((("embed.W_E", "learning_rate", float("inf")),), "and a number; got .*inf"),
        ((("embed.W_E", "learning_rate", np.float32(0)),), "and a number; got "),  # JSON cannot hold it
        ((("embed.W_E", "learning_rate", 10**400),), "and a number; got "),
        ((("embed.W_E", "learning_rate", 1e39),), "and a number; got "),  # infinite as a float32
        ((("embed.W_E", "epsilon", 1e-50),), "and a number; got "),  # zero as a float32
        ((("embed.W_E", "learning_rate", -1e-3),), "gives learning_rate the value -0.001, which it cannot"),
        ((("embed.W_E", "first_step", -1),), "gives first_step the value -1"),
        ((("embed.W_E", "last_step", 5.5),), "gives last_step the value 5.5"),
        ((("embed.W_E ", "epsilon", 1.0),), "without spaces or semicolons"),
        ((("", "epsilon", 1.0),), "with a word"),
        ((("a;b", "epsilon", 1.0),), "without spaces or semicolons"),
        ((("embed.W_E", "beta2", 1.0),), "gives beta2 the value 1.0"),
        ((("embed.W_E", "epsilon", 0),), "gives epsilon the value 0"),
    ],
)
def test_malformed_overrides(overrides, said):
    with pytest.raises(UserError, match=said) as error:
        TrainConfig(overrides=overrides)
    assert "\n" not in str(error.value)


def test_overrides_come_back_from_json_as_they_were():
    as_lists = [list(override) for override in as_drawn(LAST_SCORES)]
    assert TrainConfig(overrides=as_lists) == TrainConfig(overrides=as_drawn(LAST_SCORES))
    assert TrainConfig(overrides=as_lists).overrides == as_drawn(LAST_SCORES)
    numbers = TrainConfig(overrides=[[".*", "first_step", 3]]).overrides
    assert numbers == ((".*", "first_step", 3.0),) and type(numbers[0][2]) is float
    hash(TrainConfig(overrides=as_lists))  # it names a program


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        as_drawn(LAST_SCORES),
        EACH,
        ((r"blocks\.(0|-1).attn.W_[QK]{1}", "epsilon", 1e-30), ("a|b", "learning_rate", 0.123456789)),
        ((".*", "first_step", 100_000.0), (".*", "last_step", 123_456_789.0)),
    ],
)
def test_overrides_are_text_and_back(overrides):
    assert parse_overrides(overrides_text(overrides)) == overrides
    spaced = overrides_text(overrides).replace(" ", "  ") + " ; "
    assert parse_overrides(spaced) == overrides


@pytest.mark.parametrize("text", ["nonsense", "embed.W_E epsilon", "embed.W_E epsilon 1 2", ".* epsilon big"])
def test_text_that_is_no_override(text):
    with pytest.raises(ValueError):
        parse_overrides(text)
