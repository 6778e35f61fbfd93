"""One step is AdamW, frozen weights never move, and a run ends when its rules say so."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VARIANTS, adamw
from flax import nnx

from orderscale_jax.checkpoint import named_arrays
from orderscale_jax.config import Setup, TrainConfig
from orderscale_jax.model import ModelConfig, bind, init_params, metrics
from orderscale_jax.task import TaskConfig
from orderscale_jax.training import run as runs
from orderscale_jax.training import step as training
from orderscale_jax.training.hyper import hyper_of

MODEL = ModelConfig(d_model=8, n_digits=5)
TASK = TaskConfig(n_digits=5)
LISTS = jnp.asarray(np.indices((5, 5), np.int32).reshape(2, -1).T)


def init(config, seed=0):
    return _init(config, jax.random.key(seed))


_init = jax.jit(init_params, static_argnums=0)


def arrays_of(params):
    return {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(params)}


@jax.jit
def _gradient(params, lists):
    setup = Setup(MODEL, TASK, TrainConfig())
    return jax.grad(lambda params: training.loss(setup, hyper_of(setup.train), params, lists, 0))(params)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.5, "learning_rate": 0.01},
        {"epsilon": 0.01},
        {"max_grad_norm": 0.01},
        {"schedule": "cosine", "warmup_steps": 2, "max_steps": 6},
    ],
    ids=["default", "decay", "epsilon", "clipping", "schedule"],
)
def test_steps_are_adamw(options):
    setup = Setup(MODEL, TASK, TrainConfig(**options))
    config = setup.train
    rates = np.full(4, config.learning_rate)
    if config.schedule == "cosine":  # s/warmup, then 0.5 (1 + cos(pi (s - warmup)/(max - warmup)))
        rates *= [0, 0.5, 1, 0.5 * (1 + np.cos(np.pi / 4))]
    params = init(MODEL)
    transform = training.optimizer(setup, hyper_of(config))

    @jax.jit
    def update(gradient, state, params):
        updates, state = transform.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state, ours, gradients = jax.jit(transform.init)(params), params, []
    for _ in rates:
        gradient = _gradient(ours, LISTS)
        gradients.append(arrays_of(gradient))
        ours, state = update(gradient, state, ours)
    expected = adamw(arrays_of(params), gradients, config, rates)
    for name, array in arrays_of(ours).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=2e-6, err_msg=name)
        assert (array != arrays_of(params)[name]).any(), name


def test_the_schedule():
    config = TrainConfig(schedule="cosine", warmup_steps=1000, max_steps=5000)
    steps = jnp.array([0, 250, 999, 1000, 3000, 5000])
    expected = [0, 0.25, 0.999, 1, 0.5, 0]
    np.testing.assert_allclose(training.schedule(config, steps), expected, atol=1e-6)
    at_once = TrainConfig(schedule="cosine", warmup_steps=0, max_steps=10)
    np.testing.assert_allclose(training.schedule(at_once, jnp.array([0, 5, 10])), [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "block heads", "everything"])
def test_what_is_frozen_never_moves_and_the_rest_does(name):
    config = VARIANTS[name]
    setup = Setup(config, TASK, TrainConfig(learning_rate=0.01))
    before = init(config)
    after, losses = training.replay(setup, before, jnp.broadcast_to(LISTS, (5, *LISTS.shape)))
    assert losses[-1] < losses[0]
    model = bind(config, after)
    moved = {
        name.rsplit(".", 1)[-1]
        for (name, old), new in zip(
            named_arrays(bind(config, before)).items(), named_arrays(model).values(), strict=True
        )
        if (old != new).any()
    }
    learned = {"W_V": config.learn_wv, "W_O": config.learn_wo, "b_Q": config.bias, "W_in": config.mlp}
    assert {key for key in learned if key in moved} == {key for key, is_on in learned.items() if is_on}
    assert {"W_E", "W_pos", "W_Q", "W_K", "W_U"} <= moved
    assert "b_K" not in moved  # its gradient is zero
    if name in ("plain", "block heads"):  # what is read arrives as it is
        _, trace = jax.jit(lambda: model(LISTS, trace=True))()
        n_heads, d_head = config.n_heads, config.d_head
        for layer in range(config.n_layers):
            sources = trace.residuals[layer].reshape(25, 5, n_heads, d_head)
            read = np.einsum("bhqk,bkhc->bqhc", trace.patterns[layer], sources).reshape(25, 5, -1)
            np.testing.assert_allclose(trace.residuals[layer + 1] - trace.residuals[layer], read, atol=1e-5)


_logits = jax.jit(lambda params: bind(MODEL, params)(LISTS))


@pytest.mark.parametrize("eval_batch_size", [4, 1000])
def test_validation_in_parts_counts_every_list_once(eval_batch_size):
    setup = Setup(MODEL, TASK, TrainConfig(eval_batch_size=eval_batch_size))
    params = init(MODEL)
    scores = jax.jit(training.evaluate, static_argnums=0)(setup, params, LISTS)
    logits = np.asarray(_logits(params))
    correct = logits.argmax(-1) == np.asarray(LISTS)
    np.testing.assert_allclose(scores["position_accuracy"], correct.mean(0), atol=1e-6)
    np.testing.assert_allclose(scores["accuracy"], correct.mean(), atol=1e-6)
    np.testing.assert_allclose(scores["sequence_accuracy"], correct.all(1).mean(), atol=1e-6)
    np.testing.assert_allclose(scores["loss"], metrics.cross_entropy(logits, LISTS), rtol=1e-5)


def test_an_output_is_right_if_arg_max_hits(monkeypatch):
    generator = np.random.default_rng(0)
    logits = generator.integers(0, 3, (500, 5)).astype(np.float32)  # with many ties
    logits[::7, 2] = np.nan
    targets = generator.integers(0, 5, 500)
    right = (logits.argmax(-1) == targets) & ~np.isnan(logits).any(-1)
    assert 50 < right.sum() < 400
    np.testing.assert_array_equal(metrics.is_correct(logits, targets), right)

    def rounded_otherwise(*arguments, **options):
        return jnp.nextafter(take(*arguments, **options), -jnp.inf)

    take = jnp.take_along_axis
    monkeypatch.setattr(metrics.jnp, "take_along_axis", rounded_otherwise)
    apart = generator.permuted(np.tile(np.arange(5.0, dtype=np.float32), (500, 1)), axis=1)
    np.testing.assert_array_equal(metrics.is_correct(apart, targets), apart.argmax(-1) == targets)


RULES = Setup(
    ModelConfig(d_model=2, n_digits=2, n_layers=1),
    TaskConfig(n_digits=2),
    TrainConfig(
        batch_size=2,
        eval_every=3,
        max_steps=10,  # not a multiple of 3
        target_accuracy=0.95,
        patience=2,
        patience_threshold=0.8,
        min_accuracy=0.9,
        max_attempts=2,
    ),
)


@pytest.fixture(scope="module")
def live():
    """A run that is told its accuracies: (run, accuracies) -> every run after each validation."""

    def told(setup, params, accuracy, rule, kernel):
        names = "accuracy", "loss", "sequence_accuracy"
        scores = dict.fromkeys(names, jnp.ravel(accuracy)[0].astype(float))
        return {**scores, "position_accuracy": jnp.zeros(2)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "evaluate", told)
        stretch = jax.jit(functools.partial(runs.train_until_validation, RULES))
        lists = jnp.array([[0, 1], [1, 0], [1, 1]])

        def go(run, accuracies):
            runs = []
            for accuracy in accuracies:
                run, _ = stretch(run, lists, jnp.array([accuracy]))
                runs.append(run)
            return runs

        go(start(), [0.1])  # compiled while `evaluate` is replaced
        yield go


@functools.cache
def _started():
    return jax.jit(functools.partial(runs.start, RULES))(0)


def start():
    return _started()


def test_a_run_ends_at_max_steps(live):
    runs = live(start(), [0.1, 0.3, 0.2, 0.2, 0.9])
    assert [int(run.step) for run in runs] == [3, 6, 9, 10, 10]
    assert [bool(run.done) for run in runs] == [False, False, False, True, True]
    assert float(runs[-1].best_accuracy) == pytest.approx(0.3)  # a run that is done is left alone
    assert int(runs[-1].best_step) == 6


def test_a_run_ends_at_its_target(live):
    runs = live(start(), [0.1, 0.96])
    assert [bool(run.done) for run in runs] == [False, True]
    assert int(runs[-1].step) == 6 and int(runs[-1].transition_step) == 6


def test_patience_counts_only_beyond_its_threshold(live):
    assert not live(start(), [0.5, 0.4, 0.3])[-1].done  # below the threshold it never stops
    impatient = live(start(), [0.9, 0.8, 0.85])
    assert [bool(run.done) for run in impatient] == [False, False, True]
    assert not live(start(), [0.8, 0.85, 0.9])[-1].done  # improving


def test_the_best_weights_are_kept(live):
    runs = live(start(), [0.2, 0.4, 0.3])
    for name, array in arrays_of(runs[-1].best_params).items():
        np.testing.assert_array_equal(array, arrays_of(runs[1].params)[name])
        assert (array != arrays_of(runs[-1].params)[name]).any()


def test_a_retry_starts_afresh_and_keeps_the_best(live):
    first = live(start(), [0.2, 0.8, 0.3, 0.3])[-1]
    assert first.done and runs.attempts_left(RULES, first)
    again = runs.try_again(RULES, first)
    assert not again.done and (int(again.attempt), int(again.step), int(again.total_steps)) == (1, 0, 10)
    fresh = arrays_of(again.params)
    assert all((array != fresh[name]).any() for name, array in arrays_of(start().params).items())
    second = live(again, [0.1, 0.3, 0.2, 0.1])[-1]
    assert second.done and not runs.attempts_left(RULES, second)
    assert float(second.best_accuracy) == pytest.approx(0.8) and int(second.best_step) == 6
    assert (int(second.best_attempt), int(second.best_transition_step)) == (0, 6)
    assert int(second.total_steps) == 20 and int(second.transition_step) == -1
    assert float(second.best_scores["val_loss"]) == pytest.approx(0.8)  # told by the fixture
    for name, array in arrays_of(first.best_params).items():
        np.testing.assert_array_equal(array, arrays_of(second.best_params)[name])
    better = live(again, [0.1, 0.85, 0.2, 0.1])[-1]
    assert (int(better.best_attempt), int(better.best_step), int(better.best_transition_step)) == (1, 6, 6)
    unchanged = runs.try_again(RULES, second)
    assert unchanged.done and int(unchanged.attempt) == 1


def test_a_run_that_is_good_enough_is_not_retried(live):
    done = live(start(), [0.2, 0.92, 0.3, 0.3])[-1]
    assert done.done and not runs.attempts_left(RULES, done)


def test_the_seed_decides_weights_and_batches():
    seeds = jax.jit(jax.vmap(functools.partial(runs.start, RULES)))(jnp.array([3, 3, 4]))
    for name, array in arrays_of(seeds.params).items():
        np.testing.assert_array_equal(array[0], array[1], err_msg=name)
        assert (array[0] != array[2]).any(), name


def test_a_learning_rate_of_its_own(live):
    hyper = dataclasses.replace(start().hyper, learning_rate=jnp.asarray(0.0))
    run = dataclasses.replace(start(), hyper=hyper)
    still = live(run, [0.1])[0]
    for name, array in arrays_of(still.params).items():
        np.testing.assert_array_equal(array, arrays_of(run.params)[name])
    again = runs.try_again(RULES, dataclasses.replace(still, done=jnp.asarray(True)))
    assert int(again.attempt) == 1 and float(again.hyper.learning_rate) == 0
