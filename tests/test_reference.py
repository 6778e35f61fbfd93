"""The published numbers come back: every checkpoint and every training run of a folder of references.

The folder is `$ORDERSCALE_REFERENCE`, by default `../shared/reference` beside the project. Its cases
are found by listing it: `NAME.json` with `NAME_weights.npz` and `NAME_activations.npz` is a
checkpoint and what it does; `trajectory_NAME.json` with its `.npz` is a run to replay.
"""

import functools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orderscale_jax import analysis, scales, task, training
from orderscale_jax.analysis.ablation import ablate_edges
from orderscale_jax.checkpoint import from_named_arrays, named_arrays
from orderscale_jax.config import TrainConfig
from orderscale_jax.convert import from_torch, read_arrays
from orderscale_jax.model import ModelConfig, frozen_projections
from orderscale_jax.task import TaskConfig, make_split

REFERENCE = Path(os.environ.get("ORDERSCALE_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")
NO_CASES = ("published_grids.json",)

# Between two correct float32 implementations.
LOGITS = 2e-4
ACCURACY = 1.5e-3  # a handful of near-ties may flip
LOSS = 1e-4  # relative
WEIGHTS = 2e-4
KEY_BIAS = 3e-3  # the gradient of b_K is zero; AdamW amplifies the rounding in its place


def _names(prefix: str = "") -> list:
    """The cases of one kind, or one that is skipped with the reason."""
    if not REFERENCE.is_dir():
        reason = f"there is no folder {REFERENCE}: set ORDERSCALE_REFERENCE to the reference data"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no reference")]
    files = sorted(REFERENCE.glob("*.json"))
    names = [file.stem for file in files if file.name not in NO_CASES]
    names = [name for name in names if name.startswith("trajectory_") == bool(prefix)]
    if not names:
        reason = f"{REFERENCE} holds no case of this kind"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no case")]
    return names


@pytest.fixture(scope="module", params=_names())
def case(request):
    """A checkpoint: what is said of it, its model, the lists that were used, and the model's pass."""
    name = request.param
    said = json.loads((REFERENCE / f"{name}.json").read_text())
    model, config = from_torch(read_arrays(REFERENCE / f"{name}_weights.npz"))
    assert (config.task.list_len, config.task.n_digits) == (said["list_len"], said["n_digits"])
    split = make_split(TaskConfig(list_len=said["list_len"], n_digits=said["n_digits"]))
    lists = split.validation[: said["n_val_used"]]
    return SimpleNamespace(
        name=name,
        said=said,
        model=model,
        split=split,
        lists=lists,
        observed=analysis.observe(model, lists),
        ablations={mode: ablate_edges(model, lists, mode) for mode in ("renormalize", "zero")},
    )


@functools.partial(jax.jit, static_argnums=0)
def _trace(graphdef, state, lists):
    return nnx.merge(graphdef, state)(lists, trace=True)


@functools.partial(jax.jit, static_argnums=0)
def _scale_form(graphdef, state, lists):
    return scales.logits(nnx.merge(graphdef, state), lists)


_evaluate = jax.jit(training.evaluate, static_argnums=0)


def test_activations(case):
    with np.load(REFERENCE / f"{case.name}_activations.npz") as file:
        said = dict(file)
    lists = case.lists[: len(said["val_tokens"])]
    np.testing.assert_array_equal(task.tokens(lists, case.said["n_digits"]), said["val_tokens"])
    logits, trace = _trace(*nnx.split(case.model), jnp.asarray(lists))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=LOGITS)
    close(logits, said["val_logits"], err_msg="logits")
    close(trace.patterns, said["patterns"], err_msg="patterns")
    close(trace.residuals[1:], said["resid_post"], err_msg="residuals")
    close(trace.scores, said["scores_last"], err_msg="scores")  # -inf where the mask forbids, in both
    if scales.pays(case.model.config):
        close(_scale_form(*nnx.split(case.model), jnp.asarray(lists)), said["val_logits"])


def test_the_torch_file_holds_the_same_model(case):
    path = REFERENCE / f"{case.name}.pt"
    if not path.is_file():
        pytest.skip(f"there is no {path.name}")
    pytest.importorskip("torch", reason="reading a .pt file needs PyTorch")
    model, _ = from_torch(read_arrays(path))
    assert model.config == case.model.config
    ours, theirs = named_arrays(model), named_arrays(case.model)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_every_number_of_the_file(case):
    for key, said in case.said.items():
        assert key in MEASURES, f"{case.name}.json says {key!r}, which nothing here measures"
        _compare(case, key, MEASURES[key](case), said)


def _compare(case, path, ours, said):
    """Compares nested numbers; every key of `said` must be among `ours`."""
    if callable(ours):
        ours(path, said)
    elif isinstance(said, dict):
        assert not (missing := set(said) - set(ours)), f"{path}: nothing measures {sorted(missing)}"
        for key in said:
            _compare(case, f"{path}.{key}", ours[key], said[key])
    elif isinstance(said, list) and isinstance(said[0], dict):
        assert len(ours) == len(said), path
        for i, (our, their) in enumerate(zip(ours, said, strict=True)):
            _compare(case, f"{path}.{i}", our, their)
    elif isinstance(said, str | bool) or path.startswith("config"):
        assert ours == said, path
    else:
        ours, said = np.asarray(ours, float), np.asarray(said, float)  # None is NaN
        np.testing.assert_allclose(ours, said, rtol=0, atol=_tolerance(case, path, said), err_msg=path)


def _tolerance(case, path: str, said):
    n_lists, last = len(case.lists), path.rsplit(".", 1)[-1]
    if path in ("list_len", "n_digits", "n_train", "n_val_total", "n_val_used"):
        return 0
    if last in ("layer", "query", "key", "critical_tolerance", "n_examples"):
        return 0
    if last in ("sequences_all_correct", "o1_wrong", "o2_wrong"):
        return np.ceil(ACCURACY * n_lists)
    if last.endswith("given_o2_wrong"):
        return 2 * ACCURACY  # a flip weighs more among the wrong lists, which are fewer
    if last == "loss":
        return LOSS * abs(said)
    if path.startswith(("mean_pattern", "sep_attention")) and "accuracy" not in path:
        return LOGITS
    if path.startswith(("logit_difference.terms", "logit_difference.base", "logit_difference.final")):
        return LOSS * np.maximum(1, abs(said))
    return ACCURACY


def _config(case):
    config = case.model.config
    return {
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "d_vocab": config.d_vocab,
        "n_ctx": config.n_positions,
        "list_len": config.list_len,
        "attn_only": not config.mlp,
        "use_ln": config.layer_norm,
        "use_bias": config.bias,
        "use_wv": config.learn_wv,
        "use_wo": config.learn_wo,
    }


def _val(case):
    setup = training.Setup(case.model.config, None, TrainConfig())
    scores = _evaluate(setup, nnx.state(case.model, nnx.Param), jnp.asarray(case.lists))
    # Twice, as training validates and as analyses observe.
    np.testing.assert_allclose(scores["val_accuracy"], case.observed.accuracy, atol=ACCURACY)
    np.testing.assert_allclose(scores["val_loss"], case.observed.loss, rtol=LOSS)
    return {
        "accuracy": scores["val_accuracy"],
        "loss": scores["val_loss"],
        "per_position_accuracy": scores["val_position_accuracy"],
        "sequences_all_correct": scores["val_sequence_accuracy"] * len(case.lists),
    }


def _ablation(case):
    return {mode: _edges(ablation) for mode, ablation in case.ablations.items()}


def _edges(ablation):
    near = {
        tuple(e)
        for e, d in zip(ablation.edges, ablation.deltas, strict=True)
        if abs(d + ablation.tolerance) < 2 * ACCURACY
    }
    ours = {tuple(edge) for edge in ablation.critical}

    def critical(path, said):  # an edge at the tolerance may be either
        assert ours ^ {tuple(edge) for edge in said} <= near, path

    def rest(path, said):
        if not near:
            assert ablation.accuracy_without_non_critical == pytest.approx(said, abs=ACCURACY), path

    rows = zip(ablation.edges, ablation.accuracies, ablation.deltas, strict=True)
    return {
        "edges": [
            {"layer": e.layer, "query": e.query, "key": e.key, "accuracy": a, "delta": d} for e, a, d in rows
        ],
        "critical_tolerance": ablation.tolerance,
        "critical": critical,
        "accuracy_without_non_critical": rest,
    }


def _logit_lens(case):
    lens = analysis.logit_lens(case.observed)

    def predicted(path, said):  # at a near-tie either token is right
        _, trace = _trace(*nnx.split(case.model), jnp.asarray(case.lists[:64]))
        logits = np.asarray(trace.residuals[:, 0]) @ np.asarray(case.model.unembed.W_U[...])
        for tokens in (lens.predicted[0], np.array(said)):
            chosen = np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
            np.testing.assert_allclose(chosen, logits.max(-1), rtol=0, atol=2 * LOGITS, err_msg=path)

    return {"tokens": lens.tokens[0], "predicted": predicted}


def _joint(case, edges, mode):
    # The published notebook also lists edges that the mask has already cut.
    existing = [edge for edge in edges if tuple(edge) in case.model.config.graph.edges]
    joint = analysis.ablate_jointly(case.observed, existing, mode)
    o1, o2 = joint.errors
    return {
        "edges": edges,
        "accuracy": joint.outcome.accuracy,
        "loss": joint.outcome.loss,
        "o1_wrong": o1.n_wrong,
        "o2_wrong": o2.n_wrong,
        "o2_equals_o1_pred_given_o2_wrong": o2.equals_prediction[0],
        "o2_equals_d1_given_o2_wrong": o2.equals_digit[0],
        "o1_correct_given_o2_wrong": o2.others_correct[0],
    }


def _notebook(case):
    said = case.said["joint_ablation_notebook"]
    return {mode: _joint(case, about["edges"], mode) for mode, about in said.items()}


def _moderation(case):
    """The edge through which o1 moderates o2, alone."""
    return {mode: _joint(case, [(1, 4, 3)], mode) for mode in ("renormalize", "zero")}


def _circuit(case):
    closed = analysis.closed_form(case.observed)
    o1, o2 = closed.max_abs_diff

    def small(difference):
        def check(path, said):
            assert difference <= 1e-4, path  # rounding, of which `said` is another draw

        return check

    return {
        "max_abs_diff_o1": small(o1),
        "max_abs_diff_o2": small(o2),
        "reconstructed_accuracy": closed.accuracy,
    }


def _difference(case):
    difference = analysis.decompose_difference(case.observed)
    return {
        "n_examples": difference.n_lists,
        "base_l_o1": difference.base,
        "terms": difference.terms,
        "final": difference.final,
        "o2_accuracy_alpha_unchanged": difference.o2_accuracy,
        "o2_accuracy_alpha1_0_alpha2_1": difference.o2_accuracy_with_alpha[0.0, 1.0],
        "o2_accuracy_alpha1_1_alpha2_0": difference.o2_accuracy_with_alpha[1.0, 0.0],
    }


def _swap(case):
    exchange = analysis.exchange_in_closed_form(case.observed)
    return {
        "note": case.said["alpha_swap"].get("note"),
        "o1_predicts_d2": exchange.first_is_second_digit,
        "o1_predicts_d1": exchange.first_is_first_digit,
    }


def _swap_in_model(case):
    exchange = analysis.exchange_in_model(case.observed)
    return {
        "o1_is_d2": exchange.first_is_second_digit,
        "o2_is_d1": exchange.second_is_first_digit,
        "both_reversed": exchange.both_reversed,
    }


def _separability(case):
    pair = analysis.separate_outputs(case.observed).pairs[0]
    return {"accuracy": pair.accuracy, "margin": pair.margin}


def _sep_attention(case):
    gaps, statistics = analysis.sep_attention(case.observed), analysis.attention_statistics(case.observed)
    alpha, beta = statistics.alpha[:, 0, 0], statistics.beta[:, 0, 0]
    return {
        "score_gap_mean_correct": gaps.gap_correct[0, 0],
        "score_gap_mean_incorrect": gaps.gap_incorrect[0, 0],
        "alpha_d1_mean": alpha.mean(),
        "alpha_d1_std": alpha.std(),
        "beta_o2_sep_mean": beta.mean(),
        "beta_o2_sep_std": beta.std(),
    }


MEASURES = {
    "name": lambda case: case.name,
    "config": _config,
    "list_len": lambda case: case.model.config.list_len,
    "n_digits": lambda case: case.model.config.n_digits,
    "n_train": lambda case: len(case.split.train),
    "n_val_total": lambda case: len(case.split.validation),
    "n_val_used": lambda case: len(case.lists),
    "val": _val,
    "ablation": _ablation,
    "mean_pattern": lambda case: analysis.attention_statistics(case.observed).mean_pattern,
    "mean_pattern_accuracy": lambda case: analysis.attention_statistics(case.observed).mean_pattern_accuracy,
    "logit_lens_first_val": _logit_lens,
    "joint_ablation_notebook": _notebook,
    "moderation_edge_ablation": _moderation,
    "circuit": _circuit,
    "logit_difference": _difference,
    "alpha_swap": _swap,
    "alpha_swap_full_model": _swap_in_model,
    "separability": _separability,
    "sep_attention": _sep_attention,
}


@pytest.mark.parametrize("name", _names("trajectory_"))
def test_a_training_run_replayed(name):
    said = json.loads((REFERENCE / f"{name}.json").read_text())
    with np.load(REFERENCE / f"{name}.npz") as file:
        arrays = dict(file)
    setup = _setup(said)
    split = make_split(setup.task)
    batches = jnp.asarray(split.train[arrays["batch_indices"]])
    assert batches.shape == (said["steps"], said["batch"], said["list_len"])

    def weights(moment):
        prefix = f"{moment}/"
        return {key.removeprefix(prefix): x for key, x in arrays.items() if key.startswith(prefix)}

    init, final = weights("init"), weights("final")
    model = from_named_arrays(setup.model, {key: init[key] for key in said["trainable"]})
    _check_frozen(setup.model, init, final, set(said["trainable"]))

    params, losses = training.replay(setup, nnx.state(model, nnx.Param), batches)
    np.testing.assert_allclose(losses, arrays["losses"], rtol=LOSS)
    np.testing.assert_allclose(losses[: len(said["first_losses"])], said["first_losses"], rtol=LOSS)
    np.testing.assert_allclose(losses[-len(said["last_losses"]) :], said["last_losses"], rtol=LOSS)
    for key, array in named_arrays(training.bind(setup.model, params)).items():
        tolerance = KEY_BIAS if key.endswith(".b_K") else WEIGHTS
        np.testing.assert_allclose(array, final[key], rtol=0, atol=tolerance, err_msg=key)
    if "final_val_accuracy" in said:
        scores = _evaluate(setup, params, jnp.asarray(split.validation))
        one_token = 1 / split.validation.size
        accuracy = pytest.approx(said["final_val_accuracy"], abs=max(ACCURACY, one_token) + 1e-6)
        assert float(scores["val_accuracy"]) == accuracy


def _setup(said) -> training.Setup:
    warmup_steps, max_steps = said.get("schedule") or (0, said["steps"])
    shape = {"list_len": said["list_len"], "n_digits": said["n_digits"]}
    return training.Setup(
        ModelConfig(
            **shape,
            n_layers=said["n_layers"],
            n_heads=said["n_heads"],
            d_model=said["d_model"],
            layer_norm=said.get("ln", False),
            bias=said.get("use_bias", False),
            learn_wv=said.get("use_wv", False),
            learn_wo=said.get("use_wo", False),
        ),
        TaskConfig(**shape),
        TrainConfig(
            learning_rate=said["learning_rate"],
            weight_decay=said["weight_decay"],
            schedule="cosine" if said.get("schedule") else "constant",
            warmup_steps=warmup_steps,
            max_steps=max_steps,
            max_grad_norm=said.get("clip_global_norm"),
        ),
    )


def _check_frozen(config, init, final, trainable):
    """What the run did not train is what our model stands for without holding it."""
    frozen = dict(zip(("W_V", "W_O"), frozen_projections(config), strict=True))
    for key in set(init) - trainable:
        np.testing.assert_array_equal(init[key], final[key], err_msg=key)
        expected = frozen.get(key.rsplit(".", 1)[-1], 0.0)
        np.testing.assert_allclose(init[key], np.broadcast_to(expected, init[key].shape), err_msg=key)
