"""What carries order: exchanges inside SEP, against what they must do and against the published numbers."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import SMALL, VARIANTS, random_model
from test_reference import REFERENCE

from orderscale_jax import load_pretrained
from orderscale_jax.analysis import exchange_in_model, intervene, observe, what_carries_order
from orderscale_jax.analysis.order import is_in_positions, random_units, tabulate_order
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
    assert min(reversed_by["positions"], reversed_by["positions_of_reversed"]) > 0.7
    assert max(reversed_by["embeddings"], reversed_by["embeddings_of_reversed"]) < 0.08
    assert max(reversed_by["other_digits"], reversed_by["other_positions"], reversed_by["same_larger"]) < 0.06
    assert set(found.random_vectors) == set(found.exchange) - {"reversed_list"}
    for name, control in found.random_vectors.items():
        assert control.length == pytest.approx(found.exchange[name].length) and control.reversed < 0.06
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


def _sep(model, lists):
    """What SEP holds after layer 0, [B, D]."""
    return np.asarray(model(lists, trace=True)[1].residuals[1, :, 2], float)


def test_each_exchange_gives_sep_the_weights_it_is_named_for(seen, found):
    """SEP put together anew, from weights that are written out here, and set in the running model."""
    differ, alpha, P = _parts(seen)
    E = np.asarray(seen.model.embed.W_E[...], float)
    backwards = observe(seen.model, seen.lists[:, ::-1]).sep_reads[0, :, 0].astype(float)
    (a1, a2), (b1, b2), half = alpha.T, backwards.T, np.full(len(alpha), 0.5)
    weights = {  # of E[d1], E[d2], P_1, P_2; the reversed list reads d2 first
        "positions_of_reversed": (a1, a2, b1, b2),
        "embeddings_of_reversed": (b2, b1, a1, a2),
        "alphas": (a2, a1, a2, a1),
        "positions": (a1, a2, a2, a1),
        "embeddings": (a2, a1, a1, a2),
        "even_positions": (a1, a2, half, half),
        "even_embeddings": (half, half, a1, a2),
        "positions_even_embeddings": (half, half, a2, a1),
    }
    others = {"reversed_list", "same_larger", "other_larger", "other_digits", "other_positions"}
    assert set(weights) == set(found.exchange) - others
    own, at_sep = _sep(seen.model, seen.lists), np.zeros((3, 5), bool)
    at_sep[1, 2] = True
    for name, (e1, e2, p1, p2) in weights.items():
        parts = zip(
            (e1 - a1, e2 - a2, p1 - a1, p2 - a2), (E[seen.lists[:, 0]], E[seen.lists[:, 1]], P[0], P[1]),
            strict=True,
        )  # fmt: skip
        residuals = np.zeros((3, len(alpha), *P.shape), np.float32)
        residuals[1, :, 2] = own + sum(weight[:, None] * vectors for weight, vectors in parts)
        said = intervene(seen, residuals=residuals, residuals_at=at_sep).predictions[differ]
        wanted, effect = seen.lists[differ], found.exchange[name]
        assert effect.reversed == pytest.approx((said == wanted[:, ::-1]).all(1).mean(), abs=0.006), name
        assert effect.right == pytest.approx((said == wanted).all(1).mean(), abs=0.006), name
        moved = np.linalg.norm(residuals[1, :, 2] - own, axis=-1)[differ].mean()
        assert effect.length == pytest.approx(moved, rel=1e-4), name


def test_weights_of_another_list_are_of_one_with_the_wanted_alpha_larger(seen, found):
    _, alpha, P = _parts(seen)
    first = alpha[:, 0] > alpha[:, 1]
    gaps = np.abs(alpha[:, None, 0] - alpha[None, :, 0])  # the weights sum to 1, so only P_1 - P_2 is left
    for name, pool in (("same_larger", first[:, None] == first), ("other_larger", first[:, None] != first)):
        np.fill_diagonal(pool, False)
        expected = gaps[pool].mean() * np.linalg.norm(P[0] - P[1])
        assert found.exchange[name].length == pytest.approx(expected, rel=0.15), name
    assert found.exchange["same_larger"].reversed < 0.06 < 0.3 < found.exchange["other_larger"].reversed


def test_a_list_without_such_another_stays_as_it_is(seen):
    _, alpha, _ = _parts(seen)
    chosen = np.flatnonzero(alpha[:, 0] > alpha[:, 1])[:3]
    few = what_carries_order(observe(seen.model, seen.lists[chosen]))
    assert (few.exchange["other_larger"].unchanged, few.exchange["other_larger"].length) == (1, 0)
    assert few.exchange["same_larger"].length > 0


def test_controls_have_the_directions_of_other_digits_and_positions(seen, found):
    differ, alpha, P = _parts(seen)
    E = np.asarray(seen.model.embed.W_E[...], float)
    length = np.abs(alpha[:, 1] - alpha[:, 0]) * np.linalg.norm(P[0] - P[1])
    d1, d2 = (seen.lists.T + 1) % 100
    directions = {
        "other_digits": E[d1] - E[d2],
        "other_positions": np.sign(alpha[:, 1:] - alpha[:, :1]) * (P[2] - P[3]),
    }
    for name, vectors in directions.items():
        lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
        added = np.zeros((2, len(alpha), *P.shape), np.float32)
        added[0, :, 2] = vectors * (length / lengths)[:, None]
        said = intervene(seen, added=added).predictions[differ]
        assert found.exchange[name].right == (said == seen.lists[differ]).all(1).mean(), name


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
        assert same == (name not in ("same_larger", "other_larger")), name
    assert all(effect != other.random_vectors[name] for name, effect in found.random_vectors.items())


def test_alpha_is_a_logistic_function_of_two_scalars(seen, found):
    assert found.fit_error < 1e-6 and abs(found.g.mean()) < 1e-12
    d1, d2 = np.triu_indices(100, 1)
    pairs = np.stack([d1, d2], 1).astype(np.int32)
    alphas = [observe(seen.model, lists).sep_reads[0, :, 0] for lists in (pairs, pairs[:, ::-1])]
    larger = [alpha[:, 0] > alpha[:, 1] for alpha in alphas]
    assert found.same_digit_larger == pytest.approx((larger[0] != larger[1]).mean(), abs=1e-3)


def test_gaps_count_every_list(seen, found):
    assert found.gap_lists.sum() == 400 and found.all_lists.sum() == 10_000
    assert (np.diff(found.all_accuracy[:4]) > 0).all()
    _, alpha, _ = _parts(seen)
    close = np.abs(alpha[:, 0] - alpha[:, 1]) < 0.02
    assert found.by_gap()[0] == {
        "from": 0.0,
        "to": 0.02,
        "lists": close.sum(),
        "lists_right": seen.list_correct[close].mean(),
        "all": found.all_lists[0],
        "all_right": found.all_accuracy[0],
    }


def test_where_there_are_too_many_lists_only_those_observed_are_counted():
    config = dataclasses.replace(VARIANTS["plain"], n_digits=150)
    lists = np.random.default_rng(0).integers(0, 150, (40, 2)).astype(np.int32)
    found = what_carries_order(observe(random_model(config), lists))
    assert found.all_lists is None and found.gap_lists.sum() == 40
    assert found.by_gap()[0]["all"] is None and "0.5 to 1" in found.table()


def effects(**reversed_by):
    """What `tabulate_order` gives, as far as the rule reads it."""
    shares = {"reversed_list": 0.9, "positions": 0.6, "positions_of_reversed": 0.6, "embeddings": 0.09}
    shares |= dict.fromkeys(("embeddings_of_reversed", "random", "other_digits", "other_positions"), 0.09)
    shares |= reversed_by
    exchange = {name: {"reversed": share} for name, share in shares.items()}
    return {"exchange": exchange, "random_vectors": {"positions": exchange.pop("random")}}


@pytest.mark.parametrize(
    "name, beyond",
    [
        ("positions", 0.59),
        ("positions_of_reversed", 0.59),
        ("embeddings", 0.1),
        ("embeddings_of_reversed", 0.1),
        ("random", 0.1),
        ("other_digits", 0.1),
        ("other_positions", 0.1),
    ],
)
def test_the_rule_ends_where_it_says(name, beyond):
    assert is_in_positions(effects()) and not is_in_positions(effects(**{name: beyond}))


def test_where_nothing_is_reversed_there_is_nothing_to_explain():
    names = ("reversed_list", "positions", "positions_of_reversed", "embeddings", "embeddings_of_reversed")
    nothing = dict.fromkeys((*names, "random", "other_digits", "other_positions"), 0.0)
    assert not is_in_positions(effects(**nothing))
    low = nothing | dict.fromkeys(names[:3], 0.49)
    assert not is_in_positions(effects(**low))
    assert is_in_positions(effects(**low | {"reversed_list": 0.5}))


def test_random_directions_differ_from_list_to_list(seen, found):
    # the mean of directions that are the same for all lists would be as long as one of them
    differ, alpha, P = _parts(seen)
    rows = random_units(10, seen.lists.shape[0], P.shape[1], 0)
    assert rows.shape == (10, len(seen.lists), 64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1)
    assert np.linalg.norm(rows.mean(1), axis=-1).max() < 0.2
    effect = found.random_vectors["positions"]
    added = np.zeros((2, len(alpha), *P.shape), np.float32)
    added[0, :, 2] = (
        np.abs(alpha[:, 1:] - alpha[:, :1])
        * np.linalg.norm(P[0] - P[1])
        * rows[1 + list(found.random_vectors).index("positions")]
    )
    said = intervene(seen, added=added).predictions[differ]
    assert effect.right == (said == seen.lists[differ]).all(1).mean()
    assert effect.repeated == (said[:, 0] == said[:, 1]).mean()


def test_results_are_plain(found):
    said = tabulate_order(found)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["exchange"]["reversed_list"]["length"] is None and len(said["g"]) == 100
    assert "SEP of the reversed list" in found.table() and "0.5 to 1" in found.table()


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
    seen = observe(random_model(VARIANTS["plain"]), np.array([[0, 1]], np.int32))
    for seed in (-1, 1.5, None, 2**40):
        with pytest.raises(UserError, match="seed must be a whole number"):
            what_carries_order(seen, seed=seed)
    for wrong in ({}, None, what_carries_order(seen), {"exchange": {}}):
        with pytest.raises(UserError, match="must be what tabulate_order gives"):
            is_in_positions(wrong)
    with pytest.raises(UserError, match="must be an Order"):
        tabulate_order(seen)
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
    assert is_in_positions(tabulate_order(found))
    assert found.same_digit_larger == pytest.approx(0.93, abs=5e-3)
    assert found.all_accuracy[0] == pytest.approx(0.39, abs=5e-3) and (found.all_accuracy[4:] >= 0.999).all()
