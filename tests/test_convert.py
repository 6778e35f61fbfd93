"""A published state_dict becomes the model that it describes, or one sentence says why not."""

import io
import os
import pickle

import numpy as np
import pytest
from conftest import VARIANTS

from orderscale_jax.checkpoint import named_arrays
from orderscale_jax.convert import from_torch, read_arrays, to_torch
from orderscale_jax.training.ensemble import make_setup


def published(config) -> dict[str, np.ndarray]:
    """The arrays of a published model of this variant, everything written out, with its buffers."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def bias(*shape):
        return draw(*shape) * config.bias

    H, D, C, V = config.n_heads, config.d_model, config.d_head, config.d_vocab
    starts = [h * C if config.frozen_heads == "block" else 0 for h in range(H)]
    frozen = np.stack([np.eye(D, dtype=np.float32)[:, start : start + C] for start in starts])
    arrays = {"embed.W_E": draw(V, D), "pos_embed.W_pos": draw(config.n_positions, D)}
    for block in (f"blocks.{layer}." for layer in range(config.n_layers)):
        attention = {
            "W_Q": draw(H, D, C),
            "W_K": draw(H, D, C),
            "W_V": draw(H, D, C) if config.learn_wv else frozen,
            "W_O": draw(H, C, D) if config.learn_wo else frozen.transpose(0, 2, 1),
            "b_O": bias(D),
            **{name: bias(H, C) for name in ("b_Q", "b_K", "b_V")},
            "mask": np.tril(np.ones((5, 5), bool)),
            "IGNORE": np.array(-np.inf, np.float32),
        }
        arrays |= {f"{block}attn.{name}": array for name, array in attention.items()}
        norms = ["ln1", *["ln2"] * config.mlp] if config.layer_norm else []
        arrays |= {f"{block}{norm}.{part}": draw(D) for norm in norms for part in "wb"}
        if config.mlp:
            arrays |= {f"{block}mlp.W_in": draw(D, 4 * D), f"{block}mlp.b_in": bias(4 * D)}
            arrays |= {f"{block}mlp.W_out": draw(4 * D, D), f"{block}mlp.b_out": bias(D)}
    if config.layer_norm:
        arrays |= {"ln_final.w": draw(D), "ln_final.b": draw(D)}
    return arrays | {"unembed.W_U": draw(D, V), "unembed.b_U": bias(V)}


def without_buffers(arrays):
    return {name: array for name, array in arrays.items() if not name.endswith((".mask", ".IGNORE"))}


def assert_equal(arrays, others):
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_variant_is_read_off_the_arrays(config):
    arrays = published(config)
    model, config_dict = from_torch(arrays)
    assert model.config == config
    assert config_dict.task.list_len == config.list_len
    assert config_dict.model.frozen_heads == config.frozen_heads
    ours = named_arrays(model)
    assert_equal(ours, {name: arrays[name] for name in ours})
    assert_equal(to_torch(model), without_buffers(arrays))


def test_training_an_imported_configuration_is_refused():
    _, config = from_torch(published(VARIANTS["plain"]))
    with pytest.raises(ValueError, match="does not say how to train"):
        make_setup(config)


def test_our_models_go_out_and_come_back(any_model):
    model, _ = from_torch(to_torch(any_model))
    assert model.config == any_model.config
    assert_equal(named_arrays(model), named_arrays(any_model))


@pytest.mark.parametrize("name", ["blocks.1.attn.b_K", "unembed.b_U", "blocks.0.mlp.b_in"])
def test_one_bias_that_is_not_zero_makes_a_model_with_biases(name):
    arrays = published(VARIANTS["MLP"])
    arrays[name] = np.ones_like(arrays[name])
    model, _ = from_torch(arrays)
    assert model.config.bias
    np.testing.assert_array_equal(named_arrays(model)[name], arrays[name])


@pytest.mark.parametrize("name", ["blocks.1.attn.W_V", "blocks.1.attn.W_O"])
def test_one_head_off_its_frozen_slice_makes_a_learned_projection(name):
    arrays = published(VARIANTS["two heads"])
    arrays[name] = arrays[name].copy()
    arrays[name][1, 0, 0] += 0.9e-5
    assert from_torch(arrays)[0].config == VARIANTS["two heads"]
    arrays[name][1, 0, 0] += 1e-4
    config = from_torch(arrays)[0].config
    assert (config.learn_wv, config.learn_wo) == (name.endswith("V"), name.endswith("O"))


def test_biases_may_be_left_out_altogether():
    arrays = {name: array for name, array in published(VARIANTS["plain"]).items() if ".b_" not in name}
    assert from_torch(arrays)[0].config == VARIANTS["plain"]


def changed(**changes):
    arrays = published(VARIANTS["biases"])
    for name, change in changes.items():
        name = name.replace("__", ".")
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays.get(name))
    return arrays


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "embed.W_E is missing"),
        (changed(embed__W_E=None), "embed.W_E is missing"),
        (changed(unembed__W_U=None), "unembed.W_U is missing"),
        (changed(blocks__0__attn__W_V=None), "blocks.0.attn.W_V is missing"),
        (changed(blocks__0__attn__b_V=None), "blocks.0.attn.b_V is missing"),
        (changed(hook_embed=lambda _: np.ones(3)), "hook_embed has no place"),
        (changed(blocks__7__attn__W_Q=lambda _: np.ones(3)), "layer 2 has no arrays"),
        (changed(embed__W_E=lambda a: a[0]), "embed.W_E must have 2 axes"),
        (changed(embed__W_E=lambda a: a[:, :6]), "has shape"),
        (changed(blocks__1__attn__W_K=lambda a: a[:, :, :4]), r"blocks.1.attn.W_K has shape \[1, 8, 4\]"),
        (changed(blocks__0__attn__W_Q=lambda a: np.concatenate([a] * 3)), "n_heads must divide"),
        (changed(pos_embed__W_pos=lambda a: a[:4]), "expected 2n.1"),
        (changed(embed__W_E=lambda a: a[:3]), "two digits or more"),
        (changed(unembed__W_U=lambda a: a * np.nan), "unembed.W_U holds numbers that are not finite"),
        (
            changed(unembed__W_U=lambda a: np.full(a.shape, 1e300)),
            "unembed.W_U holds numbers that are not finite",
        ),
        (changed(unembed__W_U=lambda a: a.astype(int)), "unembed.W_U holds int64"),
        (changed(unembed__W_U=lambda a: a.astype(complex)), "unembed.W_U holds complex128"),
        (changed(pos_embed__W_pos=lambda a: np.ones((2**40 + 1, 0))), "pos_embed.W_pos is empty"),
    ],
)
def test_arrays_that_are_no_model_are_named(arrays, said):
    with pytest.raises(ValueError, match=said) as error:
        from_torch(arrays)
    assert "\n" not in str(error.value)


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_reading_a_malicious_file_runs_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    proof = tmp_path / "proof"
    torch.save({"embed.W_E": Malicious(proof)}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    np.savez(tmp_path / "object.npz", **{"embed.W_E": np.array([Malicious(proof)], dtype=object)})
    for name in ("new.pt", "old.pt", "object.npz"):
        with pytest.raises(ValueError, match=f"{name} is not") as error:
            read_arrays(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not proof.exists()
    torch.load(tmp_path / "new.pt", weights_only=False)
    assert proof.exists()  # the file would have run


def test_a_torch_file_gives_its_arrays(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = published(VARIANTS["everything"])
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, tmp_path / "model.pt")
    assert_equal(read_arrays(tmp_path / "model.pt"), arrays)
    half = {name: torch.tensor(array).bfloat16() for name, array in arrays.items()}
    torch.save(half, tmp_path / "half.pt")
    assert from_torch(read_arrays(tmp_path / "half.pt"))[0].config == VARIANTS["everything"]
    content = (tmp_path / "model.pt").read_bytes()
    for name, bad in {
        "cut.pt": content[: len(content) // 2],
        "text.pt": b"no model",
        "empty.pt": b"",
    }.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=f"{name} is not a PyTorch state_dict"):
            read_arrays(tmp_path / name)
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="something else than a state_dict"):
        read_arrays(tmp_path / "list.pt")


def test_an_npz_file_gives_its_arrays(tmp_path):
    arrays = published(VARIANTS["plain"])
    np.savez(tmp_path / "model.npz", **arrays)
    assert_equal(read_arrays(tmp_path / "model.npz"), arrays)
    content = (tmp_path / "model.npz").read_bytes()
    one_array = io.BytesIO()
    np.save(one_array, np.ones(3))
    bad_files = {
        "cut.npz": content[:-100],
        "text.npz": b"x",
        "empty.npz": b"",
        "one.npz": one_array.getvalue(),
    }
    for name, bad in bad_files.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=f"{name} is not an .npz file"):
            read_arrays(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere.npz"):
        read_arrays(tmp_path / "nowhere.npz")
