"""What carries order: exchanges inside SEP, against what they must do and against the published numbers."""

import json

import numpy as np
import pytest
from conftest import SMALL, VARIANTS, random_model
from test_reference import REFERENCE

from orderscale_jax import load_pretrained
from orderscale_jax.analysis import exchange_in_model, observe, what_carries_order
from orderscale_jax.analysis.order import tabulate_order
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
    for effect in (found.scaling[0.0], *found.steering[0.0]):
        assert (effect.unchanged, effect.length) == (1, 0)
    assert found.scaling[1.0] == found.exchange["positions"]


def test_positions_reverse_and_the_controls_do_not(found):
    reversed_by = {name: effect.reversed for name, effect in found.exchange.items()}
    assert reversed_by["positions"] > 0.7 and reversed_by["embeddings"] < 0.06
    assert max(reversed_by["random_directions"], reversed_by["random_directions_embeddings"]) < 0.06
    assert reversed_by["random_weights"] < 0.4
    lengths = {name: effect.length for name, effect in found.exchange.items()}
    assert lengths["random_directions"] == pytest.approx(lengths["positions"])
    assert lengths["random_directions_embeddings"] == pytest.approx(lengths["embeddings"])
    for along, random in found.steering.values():
        assert along.length == pytest.approx(random.length) and random.reversed < 0.06
    assert max(found.scaling, key=lambda s: found.scaling[s].reversed) == 1.0


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
