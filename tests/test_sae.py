"""Sparse autoencoders on SEP: training against a plain one, and every answer against what it must be."""

import dataclasses
import functools
import itertools
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_model
from flax import nnx
from hypothesis import example, given
from hypothesis import strategies as st
from test_properties import examples

from orderscale_jax import checkpoint
from orderscale_jax import sae as room
from orderscale_jax.errors import UserError
from orderscale_jax.model import Interventions, ListTransformer, ModelConfig
from orderscale_jax.sae import (
    FAMILIES,
    Encoded,
    Job,
    Readout,
    SAEConfig,
    SparseAutoencoder,
    encode_lists,
    expected_coverage,
    fidelity,
    grade,
    grading,
    grid,
    import_sae,
    in_bins,
    judge,
    load_pretrained_sae,
    load_sae,
    match_dictionary,
    peel,
    pretrained_saes,
    reversal_regions,
    save_sae,
    seed_agreement,
    source,
    steer,
    steering,
    store,
    study_sae,
    study_steering,
    sweep,
    tabulate,
    train,
    training,
    view_sep,
)
from orderscale_jax.sae.autoencoder import from_named_arrays, named_arrays
from orderscale_jax.sae.selection import threshold_of_largest
from orderscale_jax.sae.study import row
from orderscale_jax.task import TaskConfig, make_split
from orderscale_jax.training.devices import Placement
from orderscale_jax.training.interruption import Interrupted, Interruption
from orderscale_jax.training.owner import owned
from orderscale_jax.training.shares import ALL

N, D, F = 8, 8, 16
TASK = TaskConfig(n_digits=N)
BASE = SAEConfig(
    width=F,
    k=2,
    learning_rate=0.01,
    steps=9,
    batch_size=16,
    warmup_steps=3,
    threshold_start=2,
    threshold_decay=0.9,
    dead_after=32,
    bandwidth=0.5,
)
SEED = 4  # with which no gradient is so near zero that Adam makes a step of its rounding
ALONE = Placement(1, 1, "batch", False, "cpu")


def small_model(seed: int) -> ListTransformer:
    """A model whose attention is not so sharp that SEP holds one digit alone."""
    model = random_model(ModelConfig(d_model=D, n_digits=N))
    generator = np.random.default_rng(seed)
    graphdef, state = nnx.split(model)
    drawn = jax.tree.map(lambda x: jnp.asarray(0.5 * generator.normal(size=x.shape), jnp.float32), state)
    return nnx.merge(graphdef, drawn)


@pytest.fixture(scope="module")
def model():
    return small_model(1)


@pytest.fixture(scope="module")
def sources(model):
    return {"one": source(model, TASK), "other": source(small_model(2), TASK)}


@pytest.fixture(scope="module")
def view(sources):
    return sources["one"].view


def config_of(family: str, **changes) -> SAEConfig:
    return dataclasses.replace(BASE, family=family, **changes)


def random_sae(family: str, seed: int = 0, k: int = 3, d_model: int = D, width: int = F) -> SparseAutoencoder:
    """An SAE none of whose arrays is zero throughout."""
    generator = np.random.default_rng(seed)
    arrays = {
        "W_enc": generator.normal(size=(d_model, width)),
        "b_enc": 0.3 * generator.normal(size=width),
        "W_dec": generator.normal(size=(width, d_model)),
        "b_dec": 0.3 * generator.normal(size=d_model),
        "act_mean": generator.normal(size=d_model),
        "threshold": generator.uniform(0.1, 1, width) if family == "jumprelu" else np.float64(0.7),
    }
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    return from_named_arrays(SAEConfig(family=family, width=width, k=k, batch_size=16), arrays)


@pytest.fixture(scope="module", params=FAMILIES)
def any_encoded(request, view):
    return encode_lists(random_sae(request.param), view)


@pytest.fixture(scope="module")
def encoded(view):
    return encode_lists(random_sae("batch_topk"), view)


# The n largest numbers of a batch

_threshold = jax.jit(threshold_of_largest)
_thresholds = jax.jit(jax.vmap(threshold_of_largest))
kinds = st.sampled_from(["any", "few positive", "mostly negative", "ties", "far apart", "none positive"])
guesses = st.sampled_from([0.0, -1.0, float("inf"), float("nan"), 1e-30, 1.0, 1e30])
slopes = st.sampled_from([0.0, 1.0, -5.0, float("nan"), float("inf"), 1e20])


def numbers(seed: int, kind: str, exponent: int, shape=(32, 16)) -> np.ndarray:
    """Normal float32; subnormal ones are zero to XLA."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=shape)
    change = {
        "any": lambda: x,
        "few positive": lambda: np.where(generator.random(shape) < 0.03, np.abs(x), -np.abs(x)),
        "mostly negative": lambda: x - 2,
        "ties": lambda: np.round(2 * x) / 2,
        "far apart": lambda: np.sign(x) * np.exp(10 * np.abs(x)),
        "none positive": lambda: -np.abs(x),
    }
    scaled = np.clip(change[kind]() * 10.0**exponent, -3e38, 3e38)
    return np.where(np.abs(scaled) < 1.2e-38, 0, scaled).astype(np.float32)


def check_largest(values, n, found):
    """The threshold has above it what sorting would take."""
    threshold, least, _ = (np.asarray(x) for x in found)
    above = np.sort(values[values > threshold])[::-1]
    positive = np.sort(values[values > 0])[::-1]
    wanted = min(n, len(positive))
    assert threshold >= 0
    if 0 < wanted < len(positive) and positive[wanted - 1] == positive[wanted]:  # all of the equals, or none
        tie = positive[wanted - 1]
        assert len(above) in ((positive > tie).sum(), (positive >= tie).sum())
    else:
        assert len(above) == wanted
    np.testing.assert_array_equal(above, positive[: len(above)])
    assert least == (above[-1] if len(above) else np.inf)


@examples(150)
@given(st.integers(0, 1000), kinds, st.integers(-36, 36), st.integers(1, 512), guesses, slopes)
@example(0, "any", 0, 1, float("inf"), 0.0)
@example(0, "any", 0, 512, 0.0, 0.0)
@example(0, "none positive", 0, 3, 1.0, 1.0)
def test_a_threshold_has_exactly_the_n_largest_above_it(seed, kind, exponent, n, guess, slope):
    values = numbers(seed, kind, exponent)
    check_largest(values, n, _threshold(values, jnp.int32(n), jnp.float32(guess), jnp.float32(slope)))


def test_a_threshold_is_found_side_by_side_with_others():
    values = np.stack([numbers(i, "any", i - 3) for i in range(6)])
    n = np.array([1, 7, 40, 100, 300, 512])
    given = np.array([1.0, 0, -1, 1e-3, 50, 1]), np.array([1.0, 0, 512, 1e3, -1, 1])
    found = _thresholds(values, jnp.asarray(n), *(jnp.asarray(x, jnp.float32) for x in given))
    for i in range(6):
        check_largest(values[i], n[i], [x[i] for x in found])


def test_a_threshold_is_found_in_a_batch_whose_numbers_can_be_laid_side_by_side():
    values = numbers(3, "any", 0, (256, 64))
    for n, guess in ((1, 9.0), (768, 0.0), (768, 1.7), (8000, 1.0)):
        check_largest(values, n, _threshold(values, jnp.int32(n), jnp.float32(guess), jnp.float32(1)))


# Training


def plain_median(points):
    """The geometric median as published: Weiszfeld from the mean, until it moves less than 1e-5."""
    guess = points.mean(0)
    for _ in range(100):
        last = guess
        weights = 1 / np.linalg.norm(points - guess, axis=1)
        guess = (weights[:, None] * points).sum(0) / weights.sum()
        if np.linalg.norm(guess - last) < 1e-5:
            break
    return guess


def bound(config, run) -> dict[str, np.ndarray]:
    """The arrays of a run."""
    return named_arrays(training.bind(config, run.params, run.fixed))


def largest(values, n):
    """Which of the values are the n largest, by sorting."""
    flat = values.reshape(-1)
    chosen = jnp.zeros(flat.shape, bool).at[jnp.argsort(-flat)[:n]].set(True)
    return chosen.reshape(values.shape)


def plain_latents(config, p, x, warm, threshold):
    """(latents as in training, penalty, the smallest number kept), written as the papers do."""
    fixed = jax.lax.stop_gradient
    before = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    positive = jnp.maximum(before, 0)
    if config.family == "l1":
        return positive, 0.1 * warm * positive.sum() / len(x), 0.0
    if config.family == "jumprelu":
        theta = p["threshold"]
        on = fixed((before > theta) * 1.0)
        kernel = fixed((jnp.abs((before - theta) / config.bandwidth) < 0.5) / config.bandwidth)
        moved = theta - fixed(theta)  # zero, with the derivative of theta
        l0 = (on - kernel * moved).sum() / len(x)
        return on * before - fixed(theta) * kernel * moved, warm * (l0 / config.k - 1) ** 2, 0.0
    if config.family == "topk":
        chosen = jax.vmap(lambda row: largest(row, config.k))(positive) & (positive > 0)
    else:
        chosen = largest(positive, config.k * len(x)) & (positive > 0)
    least = jnp.where(chosen, positive, jnp.inf).min()
    if config.family == "binary":
        soft = 1 / (1 + jnp.exp(1 - before / threshold))
        return fixed(chosen - soft) + soft, 0.0, least
    return jnp.where(chosen, positive, 0), 0.0, least


def plain_loss(config, p, x, unfired, step, threshold):
    warm = jnp.minimum(step / (2 * config.warmup_steps), 1)
    latents, penalty, least = plain_latents(config, p, x, warm, threshold)
    W, b = p["W_dec"], p["b_dec"]
    ends = [1, 3, 7, F] if config.family == "matryoshka" else [F]  # 1/32, 1/16, 1/8, 1/4 of 16, added up
    errors = [((latents[:, :end] @ W[:end] + b - x) ** 2).sum(1).mean() for end in ends]
    unfired = jnp.where((latents > 1e-6).any(0), 0, unfired + len(x))
    value, dead = sum(errors) / len(errors) + penalty, unfired >= config.dead_after
    if config.family not in ("l1", "jumprelu"):
        left = jax.lax.stop_gradient(x - latents @ W - b)
        positive = jnp.maximum((x - b) @ p["W_enc"] + p["b_enc"], 0) * dead
        ranks = jnp.argsort(jnp.argsort(-positive, axis=1), axis=1)
        rebuilt = (positive * (ranks < jnp.minimum(D // 2, dead.sum()))) @ W
        rest = ((left - rebuilt) ** 2).sum(1).mean() / ((left - left.mean(0)) ** 2).sum(1).mean()
        value = value + jnp.where(dead.any(), config.aux * rest, 0)
    return value, (errors[-1], unfired, least, dead.sum())


@functools.partial(jax.jit, static_argnums=0)
def _step(config, run, sep):
    """One step on the lists of the training set [M, D] that are its own."""
    drawn = training.places(config, run.seed, run.step[None], len(sep))[0]
    return training.step(config, run, (sep - sep.mean(0))[drawn])


_plain = jax.jit(jax.value_and_grad(plain_loss, argnums=1, has_aux=True), static_argnums=0)


class PlainTraining:
    """The published training on dense arrays, with Adam written out in float64."""

    def __init__(self, config, arrays):
        self.config, self.step = config, 0
        names = ["W_enc", "b_enc", "W_dec", "b_dec"] + ["threshold"] * (config.family == "jumprelu")
        self.p = {name: arrays[name].astype(float) for name in names}
        self.m, self.v = ({name: np.zeros_like(x) for name, x in self.p.items()} for _ in range(2))
        self.unfired, self.threshold, self.n_dead, self.loss = np.zeros(F, np.int32), -1.0, [], None

    def update(self, x, searched):
        config, t, is_unit = self.config, self.step + 1, self.config.family != "binary"
        p = {name: jnp.asarray(x, jnp.float32) for name, x in self.p.items()}
        (_, seen), g = _plain(config, p, x, self.unfired, jnp.int32(self.step), searched)
        g = {name: np.asarray(x, float) for name, x in g.items()}
        if is_unit:
            W = self.p["W_dec"]
            g["W_dec"] -= (g["W_dec"] * W).sum(1, keepdims=True) * W
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        rate = config.learning_rate * min(self.step / config.warmup_steps, 1)
        beta = 0.0 if config.family == "jumprelu" else 0.9
        for name, x in g.items():
            x = x * min(1.0, config.max_grad_norm / (norm + 1e-6))
            self.m[name] = beta * self.m[name] + (1 - beta) * x
            self.v[name] = 0.999 * self.v[name] + 0.001 * x**2
            m, v = self.m[name] / (1 - beta**t), self.v[name] / (1 - 0.999**t)
            self.p[name] = self.p[name] - rate * m / (np.sqrt(v) + 1e-8)
        if is_unit:
            self.p["W_dec"] /= np.linalg.norm(self.p["W_dec"], axis=1, keepdims=True)
        self.loss, self.unfired, least, n_dead = (np.asarray(x) for x in seen)
        if self.step > config.threshold_start and config.family in ("batch_topk", "matryoshka", "binary"):
            rest = config.threshold_decay * self.threshold + (1 - config.threshold_decay) * least
            self.threshold = least if self.threshold < 0 else rest
        self.n_dead.append(int(n_dead))
        self.step += 1


@pytest.fixture(scope="module")
def inputs(sources):
    """SEP in the training lists of both models, [S, M, D]."""
    return jnp.asarray(np.stack([x.view.sep[~x.view.is_validation] for x in sources.values()]), jnp.float32)


def begun(jobs, sources):
    """(runs before their first step, inputs)."""
    return sweep.begin(jobs, len(jobs), sources)


def batches(config, seed, inputs, n_steps):
    """The batches [n_steps, B, D] of a run on the first source."""
    sep = np.asarray(inputs[0])
    return (sep - sep.mean(0))[np.asarray(training.places(config, seed, jnp.arange(n_steps), len(sep)))]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_goes_as_a_plain_one(family, sources, inputs):
    config = config_of(family)
    run = jax.tree.map(lambda x: x[0], begun([Job(config, SEED, "one")], sources)[0])
    start = bound(config, run)
    xs = batches(config, SEED, inputs, config.steps)
    rows = np.linalg.norm(start["W_dec"], axis=1)
    np.testing.assert_allclose(start["b_dec"], plain_median(xs[0].astype(float)), atol=3e-5)
    unit = start["W_dec"] / rows[:, None]
    np.testing.assert_allclose(start["W_enc"], unit.T, atol=1e-6)
    if family == "binary":  # k rows at right angles are as long as what they stand for
        size = np.sqrt(((xs[0] - start["b_dec"]) ** 2).sum(1).mean() / config.k)
        np.testing.assert_allclose(rows, size, rtol=1e-5)
    else:
        np.testing.assert_allclose(rows, 1, rtol=1e-6)
    assert not start["b_enc"].any() and (start["threshold"] == (0.001 if family == "jumprelu" else -1)).all()
    np.testing.assert_allclose(start["act_mean"], np.asarray(inputs[0]).mean(0), atol=1e-6)

    plain = PlainTraining(config, start)
    for x in xs:
        run = _step(config, run, inputs[0])
        plain.update(x, run.search[0])
        np.testing.assert_allclose(run.loss, plain.loss, rtol=1e-5)
        np.testing.assert_array_equal(run.unfired >= config.dead_after, plain.unfired >= config.dead_after)
        if family in ("batch_topk", "matryoshka", "binary"):
            np.testing.assert_allclose(run.fixed.threshold[...], plain.threshold, rtol=1e-5)
    found = bound(config, run)
    for name, wanted in plain.p.items():
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(wanted - start[name]).max() > 1e-3, name  # all of them are trained
    if family not in ("l1", "jumprelu"):
        assert max(plain.n_dead) > 1  # so that the auxiliary loss took part


@pytest.mark.parametrize("width", [7, 256, 2**15 + 1])  # the last: more than 16 bits can count
def test_the_largest_of_rows_are_found_in_sixteen_bits(width):
    generator = np.random.default_rng(0)
    values = generator.uniform(0.6, 0.7, (9, width)).astype(np.float32)
    values[:, :5] = 1, 0.9, 0.8999, 0.8, 0.7999
    values[0, 2:] = 0  # fewer are positive than asked for
    values[1] = 0
    values = generator.permuted(values, axis=1)
    for n in (1, 2, 3, 4, 5):
        taken = np.asarray(training._largest_of_rows(jnp.asarray(values), jnp.int32(n)))
        wanted = (values >= np.sort(values)[:, [-n]]) & (values > 0)
        np.testing.assert_array_equal(taken, wanted)


def test_dead_latents_reconstruct_what_is_left_with_half_as_many_as_sep_is_wide(sources, inputs):
    """Four latents are the largest in nearly every list, so that most others are dead."""
    config = config_of("batch_topk", aux=1.0)
    run = jax.tree.map(lambda x: x[0], begun([Job(config, SEED, "one")], sources)[0])
    run.params.W_enc.set_value(run.params.W_enc[...].at[:, :4].multiply(4))
    run = dataclasses.replace(run, unfired=jnp.full(F, config.dead_after, jnp.int32))
    x = batches(config, SEED, inputs, 1)[0]
    p = {name: getattr(run.params, name)[...] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    (wanted, (*_, n_dead)), gradients = _plain(config, p, x, run.unfired, 0, 0.0)
    before = (x - np.asarray(p["b_dec"])) @ np.asarray(p["W_enc"])
    assert n_dead >= 8 and (before[:, 4:] > 0).sum(1).max() > D // 2
    found, _, ours = jax.jit(training.differentiate, static_argnums=0)(config, run, x)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    for name, wanted in gradients.items():
        size = np.abs(wanted).max()
        np.testing.assert_allclose(getattr(ours, name)[...], wanted, rtol=0, atol=1e-5 * size, err_msg=name)


def test_without_a_warm_up_the_first_step_moves(sources, inputs):
    config = config_of("l1", warmup_steps=0)
    run = jax.tree.map(lambda x: x[0], begun([Job(config, 0, "one")], sources)[0])
    before = bound(config, run)
    after = bound(config, _step(config, run, inputs[0]))
    moved = np.abs(after["b_enc"] - before["b_enc"])
    np.testing.assert_allclose(moved[moved > 0], config.learning_rate, rtol=1e-3)  # Adam's first step
    assert (moved > 0).any()


def test_training_goes_as_in_the_published_library(sources, inputs):
    library = pytest.importorskip("dictionary_learning.trainers.batch_top_k")
    torch = pytest.importorskip("torch")
    config = config_of("batch_topk", steps=30)
    run = jax.tree.map(lambda x: x[0], begun([Job(config, SEED, "one")], sources)[0])
    trainer = library.BatchTopKTrainer(
        steps=10**6,
        activation_dim=D,
        dict_size=F,
        k=config.k,
        layer=0,
        lm_name="none",
        lr=config.learning_rate,
        warmup_steps=config.warmup_steps,
        threshold_beta=config.threshold_decay,
        threshold_start_step=config.threshold_start,
        device="cpu",
    )
    trainer.dead_feature_threshold = config.dead_after
    start = bound(config, run)
    trainer.ae.decoder.weight.data = torch.tensor(start["W_dec"].T.copy())
    trainer.ae.encoder.weight.data = torch.tensor(start["W_enc"].T.copy())
    for i, x in enumerate(batches(config, SEED, inputs, config.steps)):
        trainer.update(i, torch.tensor(x))
        run = _step(config, run, inputs[0])
    theirs = {"W_dec": trainer.ae.decoder.weight.T, "W_enc": trainer.ae.encoder.weight.T}
    theirs |= {"b_enc": trainer.ae.encoder.bias, "b_dec": trainer.ae.b_dec, "threshold": trainer.ae.threshold}
    found = bound(config, run)
    for name, wanted in theirs.items():
        np.testing.assert_allclose(found[name], wanted.detach().numpy(), rtol=0, atol=1e-5, err_msg=name)


def test_a_batch_holds_training_lists_once_each(view, inputs):
    sep, mean = np.asarray(inputs[0]), np.asarray(inputs[0]).mean(0)
    drawn = batches(BASE, 5, inputs, 6)
    distances = np.abs(drawn[:, :, None] + mean - sep).max(-1)
    assert distances.min(-1).max() < 1e-5  # each is the SEP of a training list
    chosen = distances.argmin(-1)
    assert all(len(set(row)) == BASE.batch_size for row in chosen.tolist())
    assert len({tuple(row) for row in chosen.tolist()}) == 6
    assert not np.array_equal(drawn, batches(BASE, 6, inputs, 6))


def test_a_geometric_median_has_the_least_sum_of_distances():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(40, 5)) ** 3
    found = np.asarray(training.geometric_median(jnp.asarray(points, jnp.float32)))

    def total(at):
        return np.linalg.norm(points - at, axis=1).sum()

    for direction in generator.normal(size=(50, 5)):
        assert total(found) < total(found + 0.01 * direction)


@pytest.fixture(scope="module")
def together(sources):
    """Runs of one program that differ in all that may differ: (jobs, runs after 5 steps)."""
    jobs = [
        Job(config_of("batch_topk", k=k, learning_rate=rate), seed, name)
        for k, rate, seed, name in [
            (2, 0.01, 0, "one"),
            (3, 0.01, 0, "one"),
            (2, 0.02, 0, "one"),
            (2, 0.01, 1, "one"),
            (2, 0.01, 0, "other"),
        ]
    ]
    runs, inputs = begun(jobs, sources)
    assert len(sweep.programs(jobs)) == 1
    advance = training.CompiledSAETraining(sweep._shape(BASE), 5, dataclasses.replace(ALONE, n_runs=5))
    return jobs, advance.fetch(advance(advance.load(runs), inputs))


def test_a_run_is_the_same_alone_as_among_others(together, sources):
    jobs, runs = together
    for i, job in enumerate(jobs):
        alone, inputs = begun([job], {job.source: sources[job.source]})  # with its own numbers written in
        advance = sweep._compiled(job.config, 5, ALONE)
        alone = advance.fetch(advance(advance.load(alone), inputs))
        assert_same(bound(job.config, alone_of(alone, 0)), bound(job.config, alone_of(runs, i)))
    by_step, inputs = begun(jobs[3:4], sources)
    by_step = alone_of(by_step, 0)
    for _ in range(5):
        by_step = _step(BASE, by_step, inputs[0])
    for name, x in bound(BASE, by_step).items():
        np.testing.assert_allclose(bound(BASE, alone_of(runs, 3))[name], x, atol=1e-5, err_msg=name)


def alone_of(runs, i):
    return jax.tree.map(lambda x: x[i], runs)


def test_runs_differ_by_all_that_may_differ(together):
    _, runs = together
    found = [bound(BASE, alone_of(runs, i)) for i in range(5)]
    for a, b in itertools.combinations(found, 2):
        assert not np.array_equal(a["W_dec"], b["W_dec"])
    assert not np.array_equal(found[0]["act_mean"], found[4]["act_mean"])


def test_runs_of_topk_keep_each_its_own_k(sources):
    jobs = [Job(config_of("topk", k=k), 0, "one") for k in (2, 4)]
    runs, inputs = begun(jobs, sources)
    config = sweep._shape(jobs[0].config)
    advance = training.CompiledSAETraining(config, 5, dataclasses.replace(ALONE, n_runs=2))
    runs = advance.fetch(advance(advance.load(runs), inputs))
    for i, job in enumerate(jobs):
        alone, inputs = begun([job], sources)
        advance = training.CompiledSAETraining(job.config, 5, ALONE)
        alone = bound(job.config, alone_of(advance.fetch(advance(advance.load(alone), inputs)), 0))
        assert_same(alone, bound(job.config, alone_of(runs, i)))
    assert not np.array_equal(alone["W_enc"], bound(config, alone_of(runs, 0))["W_enc"])


# A directory of SAEs


class Stop(Interruption):
    """Wanted from the n-th time on that it is asked."""

    def __init__(self, n: int):
        self.n = n

    @property
    def is_wanted(self) -> bool:
        self.n -= 1
        return self.n < 0


@pytest.fixture
def short(monkeypatch):
    """Stretches of 3 steps, as many as there are to a saved state."""
    monkeypatch.setattr(sweep, "STRETCH", 3)


JOBS = [Job(config_of("batch_topk", k=k), seed, "one") for k, seed in ((2, 0), (3, 0), (2, 1))]


ON_TWO_DEVICES = """
import pickle, sys
import jax
from orderscale_jax.sae import sweep
assert jax.local_device_count() == 2
with open(sys.argv[1], "rb") as file:
    jobs, sources = pickle.load(file)
sweep.STRETCH = 3
sweep.train(jobs, sources, sys.argv[2])
"""


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory, sources):
    """A process that trains the same three on two devices meanwhile: (process, path)."""
    place = tmp_path_factory.mktemp("devices")
    (place / "given").write_bytes(pickle.dumps((JOBS, sources)))
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TWO_DEVICES, place / "given", place / "work"],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process, place / "work"
        process.kill()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sources, two_devices):
    """A directory of three SAEs, trained without an interruption: (path, places)."""
    path = tmp_path_factory.mktemp("saes") / "work"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "STRETCH", 3)
        steps = []
        places = train(JOBS, sources, path, on_steps=lambda n, loss: steps.append(n))
    assert sum(steps) == 27 and list(places) == [job.name for job in JOBS]
    return path, places


def arrays_of(place) -> dict[str, np.ndarray]:
    return named_arrays(load_sae(place)[0])


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_directory_holds_what_was_trained(trained, sources):
    path, places = trained
    assert sorted(entry.name for entry in path.iterdir()) == ["plan.json", "saes"]
    for job in JOBS:
        sae, about = load_sae(places[job.name])
        assert sae.config == job.config
        assert (about["seed"], about["model"]) == (job.seed, "one")
        assert about["model_sha256"] == sources["one"].digest and np.isfinite(about["final_loss"])
    alone, inputs = begun([JOBS[1]], {"one": sources["one"]})
    advance = training.CompiledSAETraining(JOBS[1].config, 9, ALONE)
    alone = advance.fetch(advance(advance.load(alone), inputs))
    assert_same(bound(JOBS[1].config, alone_of(alone, 0)), arrays_of(places[JOBS[1].name]))


@pytest.mark.parametrize("asked", [0, 1, 4])
def test_an_interrupted_training_goes_on_to_the_same_bits(asked, trained, sources, tmp_path, short):
    path = tmp_path / "work"
    with pytest.raises(Interrupted, match=r"stopped after step (3|6), which is saved in .*states"):
        train(JOBS, sources, path, interruption=Stop(asked))
    ready = [entry.name for entry in (path / "saes").iterdir()] if (path / "saes").exists() else []
    assert ready == [job.name for job in JOBS[: asked // 3]]  # none that is not whole
    steps = []
    places = train(JOBS, sources, path, on_steps=lambda n, loss: steps.append(n))
    assert sum(steps) == 27 and steps[0] in (3, 6, 9)
    assert not (path / "states").exists()
    for name, place in places.items():
        assert_same(arrays_of(place), arrays_of(trained[1][name]))


def test_what_is_ready_is_not_trained_again(trained, sources, monkeypatch):
    path, places = trained
    monkeypatch.setattr(sweep._Course, "train", lambda self: pytest.fail("trained again"))
    before = {name: place.stat().st_mtime_ns for name, place in places.items()}
    steps = []
    assert train(JOBS, sources, path, on_steps=lambda n, loss: steps.append(n)) == places
    assert steps == [9, 9, 9]
    assert before == {name: place.stat().st_mtime_ns for name, place in places.items()}


def test_a_directory_keeps_to_what_it_was_begun_with(trained, sources, tmp_path):
    path, _ = trained
    longer = dataclasses.replace(JOBS[0], config=config_of("batch_topk", steps=10))
    with pytest.raises(
        UserError, match="was begun with steps=9 and not 10: give the same options or another"
    ):
        train([longer], sources, path)
    with pytest.raises(UserError, match="holds SAEs of another model 'one': give another directory"):
        train(JOBS, {"one": sources["other"]}, path)
    (tmp_path / "letter.txt").write_text("something else")
    with pytest.raises(UserError, match="holds something else than SAEs: give another directory"):
        train(JOBS, sources, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]
    with owned(path, ALL), pytest.raises(UserError, match="is in use by process"):
        train(JOBS, sources, path)
    (path / "plan.json").write_text((path / "plan.json").read_text().replace('"k": 2', '"k": 4'))
    with pytest.raises(UserError, match=r"plan\.json"):
        train(JOBS, sources, path)


def test_a_directory_takes_more_models_and_plans(sources, tmp_path, short):
    config = config_of("l1", steps=3)
    first = train([Job(config, 0, "one")], {"one": sources["one"]}, tmp_path / "work")
    more = [Job(config, 0, "other"), Job(config_of("l1", steps=3, penalty=0.3), 0, "one")]
    second = train(more, sources, tmp_path / "work")
    assert not set(first) & set(second)
    found = [arrays_of(place) for place in (*first.values(), *second.values())]
    for a, b in itertools.combinations(found, 2):
        assert not np.array_equal(a["W_enc"], b["W_enc"])


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_training_that_diverges_says_so(rate, sources, tmp_path, short):
    job = Job(config_of("batch_topk", learning_rate=rate), 0, "one")
    with pytest.raises(UserError) as error:
        train([job], sources, tmp_path / "work")
    said = str(error.value)
    assert said.startswith(f"{job.name} diverged before step ") and "\n" not in said
    assert said.endswith("; give a smaller learning rate")
    assert not (tmp_path / "work" / "saes").exists() and not (tmp_path / "work" / "states").exists()


def test_others_do_not_cost_an_interrupted_training_its_state(sources, trained, tmp_path, short):
    path = tmp_path / "work"
    with pytest.raises(Interrupted, match="stopped after step 6"):
        train(JOBS[:1], sources, path, interruption=Stop(1))
    train(JOBS[1:2], sources, path, save_seconds=0)
    assert len(list((path / "states").iterdir())) == 1
    steps = []
    places = train(JOBS[:1], sources, path, on_steps=lambda n, loss: steps.append(n))
    assert steps == [6, 3] and not (path / "states").exists()
    assert_same(arrays_of(places[JOBS[0].name]), arrays_of(trained[1][JOBS[0].name]))


def test_an_interruption_at_the_end_of_an_sae_keeps_it(sources, tmp_path, short):
    with pytest.raises(Interrupted, match=f"stopped after {JOBS[0].name}, which is ready and kept"):
        train(JOBS, sources, tmp_path / "work", interruption=Stop(3))
    assert [entry.name for entry in (tmp_path / "work" / "saes").iterdir()] == [JOBS[0].name]


def test_an_sae_that_cannot_be_written_is_written_the_next_time(
    sources, tmp_path, short, monkeypatch, trained
):
    def refuses(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.storage, "_read_back", refuses)
        with pytest.raises(OSError, match="the disk is full"):
            train(JOBS[:1], sources, tmp_path / "work")
    assert not list((tmp_path / "work" / "saes").iterdir())
    places = train(JOBS[:1], sources, tmp_path / "work")
    assert_same(arrays_of(places[JOBS[0].name]), arrays_of(trained[1][JOBS[0].name]))


def test_two_devices_give_the_same_bits_as_one(trained, two_devices):
    process, path = two_devices
    _, said = process.communicate()
    assert process.returncode == 0, said
    for name, place in trained[1].items():
        assert_same(arrays_of(path / "saes" / name), arrays_of(place))


def test_a_grid_is_every_combination_and_seed():
    jobs = grid(BASE, {"family": ("topk", "l1"), "width": (16, 32)}, [0, 5], "one")
    found = [(job.config.family, job.config.width, job.seed) for job in jobs]
    assert found == list(itertools.product(("topk", "l1"), (16, 32), (0, 5)))
    assert len({job.name for job in jobs}) == 8
    assert len(sweep.programs(jobs)) == 4


def test_the_time_of_a_training_is_told_in_proportion_to_its_steps(sources, monkeypatch):
    monkeypatch.setattr(sweep, "TIMED_STEPS", 3)
    monkeypatch.setattr(sweep.time, "perf_counter", iter(range(100)).__next__)  # a second for three steps
    assert sweep.estimate(JOBS, sources) == pytest.approx(27 / 3)


# What an SAE gives


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_what_the_family_keeps(family, view):
    sae = random_sae(family)
    arrays = {name: x.astype(float) for name, x in named_arrays(sae).items()}
    before = (view.sep - arrays["act_mean"] - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"]
    positive = np.maximum(before, 0)
    ranks = np.argsort(np.argsort(-positive, axis=1), axis=1)
    wanted = {
        "batch_topk": positive * (positive > arrays["threshold"]),
        "matryoshka": positive * (positive > arrays["threshold"]),
        "jumprelu": positive * (before > arrays["threshold"]),
        "binary": (positive > arrays["threshold"]) * 1.0,
        "topk": positive * (ranks < 3),
        "l1": positive,
    }[family]
    encoded = encode_lists(sae, view)
    np.testing.assert_allclose(encoded.latents, wanted, atol=1e-12)
    rebuilt = wanted @ arrays["W_dec"] + arrays["b_dec"] + arrays["act_mean"]
    np.testing.assert_allclose(encoded.reconstruction, rebuilt, atol=1e-12)
    ours = np.asarray(sae.encode(view.sep))
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    np.testing.assert_allclose(sae.decode(ours), rebuilt, atol=1e-4)
    np.testing.assert_array_equal(sae(view.sep), sae.decode(ours))
    assert (wanted > 0).any() and (wanted == 0).any()


@pytest.mark.parametrize("family", ["batch_topk", "binary"])
def test_a_batch_threshold_that_was_never_followed_keeps_what_is_positive(family, view):
    sae = random_sae(family)
    sae.threshold.set_value(jnp.float32(-1))
    wanted = encode_lists(as_family(sae, "l1"), view).latents
    found = encode_lists(sae, view).latents
    np.testing.assert_array_equal(found, wanted > 0 if family == "binary" else wanted)


def as_family(sae, family: str) -> SparseAutoencoder:
    return from_named_arrays(dataclasses.replace(sae.config, family=family), named_arrays(sae))


def test_topk_keeps_at_most_k(view):
    latents = encode_lists(random_sae("topk"), view).latents
    assert (latents > 0).sum(1).max() == 3
    few = random_sae("topk")
    few.b_enc.set_value(few.b_enc[...] - 8)
    assert 0 < (encode_lists(few, view).latents > 0).sum(1).mean() < 2


def test_binary_latents_are_on_or_off(view):
    latents = encode_lists(random_sae("binary"), view).latents
    assert set(np.unique(latents)) == {0.0, 1.0} and latents.dtype == np.float64
    assert random_sae("binary").encode(view.sep).dtype == jnp.float32


def test_the_derivative_of_a_jump_is_that_of_a_smoothed_step():
    generator = np.random.default_rng(0)
    before, theta = generator.normal(size=(50, 4)), generator.uniform(0.1, 1, 4)
    of_latents, of_on = generator.normal(size=(2, 50, 4))
    bandwidth, h = 0.4, 1e-6

    def smoothed(at):
        step = np.clip((before - at) / bandwidth + 0.5, 0, 1)  # the mean of the step over the bandwidth
        return ((of_latents * theta + of_on) * step).sum(0)

    wanted = (smoothed(theta + h) - smoothed(theta - h)) / (2 * h)
    given = [jnp.asarray(x, jnp.float32) for x in (before, theta)]
    (latents, on), backward = jax.vjp(lambda *x: training._jump(*x, bandwidth), *given)
    by_before, by_theta = backward(tuple(jnp.asarray(x, jnp.float32) for x in (of_latents, of_on)))
    np.testing.assert_array_equal(on, before > theta)
    np.testing.assert_allclose(latents, before * (before > theta), rtol=1e-6)
    np.testing.assert_allclose(by_before, of_latents * (before > theta), rtol=1e-6)
    np.testing.assert_allclose(by_theta, wanted, rtol=1e-4)


# The model's side


def test_the_readout_is_the_models_under_a_patch_of_sep(model, view):
    generator = np.random.default_rng(0)
    sep = view.sep + generator.normal(size=view.sep.shape)
    residuals = np.zeros((3, len(sep), 5, D), np.float32)
    residuals[1, :, 2] = sep
    at = np.zeros((3, 5), bool)
    at[1, 2] = True
    logits = np.asarray(model(view.lists, Interventions(residuals=residuals, residuals_at=at)))
    ours = view.readout.logits(sep)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_array_equal(view.readout.answers(sep), ours.argmax(-1))
    assert 0.05 < view.readout.gate(sep).std()  # o2 reads now one, now the other


def test_the_view_is_what_the_model_computes(model, view):
    logits, trace = model(view.lists, trace=True)
    np.testing.assert_allclose(view.sep, trace.residuals[1, :, 2], atol=1e-5)
    np.testing.assert_allclose(view.alphas, trace.patterns[0, :, 0, 2, :2], atol=1e-6)
    np.testing.assert_allclose(view.readout.logits(view.sep), logits, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_array_equal(view.answers, np.asarray(logits).argmax(-1))
    rebuilt = (view.alphas[..., None] * (view.embeddings[view.lists] + view.positions)).sum(1)
    assert np.ptp(view.sep - rebuilt, axis=0).max() < 1e-12


def test_groups_are_those_of_the_published_split(view):
    split = make_split(TASK)
    np.testing.assert_array_equal(view.lists, list(itertools.product(range(N), repeat=2)))
    assert view.group("all").all() and not (view.group("training") & view.group("validation")).any()
    for name, lists in (("training", split.train), ("validation", split.validation)):
        assert set(map(tuple, view.lists[view.group(name)])) == set(map(tuple, lists))


def test_lists_of_one_digit_are_left_out_where_the_task_has_none(model):
    view = view_sep(model, TaskConfig(n_digits=N, duplicates="none"))
    assert len(view.lists) == N * (N - 1) and (view.lists[:, 0] != view.lists[:, 1]).all()


def test_correlations_and_special_latents(any_encoded):
    gap = any_encoded.view.alphas[:, 0] - any_encoded.view.alphas[:, 1]
    for i, r in enumerate(any_encoded.correlations):
        own = any_encoded.latents[:, i]
        assert r == pytest.approx(np.corrcoef(own, gap)[0, 1] if np.ptp(own) else 0)
    strength = np.abs(any_encoded.correlations)
    special = any_encoded.special(0.3)
    assert set(special) == set(np.flatnonzero(strength > 0.3)) and (np.diff(strength[special]) <= 0).all()


def test_fidelity_of_what_is_not_changed(view):
    """Latents that are SEP itself, and its negative."""
    both = np.concatenate([np.eye(D), -np.eye(D)])
    arrays = {
        "W_enc": both.T,
        "b_enc": np.zeros(F),
        "W_dec": both,
        "b_dec": np.zeros(D),
        "threshold": np.float64(0),
        "act_mean": view.sep[~view.is_validation].mean(0),
    }
    found = fidelity(encode_lists(from_named_arrays(SAEConfig(family="l1", width=F), arrays), view))
    for group in ("all", "training", "validation"):
        assert found.mse[group] < 1e-12 and found.explained_variance[group] == pytest.approx(1)
        assert found.patched[group] == found.intact[group]
        assert found.l0[group] == D and found.dead == 0
        assert found.loss_recovered[group] == pytest.approx(1)
        assert found.loss_recovered_of_mean[group] == pytest.approx(1)


def test_fidelity_is_counted_by_group(any_encoded):
    view, found = any_encoded.view, fidelity(any_encoded)
    rebuilt = any_encoded.reconstruction
    for group in ("all", "training", "validation"):
        at = view.group(group)
        mse = ((rebuilt - view.sep)[at] ** 2).mean()
        assert found.mse[group] == pytest.approx(mse)
        spread = ((view.sep - any_encoded.act_mean)[at] ** 2).mean()
        assert found.explained_variance[group] == pytest.approx(1 - mse / spread)
        assert found.l0[group] == pytest.approx((any_encoded.latents[at] > 0).sum() / at.sum())
        said = view.readout.logits(rebuilt)[at].argmax(-1)
        assert found.patched[group].outputs_right == pytest.approx((said == view.lists[at]).mean())

        def loss(sep, at=at):
            logits = view.readout.logits(np.broadcast_to(sep, view.sep.shape))[at]
            logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            return -np.take_along_axis(logs, view.lists[at][..., None], -1).mean()

        for name, without in (("", np.zeros(D)), ("_of_mean", view.sep[at].mean(0))):
            wanted = (loss(without) - loss(rebuilt)) / (loss(without) - loss(view.sep))
            assert getattr(found, f"loss_recovered{name}")[group] == pytest.approx(wanted)
    assert found.dead == (any_encoded.latents == 0).all(0).sum()


def test_answers_are_counted():
    lists = np.array([[0, 1], [2, 3], [4, 4], [5, 6]])
    found = judge(np.array([[0, 1], [3, 2], [4, 4], [5, 5]]), lists)
    assert dataclasses.astuple(found) == (5 / 8, 2 / 4, 1 / 3, 3 / 4)
    assert np.isnan(judge(lists[2:3], lists[2:3]).reversed)


# Steering


def random_case(seed: int):
    """(readout, lists, base, vector, low, high): most lists come out reversed at some scale."""
    g = np.random.default_rng(seed)
    width, n_tokens, n_lists = int(g.integers(3, 7)), int(g.integers(4, 9)), 24

    def size(low, high):
        return 10.0 ** g.uniform(low, high)

    W_U, key = g.normal(size=(width, n_tokens)) * size(-1, 1), g.normal(size=width) * size(-3, 4)
    vector = g.normal(size=(n_lists, width)) * size(-3, 3)
    match seed % 7:
        case 0:
            vector[::3] = 0
        case 1:  # the gate does not move
            key[1:], vector[:, 0] = 0, 0
        case 2:  # lines of two tokens are parallel
            W_U[:-1, 1], vector[:, -1] = W_U[:-1, 0], 0
        case 3:
            vector *= 1e6
        case 4:
            key[:] = 0
        case 5:
            vector *= 1e-6
    readout = Readout(
        g.normal(size=width) * size(-1, 1), g.normal(size=width), key, float(g.normal() * size(-1, 2)), W_U
    )
    base, (low, high) = g.normal(size=(n_lists, width)), ((0, 10), (-2, 2))[seed % 2]
    lists = g.integers(0, n_tokens - 2, (n_lists, 2))
    for scale in g.uniform(low, high, 6 * int(g.random() < 0.9)):  # what is said there, turned round
        said = readout.answers(base + scale * vector)
        fits = (said < n_tokens - 2).all(1) & (said[:, 0] != said[:, 1])
        lists = np.where(fits[:, None], said[:, ::-1], lists)
    return readout, lists, base, vector, low, high


def is_reversed(readout, digits, base, vector, scales):
    """bool [S], by trying."""
    said = readout.answers(base + scales[:, None] * vector)
    return (said == digits[::-1]).all(1) & (digits[0] != digits[1])


def test_where_lists_are_reversed_is_where_trying_finds_it():
    tried = Counter()
    for seed in range(112):
        readout, lists, base, vector, low, high = random_case(seed)
        found = reversal_regions(readout, lists, base, vector, low, high)
        ends = np.concatenate([found.starts, found.ends], 1)
        assert not (found.ends <= found.starts).any() and not (found.starts[:, 1:] < found.ends[:, :-1]).any()
        for i, digits in enumerate(lists):
            own = ends[i][np.isfinite(ends[i])]
            near = (own[:, None] + np.array([-1e-6, -3e-9, 3e-9, 1e-6])).ravel()
            scales = np.concatenate([np.linspace(low, high, 501), near[(near >= low) & (near <= high)]])
            wanted = is_reversed(readout, digits, base[i], vector[i], scales)
            inside = ((scales[:, None] >= found.starts[i]) & (scales[:, None] <= found.ends[i])).any(1)
            at_end = (np.abs(scales[:, None] - own) < 1e-9).any(1)
            np.testing.assert_array_equal(inside | at_end, wanted | at_end, err_msg=f"{seed} {i}")
            np.testing.assert_array_equal(inside & ~at_end, wanted & ~at_end, err_msg=f"{seed} {i}")
            assert found.exists[i] or not wanted.any()
            grid_ = np.arange(int(np.ceil(low / 0.05)), int(high / 0.05) + 1) * 0.05
            assert found.on_grid[i] == is_reversed(readout, digits, base[i], vector[i], grid_).any(), (
                seed,
                i,
            )
            tried["twice"] += np.isfinite(found.starts[i]).sum() > 1
            tried["reversed"] += found.exists[i]
            tried["missed by the grid"] += found.exists[i] and not found.on_grid[i]
            tried["equal digits"] += digits[0] == digits[1]
    assert tried["reversed"] > 400 and min(tried.values()) > 5 and len(tried) == 4, tried


def test_regions_have_a_width():
    nan = np.nan
    found = steering.Regions(
        0.0,
        10.0,
        np.array([[1, 4], [2, nan], [nan, nan]]),
        np.array([[2, 7], [3, nan], [nan, nan]]),
        np.ones(3),
    )
    np.testing.assert_array_equal(found.width, [4, 1, 0])
    np.testing.assert_array_equal(found.exists, [True, True, False])


def test_one_base_and_one_vector_serve_all_lists(view):
    base, vector = view.sep[:1], (view.positions[0] - view.positions[1])[None]
    one = reversal_regions(view.readout, view.lists, base, vector, -2, 2)
    many = reversal_regions(
        view.readout, view.lists, *(np.repeat(x, len(view.lists), 0) for x in (base, vector)), -2, 2
    )
    np.testing.assert_array_equal(one.starts, many.starts)
    assert not reversal_regions(view.readout, view.lists[:0], base, vector).exists.size


def test_lists_are_taken_in_parts(view, monkeypatch):
    vector = np.random.default_rng(0).normal(size=view.sep.shape)
    whole = reversal_regions(view.readout, view.lists, view.sep, vector, -3, 3)
    monkeypatch.setattr(steering, "CHUNK", 7)
    parts = reversal_regions(view.readout, view.lists, view.sep, vector, -3, 3)
    np.testing.assert_array_equal(whole.on_grid, parts.on_grid)
    np.testing.assert_allclose(whole.width, parts.width, rtol=1e-12)
    assert whole.exists.any()


def test_scaling_latents_is_scaling_what_they_add(any_encoded):
    view, scales = any_encoded.view, np.arange(201) * 0.05
    for latents in (0, [1, 2, 5], list(range(F))):
        found, chosen = steer(any_encoded, latents), np.atleast_1d(latents)
        for i, digits in enumerate(view.lists[::5]):
            scaled = np.repeat(any_encoded.latents[5 * i][None], len(scales), 0)
            scaled[:, chosen] *= scales[:, None]
            said = view.readout.answers(any_encoded.decode(scaled))
            wanted = (said == digits[::-1]).all(1).any() and digits[0] != digits[1]
            assert found.regions.on_grid[5 * i] == wanted


def test_every_list_has_one_reason(any_encoded):
    view = any_encoded.view
    differs = view.lists[:, 0] != view.lists[:, 1]
    for latents in (0, 3, [1, 2], list(range(F))):
        found = steer(any_encoded, latents)
        on = (any_encoded.latents[:, np.atleast_1d(latents)] > 0).any(1)
        assert set(found.reasons) <= set(steering.REASONS)
        assert sum(found.reasons.values()) == len(view.lists) == N * N
        assert found.reasons["success"] == (found.regions.on_grid & on & differs).sum()
        assert (
            found.reasons["feat_zero"] == (~on).sum() and found.reasons["d1_eq_d2"] == (on & ~differs).sum()
        )
        assert found.differs == differs.sum() and found.success == found.n_reversed / found.differs
        np.testing.assert_array_equal(found.active, on & differs)
        own = view.readout.answers(any_encoded.reconstruction)
        assert found.before == judge(own, view.lists)


def plain_reason(view, digits, base, vector, on):
    """Why no scale of the grid from 0 to 10 reverses a list, in the published order, by trying."""
    d1, d2 = digits
    scales = np.arange(201) * 0.05
    said = view.readout.answers(base + scales[:, None] * vector)
    if not on:
        return "feat_zero"
    if d1 == d2:
        return "d1_eq_d2"
    if (said == [d2, d1]).all(1).any():
        return "success"
    gaps = [
        line @ (view.readout.W_U[:, d2] - view.readout.W_U[:, d1])
        for line in (base + view.readout.first, vector)
    ]
    if abs(gaps[1]) < 1e-5:
        return "unresponsive"
    crossing = -gaps[0] / gaps[1]
    if crossing > 20:
        return "o1_extrapolated"
    fine, readout = np.linspace(0, 10, 20_001), view.readout
    gate = 1 / (1 + np.exp(-(base @ readout.key + readout.offset) - fine * (vector @ readout.key)))
    of_sep, of_o1, own = (
        x @ (readout.W_U[:, d1] - readout.W_U[:, d2]) for x in (base, readout.first, readout.second)
    )
    ahead = own + gate * (of_sep - fine * gaps[1]) + (1 - gate) * of_o1 > 0
    crosses = (fine[1:] + fine[:-1])[ahead[1:] != ahead[:-1]] / 2
    low, high = (max(0, crossing), 10) if gaps[1] > 0 else (0, min(10, crossing))
    in_window = ((scales >= low) & (scales <= high) & (said[:, 1] == d1)).any()
    if not len(crosses) and not in_window:
        return "no_o2_crossover"
    if not ((crosses >= low) & (crosses <= high)).any() and not in_window:
        return "no_o2_crossover_in_bounds"
    if not (said[:, 0] == d2).any():
        return "o1_never_predicts_d2"
    return "no_overlapping_dominance" if (said[:, 1] == d1).any() else "o2_never_predicts_d1"


def test_reasons_are_those_that_trying_gives(view):
    total = Counter()
    for seed in range(4):
        encoded = encode_lists(random_sae("batch_topk", seed), view)
        latent = int(encoded.firing.argmax())
        vector = encoded.latents[:, [latent]] * encoded.decoder[latent]
        base = encoded.reconstruction - vector
        on = encoded.latents[:, latent] > 0
        wanted = Counter(plain_reason(view, *x) for x in zip(view.lists, base, vector, on, strict=True))
        found = {name: n for name, n in steer(encoded, latent).reasons.items() if n}
        assert found == wanted
        total += wanted
    assert len(total) >= 7, total


def test_kinds_of_steering_are_what_they_say(encoded):
    view = encoded.view
    found = study_steering(encoded, [0, 1], n_draws=1)
    differs = (view.lists[:, 0] != view.lists[:, 1]).sum()

    def tried(base, vector, scales):
        pairs = zip(view.lists, base, np.broadcast_to(vector, base.shape), strict=True)
        return sum(is_reversed(view.readout, *x, scales).any() for x in pairs) / differs

    graded, positive = encoded.reconstruction, np.linspace(0, 10, 4001)
    assert found.before == pytest.approx(tried(graded, 0, np.zeros(1)))
    vector = encoded.latents[:, [0]] * encoded.decoder[0]
    close = {"abs": 1.5 / differs}  # regions that are narrower than what was tried
    assert found.alone == pytest.approx(tried(graded - vector, vector, positive), **close)
    both = encoded.latents[:, [0, 1]] @ encoded.decoder[[0, 1]]
    assert found.together == pytest.approx(tried(graded - both, both, positive), **close)
    rest = encoded.latents.copy()
    rest[:, 0] = 0
    at = rest.argmax(1)
    other = rest.max(1)[:, None] * encoded.decoder[at]
    assert found.other_latent == pytest.approx(tried(graded - other, other, positive), **close)
    order = view.positions[0] - view.positions[1]
    assert found.along_positions == pytest.approx(tried(graded, order, np.linspace(-2, 2, 4001)), **close)
    reached = np.array([is_reversed(view.readout, d, b, v, positive).any() for d, b, v in
                        zip(view.lists, graded - vector, vector, strict=True)])  # fmt: skip
    for i in range(1, F):
        for factor in (0, 0.5, 1.5, 2, 3, 5):
            moved = graded - vector + (factor - 1) * encoded.latents[:, [i]] * encoded.decoder[i]
            both_on = (encoded.latents[:, 0] > 0) & (encoded.latents[:, i] > 0)
            for j in np.flatnonzero(both_on & ~reached):
                reached[j] = is_reversed(
                    view.readout, view.lists[j], moved[j], vector[j], positive[::4]
                ).any()
    assert found.another == pytest.approx(reached.sum() / differs, abs=3.5 / differs)
    assert found.another >= found.alone and study_steering(encoded, 0, n_draws=1).together is None
    again = study_steering(encoded, [0, 1], n_draws=1, seed=1)
    assert (again.alone, again.another, again.along_positions) == (
        found.alone,
        found.another,
        found.along_positions,
    )


# The dictionary


def made(view, latents, decoder, constant=None) -> Encoded:
    """An SAE of which latents and decoder are given."""
    config = SAEConfig(width=len(decoder), k=1, batch_size=16)
    mean = view.sep.mean(0)
    return Encoded(config, view, latents, decoder, mean if constant is None else constant, mean)


def detector(view, digits) -> np.ndarray:
    """1 in the lists that hold one of the digits."""
    return np.isin(view.lists, digits).any(1) * 1.0


def test_a_detector_of_k_digits_is_peeled_into_k_symbols(view):
    chosen = [[3], [0, 7], [1, 2, 5], [0, 1, 2, 3]]
    latents = np.stack([*(detector(view, digits) for digits in chosen), np.zeros(N * N)], 1)
    symbols, leftover = peel(view, latents)
    np.testing.assert_array_equal(symbols, [1, 2, 3, 4, 0])
    np.testing.assert_array_equal(leftover, 0)
    for k, column in zip(symbols, latents.T, strict=True):
        assert column.sum() == expected_coverage(int(k), N)


def test_what_no_digit_explains_is_left_over(view):
    one = detector(view, [4])
    more = np.flatnonzero((one == 0) & (view.lists[:, 0] == 2))[:3]
    one[more] = 0.5
    symbols, leftover = peel(view, one[:, None])
    assert symbols == [1] and leftover == [3 / (15 + 3)]
    few = np.zeros(N * N)
    few[[5, 20]] = 1
    symbols, leftover = peel(view, few[:, None])
    assert symbols == [0] and leftover == [1]


def test_the_true_dictionary_is_found_in_full(view):
    digits = view.embeddings - view.embeddings.mean(0)
    order = view.positions[0] - view.positions[1]
    shuffle = np.random.default_rng(0).permutation(N + 1)
    decoder = np.concatenate([digits, -3 * order[None]])[shuffle]
    latents = np.stack([*(detector(view, [d]) for d in range(N)), np.ones(N * N)], 1)[:, shuffle]
    found = match_dictionary(made(view, latents, decoder))
    assert (found.mcc, found.mcc_digits, found.order_cosine) == pytest.approx((1, 1, -1))
    assert found.order_latent == int(np.flatnonzero(shuffle == N)[0])
    assert (found.mean_f1, found.unique) == pytest.approx((1, 1))
    np.testing.assert_array_equal(shuffle[found.detectors], np.arange(N))
    np.testing.assert_array_equal(found.symbols[found.detectors], 1)
    dead = latents.copy()
    dead[:, found.detectors[0]] = 0
    without = match_dictionary(made(view, dead, decoder))
    assert without.mcc < found.mcc and without.f1[0] < 1 and without.unique == pytest.approx(1 - 1 / N)


def test_placed_embeddings_are_matched_apart(view):
    placed = (view.embeddings[:, None] + view.positions).reshape(-1, D)
    placed = placed - placed.mean(0)
    latents = np.stack([(view.lists[:, i] == d) * 1.0 for d in range(N) for i in range(2)], 1)
    found = match_dictionary(made(view, latents, placed))
    assert found.mcc_positions == pytest.approx(1) and found.mcc < 1
    assert found.f1.max() < 1 and found.unique == 0  # two latents are on in half of each digit's lists


def test_seeds_agree_as_far_as_their_rows_do():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 10, 30))
    turned = a[generator.permutation(10)] * generator.uniform(0.5, 2, (10, 1)) * -1
    assert seed_agreement([a, a]) == pytest.approx(1) and seed_agreement([a, turned, a]) == pytest.approx(1)
    assert 0 < seed_agreement([a, b]) < 0.6
    assert seed_agreement([a, a[:4]]) == pytest.approx(0.4)
    assert seed_agreement([a[:0], a]) == 0 == seed_agreement([a[:0], a[:0]])


# Few values


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_bins_have_few_values_and_keep_means(n, encoded):
    found = in_bins(encoded.latents, n)
    np.testing.assert_array_equal(found > 0, encoded.latents > 0)
    np.testing.assert_allclose(found.mean(0), encoded.latents.mean(0))
    for ours, theirs in zip(found.T, encoded.latents.T, strict=True):
        values, counts = np.unique(ours[ours > 0], return_counts=True)
        assert len(values) <= n and (len(values) == n or len(counts) == (theirs > 0).sum())
        assert not len(counts) or np.ptp(counts) <= 1  # equally many lists in each
        order = np.argsort(theirs, kind="stable")
        assert (np.diff(ours[order]) >= -1e-12).all()
        if n == 1 and len(values):
            assert values == pytest.approx(theirs[theirs > 0].mean())


def test_as_many_bins_as_lists_leave_all_as_it_was(encoded):
    np.testing.assert_array_equal(in_bins(encoded.latents, N * N), encoded.latents)


def test_grading_is_what_the_outputs_say_of_few_values(encoded):
    view, chosen = encoded.view, [2, 4]
    found = grade(encoded, chosen, bins=(1, 3, N * N), n_draws=2)
    for n in (1, 3):
        values = in_bins(encoded.latents, n)
        own = encoded.latents.copy()
        own[:, chosen] = values[:, chosen]
        for name, latents in (("special", own), ("every", values)):
            said = view.readout.answers(encoded.decode(latents))
            assert getattr(found, name)[n] == judge(said, view.lists), name
    for name in ("special", "every", "digits", "direction"):
        assert getattr(found, name)[N * N] == found.graded
    right = found.graded.lists_right
    assert found.extremes["digits"][N * N] == found.extremes["direction"][N * N] == (right, right)


def test_a_random_direction_moves_each_list_as_far(encoded, monkeypatch):
    seen, own = [], encoded.view.readout.answers

    def answers(readout, sep):
        seen.append(sep)
        return own(sep)

    monkeypatch.setattr(Readout, "answers", answers)
    monkeypatch.setattr(grading, "_detectors", lambda *_: np.array([], int))  # whose changes could be alike
    assert grade(encoded, [2], bins=(1,), n_draws=3).digit_latents == 0
    graded, special = encoded.reconstruction, seen[0]
    moved = np.linalg.norm(special - graded, axis=1)
    controls = [sep - graded for sep in seen if np.linalg.matrix_rank(sep - graded, 1e-9) == 1]
    assert len(controls) >= 4 and moved.max() > 0  # the special latent's own, and three draws
    for change in controls:
        np.testing.assert_allclose(np.linalg.norm(change, axis=1), moved, atol=1e-9)
    along = [change[np.argmax(moved)] / moved.max() for change in controls]
    assert all(abs(a @ b) < 1 - 1e-6 for a, b in itertools.combinations(along[-3:], 2))
    ups = [np.sign(change @ x).astype(int) for change, x in zip(controls, along, strict=True)]
    assert all((up == ups[0]).all() for up in ups)  # the same lists go up


def test_other_latents_that_are_on_as_often_are_drawn(view):
    generator, rare = np.random.default_rng(0), np.arange(1, F + 1) / 100
    latents = (np.arange(N * N)[:, None] < rare * N * N * 3) * 1.0  # on in 0 to a half of the lists
    encoded = made(view, latents, np.eye(F, D))
    firing = encoded.firing
    for chosen in ([F - 1], [6, 9]):
        share, drawn = firing[chosen].sum(), set()
        candidates = np.setdiff1d(np.flatnonzero((firing > 0) & (firing < firing[chosen].max())), chosen)
        for _ in range(20):
            others = grading._as_often(encoded, chosen, generator.permutation(candidates))
            assert not set(others) & set(chosen) and len(set(others)) == len(others) > 0
            assert (firing[others] > 0).all() and (firing[others] < firing[chosen].max()).all()
            left = np.setdiff1d(
                np.flatnonzero((firing > 0) & (firing < firing[chosen].max())), [*others, *chosen]
            )
            most = firing[left].max(initial=0)
            assert share - most < firing[others].sum() <= share + 1e-12
            drawn.add(tuple(sorted(others)))
        assert len(drawn) > 3


def test_only_detectors_of_digits_are_drawn(view):
    has = (view.lists[:, :, None] == np.arange(N)).any(1)
    latents = np.zeros((N * N, F))
    latents[:, 0] = has[:, 1] | has[:, 2]  # of two digits
    latents[:, 1] = has[:, 3]
    latents[:: N + 1, 2] = 1  # on in few lists, of no digit
    latents[:, 3] = 1  # on in all
    encoded = made(view, latents, np.eye(F, D))
    assert grading._detectors(encoded, [3]).tolist() == [0, 1]
    assert grading._detectors(encoded, [0]).tolist() == [1]


# All questions at once


@pytest.mark.parametrize("family", ["topk", "binary"])
def test_a_study_is_plain(family, view):
    study = study_sae(random_sae(family), view)
    said = tabulate(study)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert study.table() and all(not isinstance(value, dict) for value in row(study).values())
    assert study.is_special == bool(len(study.encoded.special()))
    assert said["swapped_by_scaling"]["lists"] == study.steering.steering.regions.on_grid.sum()
    assert said["latents"]["coverage"] == (study.encoded.latents > 0).sum(0).tolist()
    order = view.positions[0] - view.positions[1]
    own = study.encoded.decoder[study.special[0]]
    cosine = own @ order / np.linalg.norm(own) / np.linalg.norm(order)
    assert said["cos_decoder_P1_minus_P2"] == pytest.approx(cosine)


@pytest.mark.parametrize("n_digits", [2, 3])
def test_a_dead_sae_on_few_lists_can_be_studied(n_digits):
    model = random_model(ModelConfig(d_model=D, n_digits=n_digits))
    view = view_sep(model, TaskConfig(n_digits=n_digits))
    sae = random_sae("l1")
    sae.b_enc.set_value(jnp.full(F, -1e4))
    study = study_sae(sae, view)
    assert not study.is_special and study.fidelity.dead == F and study.match.mcc == 0
    assert json.dumps(tabulate(study), allow_nan=False) and json.dumps(row(study), allow_nan=False)


# On disk


@pytest.mark.parametrize("family", FAMILIES)
def test_an_sae_comes_back_bit_for_bit(family, tmp_path):
    sae = random_sae(family)
    save_sae(tmp_path / "sae", sae, {"seed": np.int64(3), "model_sha256": "abc"})
    found, about = load_sae(tmp_path / "sae")
    assert found.config == sae.config and about == {"seed": 3, "model_sha256": "abc"}
    assert_same(named_arrays(found), named_arrays(sae))


def test_a_damaged_sae_is_refused(tmp_path):
    save_sae(tmp_path / "sae", random_sae("topk"))
    for file in sorted((tmp_path / "sae").rglob("*")):
        if file.is_file() and file.stat().st_size:
            content = file.read_bytes()
            middle = len(content) // 2
            file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            with pytest.raises(UserError) as error:
                load_sae(tmp_path / "sae")
            assert "\n" not in str(error.value)
            file.write_bytes(content)
    assert load_sae(tmp_path / "sae")
    sae = random_sae("topk")
    sae.b_dec.set_value(jnp.full(D, jnp.nan))
    with pytest.raises(
        UserError, match="array b_dec holds numbers that are not finite: no such SAE is saved"
    ):
        save_sae(tmp_path / "other", sae)
    assert [entry.name for entry in tmp_path.iterdir()] == ["sae"]


def test_an_sae_knows_its_model(model, sources):
    store.check_model({"model_sha256": sources["one"].digest}, model)
    store.check_model({}, model)
    with pytest.raises(UserError, match=r"was trained on another model \(other\): give the checkpoint"):
        store.check_model({"model_sha256": sources["other"].digest, "model": "other"}, model)


def test_a_shipped_sae_belongs_to_the_shipped_model():
    for name in pretrained_saes():
        sae, about = load_pretrained_sae(name)
        store.check_model(about, checkpoint.load_pretrained(name)[0])
        assert sae.config.width == sae.W_dec.shape[0]


def published(sae, **changes) -> dict[str, np.ndarray]:
    """The arrays of an SAE as the library dictionary-learning names them; without those that are None."""
    arrays = named_arrays(sae)
    found = {
        "encoder.weight": arrays["W_enc"].T,
        "encoder.bias": arrays["b_enc"],
        "decoder.weight": arrays["W_dec"].T,
        "b_dec": arrays["b_dec"],
        "act_mean": arrays["act_mean"],
        "threshold": arrays["threshold"],
        "k": np.int64(sae.config.k),
    }
    found |= {name.replace("__", "."): change for name, change in changes.items()}
    return {name: array for name, array in found.items() if array is not None}


def test_published_files_are_read(tmp_path):
    sae, path = random_sae("batch_topk"), tmp_path / "sae.npz"
    np.savez(path, **published(sae))
    found, about = import_sae(path)
    assert_same(named_arrays(found), named_arrays(sae))
    assert (found.config.family, found.config.k, about) == ("batch_topk", 3, {"source": "sae.npz"})
    np.savez(path, **{f"state_dict.{name}": x for name, x in published(sae, act_mean=None).items()})
    found, _ = import_sae(path, sae.act_mean[...], "topk")
    assert found.config.family == "topk" and found.threshold[...] == -1
    arrays = named_arrays(random_sae("jumprelu"))
    np.savez(path, **arrays)
    found, _ = import_sae(path)
    sep = np.random.default_rng(0).normal(size=(50, D)).astype(np.float32) + arrays["act_mean"]
    before = (sep - arrays["act_mean"]) @ arrays["W_enc"] + arrays["b_enc"]  # theirs subtracts no b_dec
    wanted = np.maximum(np.where(before > arrays["threshold"], before, 0), 0)
    assert found.config.family == "jumprelu" and (wanted > 0).any()
    np.testing.assert_allclose(found.encode(sep), wanted, atol=1e-5)
    np.testing.assert_array_equal(found.W_dec[...], arrays["W_dec"])
    np.savez(path, **published(sae, group_sizes=np.array([4, 12])))
    assert import_sae(path)[0].config.family == "matryoshka"
    np.savez(path, **published(sae, threshold=None, k=None))
    assert import_sae(path)[0].config.family == "l1"
    np.savez(path, **published(sae, threshold=None, k=None, b_dec=None, bias=named_arrays(sae)["b_dec"]))
    assert_same({"b_dec": import_sae(path)[0].b_dec[...]}, {"b_dec": named_arrays(sae)["b_dec"]})
    with pytest.raises(UserError, match="array threshold is missing, which an SAE of the family batch_topk"):
        import_sae(path, family="batch_topk")
    wide = random_sae("l1", width=5000)  # more than a default batch could have
    np.savez(path, **published(wide, threshold=np.float32(0.5)))
    assert_same(arrays_of_import(path), named_arrays(wide) | {"threshold": np.float32(0.5)})


def arrays_of_import(path) -> dict[str, np.ndarray]:
    return named_arrays(import_sae(path)[0])


WRONG = {
    # (what is changed in a file, words of the error)
    "no mean": ({"act_mean": None}, "it says no act_mean, the mean"),
    "mean of another width": ({"act_mean": np.ones(3)}, "array act_mean has shape [3], expected [8]"),
    "no decoder": ({"decoder__weight": None}, "its decoder is missing"),
    "no encoder": ({"encoder__weight": None}, "array W_enc is missing"),
    "a decoder turned round": ({"decoder__weight": np.ones((F, D))}, "expected"),
    "an unknown array": ({"gate": np.ones(3)}, "array gate has no place in an SAE"),
    "an array twice": ({"W_enc": np.ones((D, F))}, "is there twice"),
    "NaN": ({"encoder__bias": np.full(F, np.nan)}, "array b_enc must hold finite numbers"),
    "too large": ({"encoder__bias": np.full(F, 1e300)}, "array b_enc holds a number that is too large"),
    "text": ({"encoder__bias": np.array(["a"] * F)}, "array b_enc must hold numbers"),
    "complex numbers": ({"b_dec": np.ones(D) * 1j}, "array b_dec must hold numbers"),
    "a negative threshold": ({"threshold": np.float32(-1)}, "its threshold is negative: it was trained too"),
    "a threshold that is NaN": ({"threshold": np.float32("nan")}, "array threshold must hold finite numbers"),
    "thresholds of few": ({"threshold": np.ones(3)}, "array threshold has shape [3], expected [16]"),
    "half a k": ({"k": np.float32(2.5)}, "array k must be a whole number"),
    "k NaN": ({"k": np.float32("nan")}, "array k must hold finite numbers"),
    "k as text": ({"k": np.array("three")}, "array k must hold numbers"),
    "many k": ({"k": np.array([1, 2])}, "array k must be a whole number"),
    "k too large": ({"k": np.int64(17)}, "sae.k=17 keeps more latents than there are"),
    "k of none": ({"k": np.int64(0)}, "sae.k must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_import_says_what_is_wrong(case, tmp_path):
    changes, said = WRONG[case]
    path = tmp_path / "sae.npz"
    np.savez(path, **published(random_sae("batch_topk"), **changes))
    with pytest.raises(UserError) as error:
        import_sae(path)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path} is no SAE that is known here: ")


def refused(path):
    """The one sentence with which a file is refused."""
    with pytest.raises(UserError) as error:
        import_sae(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "sae.npz"
    np.savez(path, **published(random_sae("batch_topk")))
    content = path.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:cut])
        assert "is not an .npz file of plain arrays" in refused(path)
    generator, whole = np.random.default_rng(0), arrays_of_whole(path, content)
    for place in generator.integers(0, len(content), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            found = arrays_of_import(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert_same(found, whole)  # a bit that says nothing of the arrays, such as a date


def arrays_of_whole(path, content):
    path.write_bytes(content)
    return arrays_of_import(path)


def test_a_file_of_pytorch_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    sae, path = random_sae("batch_topk"), tmp_path / "sae.pt"
    tensors = {name: torch.tensor(np.array(x)) for name, x in published(sae).items()}
    mean = tensors.pop("act_mean")
    torch.save({"state_dict": tensors, "act_mean": mean, "config": {"lr": 0.1, "name": "x"}}, path)
    assert_same(arrays_of_import(path), named_arrays(sae))
    torch.save(tensors | {"act_mean": mean}, path)
    assert_same(arrays_of_import(path), named_arrays(sae))
    torch.save(tensors, path)
    assert "it says no act_mean" in refused(path)
    torch.save({"act_mean": mean}, path)
    assert "its decoder is missing" in refused(path)
    torch.save({"state_dict": tensors, "state_dict.b_dec": mean, "act_mean": mean}, path)
    assert refused(path)
    torch.save([tensors], path)
    assert "holds no dictionary of tensors" in refused(path)


class Evil:
    """Makes a directory as soon as it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_code_in_a_file_is_never_run(tmp_path):
    evil, path = tmp_path / "evil", tmp_path / "sae.pt"
    path.write_bytes(pickle.dumps({"act_mean": Evil(evil)}))
    assert refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sae/data.pkl", pickle.dumps({"state_dict": {"W": Evil(evil)}}, protocol=2))
        archive.writestr("sae/version", "3\n")
    assert refused(path)
    np.savez(tmp_path / "sae.npz", act_mean=np.array([Evil(evil)], dtype=object))
    assert refused(tmp_path / "sae.npz")
    assert not evil.exists()
    pickle.loads(pickle.dumps(Evil(evil)))
    assert evil.exists()  # it would have


def test_nothing_public_is_missing():
    assert len(set(room.__all__)) == len(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)
