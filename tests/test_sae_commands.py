"""The commands about sparse autoencoders do what was asked, or say in one sentence why not."""

import csv
import functools
import json

import numpy as np
import pytest
from conftest import random_model
from ml_collections import ConfigDict

from orderscale_jax.checkpoint import save_checkpoint
from orderscale_jax.cli import saes
from orderscale_jax.cli.configuration import call_file
from orderscale_jax.config import default_config
from orderscale_jax.errors import UserError
from orderscale_jax.model import ModelConfig
from orderscale_jax.sae import load_sae, store

OPTIONS = ["--width=12", "--k=2", "--batch_size=32", "--steps=30"]
GRID = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({
        "base": {"batch_size": 32, "steps": 30, "threshold_start": 5},
        "grid": {"width": (8, 12), "k": (1, 2)},
        "seeds": 2,
    })
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a plain model of few digits, one of three layers, and a grid."""
    place = tmp_path_factory.mktemp("saes")
    for name, n_layers in (("model", 2), ("deep", 3)):
        config = default_config()
        config.task.n_digits, config.model.d_model, config.model.n_layers = 8, 8, n_layers
        model = random_model(ModelConfig(d_model=8, n_digits=8, n_layers=n_layers))
        save_checkpoint(place / name, model, config)
    (place / "grid.py").write_text(GRID)
    return place


@pytest.fixture(scope="module")
def orderscale(place, forks):
    return functools.partial(forks.run, place=place)


def test_saes_are_trained_and_one_is_studied(orderscale, place):
    train = ["sae-train", "--checkpoint=model", "--workdir=new", "--seeds=2", "--threshold_start=5", *OPTIONS]
    answer = orderscale(*train)
    names = [f"model_batch_topk_w12_k2_lr0.001_seed{seed}" for seed in (0, 1)]
    assert answer.code == 0 and all(f"new/saes/{name}: MSE" in answer.out for name in names)
    arrays = [store.named_arrays(load_sae(place / "new" / "saes" / name)[0]) for name in names]
    assert not np.array_equal(arrays[0]["W_dec"], arrays[1]["W_dec"])
    assert orderscale(*train).out == answer.out  # and trains nothing again
    changed = orderscale(*train, "--aux=0")
    assert changed.code == 1 and "aux=0.03125 and not 0" in changed.err
    studied = orderscale("sae-analyze", f"--sae=new/saes/{names[0]}", "--checkpoint=model", "--output=study")
    assert studied.code == 0 and studied.out.strip().endswith("report.html")
    results = json.loads((place / "study" / "results.json").read_text())
    assert results["config"]["width"] == 12
    other = orderscale(
        "sae-analyze", f"--sae=new/saes/{names[0]}", "--checkpoint=two_layer", "--output=other"
    )
    assert other.code == 1 and "was trained on another model (model)" in other.err
    assert not (place / "other").exists()


def test_a_grid_is_trained_once_and_told(orderscale, place):
    sweep = ["sae-sweep", "--config=grid.py", "--checkpoint=model", "--workdir=swept"]
    told = orderscale(*sweep[:-1], "--dry_run")
    assert told.code == 0 and "8 SAEs (4 cells), 8 of them to train: 240 steps, about" in told.out
    assert not (place / "swept").exists()
    answer = orderscale(*sweep)
    assert answer.code == 0, answer.err
    rows, agreement = (
        list(csv.DictReader((place / "swept" / name).read_text().splitlines()))
        for name in ("results.csv", "seeds.csv")
    )
    assert [(row["k"], row["width"], row["seed"]) for row in rows] == [
        (k, width, seed) for k in "12" for width in ("8", "12") for seed in "01"
    ]
    assert len(agreement) == 4 and all(0 < float(row["pw_mcc"]) < 1 for row in agreement)
    assert {path.name for path in (place / "swept").glob("*.png")} == {"grid.png", "proxies.png"}
    before = (place / "swept" / "results.csv").read_bytes()
    assert orderscale(*sweep).code == 0 and (place / "swept" / "results.csv").read_bytes() == before
    more = orderscale(*sweep, "--seeds=3")
    assert more.code == 0 and len((place / "swept" / "results.csv").read_text().splitlines()) == 13


def test_a_published_file_is_imported(orderscale, place):
    generator = np.random.default_rng(0)
    arrays = {
        "encoder.weight": generator.normal(size=(12, 8)),
        "encoder.bias": np.zeros(12),
        "decoder.weight": generator.normal(size=(8, 12)),
        "b_dec": np.zeros(8),
        "threshold": np.float32(0.1),
        "k": np.int32(2),
        "act_mean": np.zeros(8),
    }
    np.savez(place / "theirs.npz", **arrays)
    answer = orderscale("sae-import", "--source=theirs.npz", "--output=imported")
    assert answer.code == 0 and answer.out.strip().endswith("imported: batch_topk, 12 latents, k 2")
    np.testing.assert_array_equal(
        store.named_arrays(load_sae(place / "imported")[0])["W_enc"],
        arrays["encoder.weight"].T.astype(np.float32),
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sae-train", "--workdir=x"], "--checkpoint is required"),
        (["sae-train", "--checkpoint=deep", "--workdir=x"], "this model has 3 layers"),
        (["sae-train", "--checkpoint=model", "--workdir=x"], "larger than the training set of 51 lists"),
        (["sae-train", "--checkpoint=model", "--workdir=x", "--family=gated"], "sae.family must be one of"),
        (["sae-train", "--checkpoint=model", "--workdir=x", "--k=200"], "sae.k=200 keeps more latents"),
        (
            ["sae-train", "--checkpoint=model", "--workdir=x", "--penalty=2"],
            "sae.penalty is for jumprelu and l1",
        ),
        (["sae-sweep", "--checkpoint=model", "--config=sae/none", "--dry_run"], "no grid of SAEs 'sae/none'"),
        (["sae-analyze", "--sae=none", "--checkpoint=model", "--output=x"], "there is no SAE at"),
        (["sae-analyze", "--sae=model", "--checkpoint=model", "--output=x"], "holds no sparse autoencoder"),
        (["analyze", "--checkpoint=SAE", "--output=x"], "is not a checkpoint of a model"),
        (["sae-import", "--source=grid.py", "--output=x"], "grid.py is not a PyTorch state_dict"),
        (["sae-import", "--source=none.pt", "--output=x"], "there is no file none.pt"),
        (["sae-import", "--source=a.npz", "--output=x", "--family=gated"], "--family=gated: there are"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_leaves_nothing(orderscale, place, arguments, words):
    arguments = [argument.replace("=SAE", f"={store.PRETRAINED / 'two_layer'}") for argument in arguments]
    answer = orderscale(*arguments)
    assert answer.code == 1 and words in answer.err and answer.err.count("\n") == 1, answer.err
    assert not (place / "x").exists()


def test_every_shipped_grid_is_one():
    for name, path in saes.shipped().items():
        jobs = saes.jobs(call_file(path), None, None, "two_layer")
        assert len({job.name for job in jobs}) == len(jobs), name
        said = path.read_text().split(" SAEs", 1)[0].removeprefix('"""').split(" ")[-1].replace(",", "")
        assert int(said) == len(jobs), name
    assert len(saes.jobs(call_file(saes.find("sae/full")), None, None, "x")) == 3 * 8 * 5 * 4 * 3


def test_a_grid_is_checked():
    for changes, words in (
        ({"base": {"depth": 3}}, "there is no option 'depth' of an SAE"),
        ({"grid": {"width": ()}}, "the axis width needs values"),
        ({"seeds": 0}, "seeds of a grid of SAEs must be a number from 1 on"),
        ({"axes": 1}, "unknown option axes"),
    ):
        config = call_file(saes.find("sae/reduced")).to_dict() | changes
        with pytest.raises(UserError, match=words):
            saes.jobs(ConfigDict(config), None, None, "x")
