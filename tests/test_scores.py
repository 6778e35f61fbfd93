"""Rules for the last scores do what their names say, while they hold, in the loss and in validations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL, VARIANTS, random_model
from flax import nnx

from orderscale_jax.config import SCORES, Setup, TrainConfig, default_config
from orderscale_jax.errors import UserError
from orderscale_jax.model import ModelConfig, bind, metrics, scales
from orderscale_jax.task import TaskConfig
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup
from orderscale_jax.training.hyper import hyper_of
from orderscale_jax.training.step import loss

C = 0.7
CHANGES = {  # of scores [B, K], SEP first
    "free": lambda s: s,
    "bounded": lambda s: C * np.tanh(s / C),
    "divided": lambda s: s / C,
    "shifted": lambda s: s + C * first(s),
    "penalized": lambda s: s,
}


@functools.partial(jax.jit, static_argnums=0)
def _residuals(config, params, lists):
    return bind(config, params)(lists, trace=True)[1].residuals


def first(scores):
    """1 for SEP and 0 for the other keys of scores [B, K]."""
    return np.arange(scores.shape[1]) == 0


def residual_form(model, lists, change):
    """Logits [B, n, V] with `change` of the last layer's scores, and the mean square of what is changed."""
    layer, block = model.config.n_layers - 1, model.blocks[-1].attn
    x = np.asarray(_residuals(model.config, nnx.state(model, nnx.Param), lists)[layer])
    x = np.broadcast_to(x, (len(lists), *x.shape[1:]))
    queries, keys = x @ np.asarray(block.W_Q[0]), x @ np.asarray(block.W_K[0])
    final, squares = [], []
    for output in model.config.graph.outputs:
        read = np.flatnonzero(model.config.graph.readable(layer)[output])
        scores = np.einsum("bd,bkd->bk", queries[:, output], keys[:, read]) / np.sqrt(model.config.d_head)
        if len(read) > 1:
            squares.append(scores**2)
            scores = change(scores)
        pattern = np.asarray(jax.nn.softmax(scores))
        final.append(x[:, output] + np.einsum("bk,bkd->bd", pattern, x[:, read]))
    return np.stack(final, 1) @ np.asarray(model.unembed.W_U[...]), np.concatenate(squares, 1).mean()


def example(list_len, n_layers):
    model = random_model(ModelConfig(**SMALL, list_len=list_len, n_layers=n_layers))
    for block in model.blocks:
        block.attn.W_Q[...] = 0.1 * block.attn.W_Q[...]  # attention that is not saturated
    return model, np.random.default_rng(0).integers(0, 5, (17, list_len))


def setup_of(model, scores, until=None):
    value = {} if scores == "free" else {"scores_value": C, "scores_until": until}
    task = TaskConfig(list_len=model.config.list_len, n_digits=5)
    return Setup(model.config, task, TrainConfig(scores=scores, **value))


@pytest.mark.parametrize(("list_len", "n_layers"), [(2, 2), (3, 2)])
def test_the_loss_is_that_of_the_changed_scores_until_they_are_free(list_len, n_layers):
    model, lists = example(list_len, n_layers)
    rules = [(scores, None if scores == "free" else 5) for scores in SCORES] + [
        ("bounded", None),
        ("penalized", None),
    ]

    @jax.jit
    def losses(params, step):
        setups = [setup_of(model, *rule) for rule in rules]
        return [loss(setup, hyper_of(setup.train), params, jnp.asarray(lists), step) for setup in setups]

    params = nnx.state(model, nnx.Param)
    expected = {}
    for scores, change in CHANGES.items():
        logits, mean_square = residual_form(model, lists, change)
        penalty = C * mean_square if scores == "penalized" else 0.0
        expected[scores] = float(metrics.cross_entropy(logits, lists)) + penalty
    assert all(abs(expected[scores] - expected["free"]) > 0.01 for scores in SCORES if scores != "free")
    for step in (0, 4, 5, 6):
        for (scores, until), found in zip(rules, losses(params, step), strict=True):
            held = "free" if until is not None and step >= until else scores
            np.testing.assert_allclose(found, expected[held], rtol=1e-4, err_msg=f"{scores} {until} {step}")


def test_a_rule_of_the_scale_form_changes_the_last_scores_alone():
    model, lists = example(3, 3)
    seen = []

    def rule(scores):
        seen.append(len(scores))
        return [jnp.zeros(()) for _ in scores]

    found = jax.jit(lambda: scales.logits(model, lists, rule))()
    assert sorted(seen) == [2, 3]  # o2 and o3; o1 has one key and no choice
    expected, _ = residual_form(model, lists, np.zeros_like)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_validations_use_the_rule_while_it_holds():
    """One by which SEP alone is read, so that other outputs are right."""
    config = default_config()
    config.task.n_digits, config.model.d_model = 8, 8
    config.train.update(batch_size=10, max_steps=20, eval_every=10, max_attempts=1, learning_rate=0.05)
    config.train.update(scores="shifted", scores_value=30.0, scores_until=20)
    setup, split = make_setup(config)
    lists, n = np.concatenate([split.validation, split.train]), len(split.validation)
    running = Ensemble(setup, split, start_runs(setup, [2]))
    for held in ("shifted", "free"):
        (line,) = running.advance()
        model = bind(setup.model, jax.tree.map(lambda x: x[0], running.state().params))
        changes = {"shifted": lambda s: s + 30 * first(s), "free": lambda s: s}
        logits = {name: residual_form(model, lists, change)[0] for name, change in changes.items()}
        right = {name: (x.argmax(-1) == lists) for name, x in logits.items()}
        for part in (slice(0, n), slice(n, None)):
            assert abs(right["shifted"][part].mean() - right["free"][part].mean()) > 0.03
        loss_held = metrics.cross_entropy(logits[held][:n], lists[:n])
        np.testing.assert_allclose(line["val_loss"], loss_held, rtol=1e-4)
        assert line["val_accuracy"] == pytest.approx(right[held][:n].mean(), abs=1e-6)
        assert line["train_accuracy"] == pytest.approx(right[held][n:].mean(), abs=1e-6)


def test_rules_are_for_plain_models():
    config = default_config()
    config.train.update(scores="bounded", scores_value=1.0)
    assert make_setup(config)[0].train.scores == "bounded"
    for name in VARIANTS:
        if name not in ("plain", "three layers"):
            for option in ("n_heads", "layer_norm", "bias", "learn_wv", "learn_wo", "mlp"):
                config.model[option] = getattr(VARIANTS[name], option)
            with pytest.raises(UserError, match="is for plain models of two layers and more"):
                make_setup(config)
    for group, option in (("model", "n_layers"), ("task", "list_len")):  # nothing to choose between
        short = default_config()
        short.train.update(scores="bounded", scores_value=1.0, batch_size=16)
        short[group][option] = 1
        with pytest.raises(UserError, match="is for plain models of two layers and more"):
            make_setup(short)
    long = default_config()
    long.task.list_len, long.task.n_digits = 5, 4
    long.train.update(scores="divided", scores_value=1.0, batch_size=64)
    with pytest.raises(UserError, match="is for plain models of two layers and more"):
        make_setup(long)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": "bounded"}, "'bounded' needs a train.scores_value that is not zero or negative, got 0.0"),
        ({"scores": "divided", "scores_value": -1.0}, "'divided' needs .* zero or negative, got -1.0"),
        ({"scores": "penalized", "scores_value": -0.5}, "'penalized' needs .* zero or negative, got -0.5"),
        ({"scores": "shifted"}, "'shifted' needs a train.scores_value that is not zero, got 0.0"),
        ({"scores_value": 1.0}, "say nothing where train.scores is 'free'"),
        ({"scores_until": 10}, "say nothing where train.scores is 'free'"),
        (
            {"scores": "bounded", "scores_value": 1.0, "scores_until": 0},
            "scores_until must be at least 1 or None",
        ),
        ({"scores": "sharpened", "scores_value": 1.0}, "must be one of free, bounded, .*; got 'sharpened'"),
    ],
)
def test_rules_that_say_nothing(options, said):
    with pytest.raises(UserError, match=said):
        TrainConfig(**options)
    assert TrainConfig(scores="shifted", scores_value=-4.0).scores_value == -4.0
