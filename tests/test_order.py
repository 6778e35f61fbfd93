"""What carries order: exchanges inside SEP, against what they must do and against the published numbers."""

import json

import numpy as np
import pytest
from conftest import SMALL, VARIANTS, random_model
from test_reference import REFERENCE

from orderscale_jax import load_pretrained
from orderscale_jax.analysis import exchange_in_model, intervene, observe, what_carries_order
from orderscale_jax.analysis.order import random_units, tabulate_order
from orderscale_jax.convert import from_torch, read_arrays
from orderscale_jax.errors import UserError
from orderscale_jax.model import ModelConfig
from orderscale_jax.task import TaskConfig, make_split

LISTS = make_split(TaskConfig()).validation


@pytest.fixture(scope="module")
def seen():
    return observe(load_pretrained("two_layer")[0], LISTS[:400])


@pytest.fixture(scope="module")
def found(seen):
    return what_carries_order(seen)


def test_both_weights_exchanged_are_the_alphas_exchanged(seen, found):
    assert found.exchange["alphas"].reversed == exchange_in_model(seen).both_reversed
    assert found.n_lists == exchange_in_model(seen).n_lists


def test_the_reversed_lists_own_sep_is_what_reversed_lists_say(seen, found):
    # outputs see nothing but SEP, and what they hold themselves is the same for every list
    backwards = observe(seen.model, seen.lists[:, ::-1])
    differ = seen.lists[:, 0] != seen.lists[:, 1]
    assert found.exchange["reversed_list"].reversed == backwards.list_correct[differ].mean()


def test_nothing_added_changes_nothing(seen, found):
    differ = seen.lists[:, 0] != seen.lists[:, 1]
    assert found.intact.right == seen.list_correct[differ].mean() and found.intact.unchanged == 1
    for effect in (*found.scaling[0.0], *found.steering[0.0]):
        assert (effect.unchanged, effect.length) == (1, 0)
    assert found.scaling[1.0][0] == found.exchange["positions"]


def test_positions_reverse_and_the_controls_do_not(found):
    reversed_by = {name: effect.reversed for name, effect in found.exchange.items()}
    assert reversed_by["positions"] > 0.7 and reversed_by["embeddings"] < 0.06
    assert max(reversed_by["random_directions"], reversed_by["random_directions_embeddings"]) < 0.06
    assert reversed_by["random_weights"] < 0.4
    lengths = {name: effect.length for name, effect in found.exchange.items()}
    assert lengths["random_directions"] == pytest.approx(lengths["positions"])
    assert lengths["random_directions_embeddings"] == pytest.approx(lengths["embeddings"])
    for along, random in (*found.steering.values(), *found.scaling.values()):
        assert along.length == pytest.approx(random.length) and random.reversed < 0.06
    assert max(found.scaling, key=lambda s: found.scaling[s][0].reversed) == 1.0


def _parts(seen):
    differ = seen.lists[:, 0] != seen.lists[:, 1]
    alpha = seen.sep_reads[0, :, 0].astype(float)
    P = np.asarray(seen.model.pos_embed.W_pos[...], float)
    return differ, alpha, P


def test_doses_point_towards_the_reversed_list(seen, found):
    small = found.steering[0.25]
    assert small[0].reversed > 0.2 and small[1].reversed < 0.06
    away = [found.scaling[s][0].reversed for s in found.scaling if s < 0]
    assert len(away) > 0 and max(away) < 0.03


def test_random_weights_are_those_of_other_lists(seen, found):
    differ, alpha, P = _parts(seen)
    others = alpha[np.random.default_rng(0).permutation(len(alpha))]
    gaps = np.abs(others - alpha)[differ, 0]  # the two weights sum to 1, so only P_1 - P_2 is left
    control = found.exchange["random_weights"]
    length = np.linalg.norm(P[0] - P[1])
    assert 0.5 * gaps.mean() * length < control.length < 2 * gaps.mean() * length
    assert 0.1 < control.reversed < 0.4 and control.right < found.intact.right - 0.3


def test_lengths_and_unchanged_are_of_lists_with_two_digits(seen, found):
    differ, alpha, P = _parts(seen)
    delta = alpha[:, 1] - alpha[:, 0]
    positions = found.exchange["positions"]
    expected = np.abs(delta[differ]).mean() * np.linalg.norm(P[0] - P[1])
    np.testing.assert_allclose(positions.length, expected, rtol=1e-9)
    added = np.zeros((2, len(delta), *P.shape), np.float32)
    added[0, :, 2] = delta[:, None] * (P[0] - P[1])
    said = intervene(seen, added=added).predictions
    assert positions.unchanged == (said == seen.predictions).all(1)[differ].mean()


def test_the_seed_draws_the_controls_and_nothing_else(seen, found):
    other = what_carries_order(seen, seed=1)
    for name, effect in found.exchange.items():
        same = repr(effect) == repr(other.exchange[name])  # NaN equals itself here
        assert same == (not name.startswith("random")), name


def test_alpha_is_a_logistic_function_of_two_scalars(seen, found):
    assert found.fit_error < 1e-6 and abs(found.g.mean()) < 1e-12
    d1, d2 = np.triu_indices(100, 1)
    pairs = np.stack([d1, d2], 1).astype(np.int32)
    alphas = [observe(seen.model, lists).sep_reads[0, :, 0] for lists in (pairs, pairs[:, ::-1])]
    larger = [alpha[:, 0] > alpha[:, 1] for alpha in alphas]
    assert found.same_digit_larger == pytest.approx((larger[0] != larger[1]).mean(), abs=1e-3)


def test_gaps_count_every_list(found):
    assert found.gap_lists.sum() == 10_000
    assert (np.diff(found.gap_accuracy[:4]) > 0).all()


def test_random_directions_differ_from_list_to_list(seen, found):
    # the mean of directions that are the same for all lists would be as long as one of them
    differ, alpha, P = _parts(seen)
    rows = random_units(seen.lists.shape[0], P.shape[1], 0)
    assert rows.shape == (3, len(seen.lists), 64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1)
    assert np.linalg.norm(rows.mean(1), axis=-1).max() < 0.2
    effect = found.exchange["random_directions"]
    added = np.zeros((2, len(alpha), *P.shape), np.float32)
    added[0, :, 2] = np.abs(alpha[:, 1:] - alpha[:, :1]) * np.linalg.norm(P[0] - P[1]) * rows[0]
    said = intervene(seen, added=added).predictions[differ]
    assert effect.right == (said == seen.lists[differ]).all(1).mean()
    assert effect.repeated == (said[:, 0] == said[:, 1]).mean()


def test_results_are_plain(found):
    said = tabulate_order(found)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["exchange"]["reversed_list"]["length"] is None and len(said["g"]) == 100
    assert "reversed list" in found.table() and "0.5 to 1" in found.table()


@pytest.mark.parametrize(
    "config", [ModelConfig(**SMALL, n_layers=3), VARIANTS["layer norm"], ModelConfig(**SMALL, list_len=3)]
)
def test_other_models_are_refused(config):
    lists = np.zeros((3, config.list_len), np.int32)
    with pytest.raises(UserError, match="the two equations describe"):
        what_carries_order(observe(random_model(config), lists))


def test_equal_digits_have_no_order():
    with pytest.raises(UserError, match="two different digits"):
        what_carries_order(observe(random_model(VARIANTS["plain"]), np.zeros((3, 2), np.int32)))
    with pytest.raises(UserError, match="Observation"):
        what_carries_order(random_model(VARIANTS["plain"]))


@pytest.mark.skipif(not (REFERENCE / "2layer_100dig_64d_weights.npz").is_file(), reason=f"not in {REFERENCE}")
def test_the_published_checkpoint():
    model, _ = from_torch(read_arrays(REFERENCE / "2layer_100dig_64d_weights.npz"))
    found = what_carries_order(observe(model, LISTS))
    reversed_by = {name: effect.reversed for name, effect in found.exchange.items()}
    assert reversed_by["alphas"] == pytest.approx(0.184, abs=2e-3)
    assert reversed_by["positions"] == pytest.approx(0.76, abs=5e-3)
    assert reversed_by["embeddings"] == pytest.approx(0.0146, abs=3e-3)
    assert reversed_by["reversed_list"] == pytest.approx(0.894, abs=2e-3)
    assert found.same_digit_larger == pytest.approx(0.93, abs=5e-3)
    assert found.gap_accuracy[0] == pytest.approx(0.39, abs=5e-3) and (found.gap_accuracy[4:] >= 0.999).all()
