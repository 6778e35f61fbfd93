"""Checkpoints come back as they were, or say in one sentence why not."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax import nnx

from orderscale_jax import storage
from orderscale_jax.checkpoint import (
    DamagedError,
    load_checkpoint,
    load_pretrained,
    named_arrays,
    restore_latest,
    save_checkpoint,
    save_state,
)
from orderscale_jax.config import LAST_SCORES, as_drawn, default_config, train_config
from orderscale_jax.errors import UserError


def config_of(model) -> ml_collections.ConfigDict:
    config = default_config()
    for group in (config.task, config.model):
        for key in group:
            if hasattr(model.config, key):
                group[key] = getattr(model.config, key)
    return config


@pytest.fixture
def saved(tmp_path, small_model):
    path = tmp_path / "model"
    save_checkpoint(path, small_model, config_of(small_model))
    return path


def test_a_model_comes_back_as_it_was(tmp_path, any_model):
    config = config_of(any_model)
    config.seed, config.train.overrides = 7, as_drawn(LAST_SCORES)
    save_checkpoint(tmp_path / "deep" / "model", any_model, config)
    loaded, loaded_config = load_checkpoint(tmp_path / "deep" / "model")
    assert loaded.config == any_model.config
    said, expected = (json.loads(each.to_json_best_effort()) for each in (loaded_config, config))
    assert said == expected and train_config(loaded_config) == train_config(config)
    before, after = named_arrays(any_model), named_arrays(loaded)
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_orbax_alone_reads_the_arrays_under_their_published_names(saved, small_model):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(saved / "arrays")
    assert arrays.keys() == named_arrays(small_model).keys()
    assert arrays["blocks.1.attn.W_Q"].shape == (1, 8, 8)


def test_saving_and_loading_say_nothing(tmp_path, small_model, capfd, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("absl").setLevel(logging.INFO)
    save_checkpoint(tmp_path / "model", small_model, config_of(small_model))
    load_checkpoint(tmp_path / "model")
    assert logging.getLogger("absl").level == logging.INFO
    logging.getLogger("absl").setLevel(logging.NOTSET)
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    assert capfd.readouterr() == ("", "")


SAVE_ON_EIGHT_DEVICES = """
import sys
import jax, numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orderscale_jax.checkpoint import save_checkpoint, save_state
from orderscale_jax.config import default_config, model_config
from orderscale_jax.model import ListTransformer

assert jax.device_count() == 8
config = default_config()
config.model.d_model = 8
model = ListTransformer(model_config(config), rngs=nnx.Rngs(3))
everywhere = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec())
split = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec(None, "d"))
nnx.update(model, jax.device_put(nnx.state(model), everywhere))
model.unembed.W_U.set_value(jax.device_put(np.arange(816.0, dtype=np.float32).reshape(102, 8).T, everywhere))
model.embed.W_E.set_value(jax.device_put(np.arange(816.0, dtype=np.float32).reshape(102, 8), split))
save_checkpoint(sys.argv[1] + "/model", model, config)
save_state(sys.argv[1] + "/states", 5, {"split": model.embed.W_E[...]}, {})
"""


def test_what_eight_devices_saved_loads_on_one(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    command = [sys.executable, "-W", "error", "-c", SAVE_ON_EIGHT_DEVICES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    model, _ = load_checkpoint(tmp_path / "model")
    expected = np.arange(816, dtype=np.float32).reshape(102, 8)
    np.testing.assert_array_equal(model.embed.W_E[...], expected)
    np.testing.assert_array_equal(model.unembed.W_U[...], expected.T)
    assert len(model.embed.W_E[...].devices()) == 1
    _, state, _ = restore_latest(tmp_path / "states", {"split": expected})
    np.testing.assert_array_equal(state["split"], expected)


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def test_every_missing_or_broken_file_is_noticed(saved, small_model, tmp_path, capfd):
    for number, file in enumerate(sorted(saved.rglob("*"))):
        for damage in ("missing", "cut short", "changed"):
            copy = tmp_path / f"copy_{number}_{damage}"
            shutil.copytree(saved, copy)
            victim = copy / file.relative_to(saved)
            if damage == "missing":
                shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
            elif victim.is_dir():
                continue
            elif damage == "cut short":
                victim.write_bytes(victim.read_bytes()[: file.stat().st_size // 2])
            else:
                content = bytearray(victim.read_bytes())
                content[len(content) // 2] ^= 255
                victim.write_bytes(content)
            with pytest.raises(ValueError, match="damaged or was written only in part") as error:
                load_checkpoint(copy)
            assert str(copy) in one_line(error)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "file")
    with pytest.raises(ValueError, match="no pretrained model 'four_layer'; there is "):
        load_pretrained("four_layer")


def edit_json(saved, **changes):
    file = saved / "config" / "metadata"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, **changes}))
    (saved / storage.SUMS).write_text(storage._sums(saved))
    return about


def test_a_newer_format_is_refused(saved):
    edit_json(saved, format=storage.FORMAT + 1)
    with pytest.raises(ValueError, match="install a newer version") as error:
        load_checkpoint(saved)
    one_line(error)


@pytest.mark.parametrize(
    ("group", "key", "value", "said"),
    [
        ("model", "d_model", 16, "blocks.0.attn.W_K has shape .* expected"),
        ("model", "n_layers", 3, "blocks.2.attn.W_K is missing"),
        ("model", "n_layers", 1, "blocks.1.attn.W_K does not belong"),
        ("model", "n_heads", 3, "n_heads must divide"),
        ("model", "d_model", "many", "model.d_model must be a whole number, got 'many'"),
        ("task", "list_len", 3, "pos_embed.W_pos has shape"),
        ("model", "width", 3, "unknown option model.width"),
    ],
)
def test_a_configuration_that_contradicts_the_arrays_is_refused(saved, group, key, value, said):
    about = edit_json(saved)
    about["config"][group][key] = value
    edit_json(saved, config=about["config"])
    with pytest.raises(ValueError, match=said) as error:
        load_checkpoint(saved)
    one_line(error)


def test_a_configuration_of_another_model_is_not_saved(tmp_path, small_model):
    with pytest.raises(ValueError, match="the configuration describes"):
        save_checkpoint(tmp_path / "model", small_model, default_config())
    assert not any(tmp_path.iterdir())


def test_a_newer_model_replaces_an_older_one(saved, small_model):
    small_model.embed.W_E.set_value(small_model.embed.W_E[...] + 1)
    save_checkpoint(saved, small_model, config_of(small_model))
    np.testing.assert_array_equal(load_checkpoint(saved)[0].embed.W_E[...], small_model.embed.W_E[...])
    assert [entry.name for entry in saved.parent.iterdir()] == ["model"]


def test_a_failed_save_loses_nothing(saved, small_model, monkeypatch):
    before = np.asarray(small_model.embed.W_E[...])
    small_model.embed.W_E.set_value(small_model.embed.W_E[...] + 1)

    def full_disk(path):
        assert any(path.iterdir())
        raise OSError("disk full")

    monkeypatch.setattr(storage, "_sums", full_disk)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, small_model, config_of(small_model))
    monkeypatch.undo()
    np.testing.assert_array_equal(load_checkpoint(saved)[0].embed.W_E[...], before)
    assert [entry.name for entry in saved.parent.iterdir()] == ["model"]


def test_a_save_killed_between_its_two_renames_loses_nothing(saved, small_model):
    saved.rename(saved.with_name(".model.previous"))
    loaded, _ = load_checkpoint(saved)
    np.testing.assert_array_equal(loaded.embed.W_E[...], small_model.embed.W_E[...])


def test_foreign_files_are_not_overwritten(tmp_path, small_model):
    (tmp_path / "thesis.tex").write_text("text")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(FileExistsError, match="is not a checkpoint"):
            save_checkpoint(path, small_model, config_of(small_model))
    with pytest.raises(OSError):
        save_checkpoint(tmp_path / "thesis.tex" / "model", small_model, config_of(small_model))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def training_state(model, step: int):
    params = nnx.state(model)
    return {
        "params": params,
        "optimizer": optax.adamw(1e-3).init(params),
        "step": jnp.int32(step),
        "best": np.float32(0.25) * step,
        "order": np.arange(6).reshape(2, 3),
        "done": np.array([True, False]),
    }


def test_the_latest_whole_state_is_restored(tmp_path, small_model, caplog):
    assert restore_latest(tmp_path / "states", {}) is None
    states = {step: training_state(small_model, step) for step in (100, 200, 300)}
    for step, state in states.items():
        save_state(tmp_path / "states", step, state, {"seed": step, "best": float("-inf")})
    names = sorted(entry.name for entry in (tmp_path / "states").iterdir())
    assert names == ["step_000000200", "step_000000300"]

    def assert_restored(expected_step):
        step, state, metadata = restore_latest(tmp_path / "states", jax.eval_shape(lambda: states[100]))
        assert (step, metadata) == (expected_step, {"seed": expected_step, "best": float("-inf")})
        assert jax.tree.structure(state) == jax.tree.structure(states[step])
        for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(states[step]), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype

    assert_restored(300)
    assert not caplog.records
    (tmp_path / "states" / ".step_000000400.partial").mkdir()  # as a killed save leaves it
    (tmp_path / "states" / "step_000000500").mkdir()  # as a killed copy may leave it
    (tmp_path / "states" / "step_000000300" / "arrays" / "manifest.ocdbt").unlink()
    assert_restored(200)
    damaged = "the state of step 500 and 300 is damaged or renamed: going on from step 200"
    assert f"in {tmp_path / 'states'} {damaged}" in caplog.text
    save_state(tmp_path / "states", 250, training_state(small_model, 250), {})
    names = sorted(entry.name for entry in (tmp_path / "states").iterdir() if entry.name[0] == "s")
    assert names == ["step_000000200", "step_000000250"]


@pytest.fixture
def two_states(tmp_path, small_model):
    """A directory with two states, and what restores them."""
    states = {step: training_state(small_model, step) for step in (100, 200)}
    for step, state in states.items():
        save_state(tmp_path, step, state, {})
    return tmp_path, lambda: restore_latest(tmp_path, jax.eval_shape(lambda: states[100]))


def test_where_no_state_is_whole_nothing_begins_again(two_states):
    directory, restore = two_states
    for state in directory.iterdir():
        (state / "config" / "metadata").write_bytes(b"{")
    with pytest.raises(DamagedError, match=r"no state in .* is whole: put back a copy of it, or delete it"):
        restore()
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), PermissionError(13, "denied")])
@pytest.mark.parametrize("reading", ["read_bytes", "read_text"])
def test_a_state_that_cannot_be_read_is_not_taken_for_a_damaged_one(two_states, monkeypatch, error, reading):
    directory, restore = two_states
    read = getattr(type(directory), reading)

    def failing(path, *arguments, **options):
        if "step_000000200" in str(path):
            raise error
        return read(path, *arguments, **options)

    monkeypatch.setattr(type(directory), reading, failing)
    with pytest.raises(OSError) as found:
        restore()
    assert found.value is error
    monkeypatch.undo()
    assert restore()[0] == 200  # nothing was lost


def test_a_directory_that_may_not_be_read_is_not_taken_for_an_empty_one(two_states, monkeypatch):
    _, restore = two_states

    def failing(path):
        raise PermissionError(13, "denied", str(path))

    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(PermissionError):
        restore()


def test_a_state_of_a_newer_version_is_refused(two_states):
    directory, restore = two_states
    edit_json(directory / "step_000000200", format=storage.FORMAT + 1)
    with pytest.raises(UserError, match="install a newer version"):
        restore()


def test_a_state_of_another_configuration_is_refused(tmp_path, small_model):
    state = training_state(small_model, 1)
    save_state(tmp_path, 1, state, {})
    for other in ({**state, "order": np.arange(7)}, {**state, "more": np.zeros(1)}, {"step": state["step"]}):
        with pytest.raises(ValueError, match="made with another configuration"):
            restore_latest(tmp_path, other)


@pytest.mark.parametrize("leftover", ["directory", "file"])
def test_a_damaged_state_is_replaced_when_its_step_comes_again(two_states, small_model, leftover):
    directory, restore = two_states
    place = directory / "step_000000200"
    shutil.rmtree(place)
    place.mkdir() if leftover == "directory" else place.write_text("x")
    assert restore()[0] == 100
    save_state(directory, 200, training_state(small_model, 200), {})
    assert restore()[0] == 200


@pytest.mark.parametrize("name", ["a[1]", "a b[1]*?", "a\\b", "q\"'\\"])
def test_a_checkpoint_may_have_any_name(tmp_path, small_model, capfd, name):
    config = default_config()
    config.model.d_model, config.task.n_digits = 8, 5
    for _ in range(2):
        save_checkpoint(tmp_path / name, small_model, config)
    model, _ = load_checkpoint(tmp_path / name)
    assert storage.weight_digest(named_arrays(model)) == storage.weight_digest(named_arrays(small_model))
    assert [entry.name for entry in tmp_path.iterdir()] == [name] and capfd.readouterr() == ("", "")


def test_a_link_to_a_checkpoint_stays_one(tmp_path, small_model):
    config = default_config()
    config.model.d_model, config.task.n_digits = 8, 5
    save_checkpoint(tmp_path / "real", small_model, config)
    (tmp_path / "link").symlink_to("real")
    small_model.unembed.W_U[...] = 2 * small_model.unembed.W_U[...]
    for _ in range(2):
        save_checkpoint(tmp_path / "link", small_model, config)
    assert (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2
    model, _ = load_checkpoint(tmp_path / "real")
    assert storage.weight_digest(named_arrays(model)) == storage.weight_digest(named_arrays(small_model))


def test_a_state_that_was_renamed_is_passed_over(two_states, caplog):
    directory, restore = two_states
    shutil.copytree(directory / "step_000000100", directory / "step_0000000300")  # a name it never gives
    (directory / "step_000000200").rename(directory / "step_000000900")
    assert restore()[0] == 100
    assert "the state of step 900 is damaged or renamed: going on from step 100" in caplog.text


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a.b": np.ones(2), "a": {"b": np.zeros(2)}}, "two arrays of the state have the same name 'a.b'"),
        ({"x": np.zeros((0, 3))}, "a state needs arrays, and each of them a number"),
        ({}, "a state needs arrays"),
    ],
)
def test_states_that_would_not_come_back_are_refused(tmp_path, state, said):
    with pytest.raises(UserError, match=said):
        save_state(tmp_path, 1, state, {})
    with pytest.raises(UserError, match="a step must not be negative, got -1"):
        save_state(tmp_path, np.int64(-1), {"x": np.ones(1)}, {})
    assert not any(tmp_path.iterdir())
    save_state(tmp_path, np.int64(1), {"x": np.ones(1)}, {})
    assert restore_latest(tmp_path, {"x": np.ones(1)})[0] == 1
