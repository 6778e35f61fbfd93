"""Published sparse autoencoders give their published numbers: every one in a folder of references.

The folder is `sae` in `$ORDERSCALE_REFERENCE` (see `test_reference.py`). `NAME.json` in it says what the SAE
in `NAME.pt` and `NAME_weights.npz` does. Which transformer it is of it does not say: that one of the folder
above whose mean SEP over the training lists is its `act_mean`.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_reference import REFERENCE

from orderscale_jax.convert import from_torch, read_arrays
from orderscale_jax.sae import import_sae, steer, study_sae, tabulate, view_sep
from orderscale_jax.sae.autoencoder import named_arrays
from orderscale_jax.sae.views import why_no_model
from orderscale_jax.task import TaskConfig

PLACE = REFERENCE / "sae"

# Between two correct implementations.
ERROR = 1e-4  # of MSE, explained variance, correlations, rates and cosines
L0 = 0.01
ACCURACY = 0.001
BINARISED = 0.002
LISTS = 15  # of those that are swapped at a scale of the grid
SAME_MEAN = 1e-4  # between act_mean and the mean SEP of the transformer's training lists


def _names() -> list:
    """The cases, or one that is skipped with the reason."""
    names = sorted(file.stem for file in PLACE.glob("*.json"))
    if not names:
        reason = f"there is no SAE in {PLACE}: set ORDERSCALE_REFERENCE to the reference data"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no reference")]
    return names


@pytest.fixture(scope="module")
def views():
    """SEP in every plain two-layer model of the folder above."""
    found = []
    for path in sorted(REFERENCE.glob("*_weights.npz")):
        model, _ = from_torch(read_arrays(path))
        if why_no_model(model) is None:
            found.append(view_sep(model, TaskConfig(n_digits=model.config.n_digits)))
    return found


@pytest.fixture(scope="module", params=_names())
def case(request, views):
    """An SAE: what is said of it, what is found of it, and where its files are."""
    said = json.loads((PLACE / f"{request.param}.json").read_text())
    sae, _ = import_sae(PLACE / f"{request.param}_weights.npz")
    mean = np.asarray(sae.act_mean[...], float)
    near = [view for view in views if view.sep.shape[1] == len(mean)]
    off = [np.abs(view.sep[view.group("training")].mean(0) - mean).max() for view in near]
    assert min(off, default=np.inf) < SAME_MEAN, "no transformer of the folder has this mean of SEP"
    study = study_sae(sae, near[int(np.argmin(off))])
    return SimpleNamespace(name=request.param, said=said, sae=sae, study=study, ours=tabulate(study))


def test_both_files_hold_the_same_sae(case):
    path = PLACE / f"{case.name}.pt"
    if not path.is_file():
        pytest.skip(f"there is no {path.name}")
    sae, _ = import_sae(path)
    assert sae.config == case.sae.config
    ours, theirs = named_arrays(sae), named_arrays(case.sae)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_fidelity(case):
    said, ours = case.said, case.ours
    assert ours["mse"] == pytest.approx(said["mse"], abs=ERROR)
    assert ours["explained_variance"] == pytest.approx(said["explained_variance"], abs=ERROR)
    assert ours["l0"] == pytest.approx(said["l0"], abs=L0)
    assert ours["dead"] == said["dead"]
    for kind in ("baseline", "patched"):
        assert said[kind]
        for group, shares in said[kind].items():
            assert ours[kind][group] == pytest.approx(shares, abs=ACCURACY), (kind, group)


def test_special_latents(case):
    ours, said = (sorted(found["special"]) for found in (case.ours, case.said))  # by index
    assert [index for index, *_ in ours] == [index for index, *_ in said]
    np.testing.assert_allclose(ours, said, rtol=0, atol=ERROR)
    if said:
        wanted = pytest.approx(case.said["cos_decoder_P1_minus_P2"], abs=ERROR)
        assert case.ours["cos_decoder_P1_minus_P2"] == wanted


def test_activations_made_on_or_off(case):
    said, ours = case.said, case.ours
    wanted = pytest.approx(said["graded_unordered_pair_right"], abs=BINARISED)
    assert ours["graded_unordered_pair_right"] == wanted
    for key, value in said["binarised"].items():
        assert ours["binarised"][key] == pytest.approx(value, abs=BINARISED), key
    if said["special"]:
        special = said["only_special_binarised"]
        assert ours["only_special_binarised"]["latent"] == special["latent"]
        assert ours["only_special_binarised"]["all"] == pytest.approx(special["all"], abs=BINARISED)


def test_lists_that_a_scale_swaps(case):
    if not case.said["special"]:
        pytest.skip(f"{case.name} has no special latent")
    said, ours = (found["swapped_by_scaling"] for found in (case.said, case.ours))
    assert (ours["latent"], ours["scales"]) == (said["latent"], said["scales"])
    assert ours["lists"] == pytest.approx(said["lists"], abs=LISTS)
    exact = steer(case.study.encoded, said["latent"]).n_reversed
    assert exact >= ours["lists"]  # a grid finds no more than there are


def test_reasons(case):
    said = case.said.get("swapped_by_scaling", {}).get("reasons", case.said.get("reasons"))
    if said is None:
        pytest.skip(f"{case.name} says no counts by reason")
    ours = case.ours["steering"]["reasons"]
    for reason, n in said.items():
        assert ours.get(reason, 0) == pytest.approx(n, abs=LISTS), reason
