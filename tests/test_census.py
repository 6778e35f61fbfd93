"""The census: what rows of models have in common."""

import json

import numpy as np
import pytest
from conftest import VARIANTS, random_model

from orderscale_jax import census
from orderscale_jax.circuits import circuit_table, minimal_sets, shapley_values
from orderscale_jax.errors import UserError

LISTS = np.indices((5, 5), np.int32).reshape(2, -1).T


def row(minimal, resampled=(), shapley=(0.5, 0.5)):
    return {
        "accuracy": 1.0,
        "minimal": [list(x) for x in minimal],
        "shapley": list(shapley),
        "resampled": [[list(x) for x in circuits] for circuits in resampled],
        "redrawn": [[list(minimal[0])], [[9]]],
    }


def test_a_summary_by_hand():
    rows = [
        {"zero": row([[0, 1], [2, 3]], [[[0, 1]], [[0, 2]]]), "mean": row([[0, 1]])},
        {"zero": row([[0, 2]], [[[0, 2]], [[1, 3], [0, 2]]], (0.1, 0.9)), "mean": row([[2, 3], [0, 2]])},
    ]
    found = census.summarize(rows)["zero"]
    assert found["models"] == 2 and found["minimal"] == {"1": 1, "2": 1} and found["sizes"] == {"2": 3}
    # first circuits {0, 1} and {0, 2}; the closest pair is the same; none is shared
    assert found["between_seeds"] == {
        "jaccard": pytest.approx(1 / 3),
        "closest": 1 / 3,
        "shared": 0,
        "pairs": 1,
    }
    of_lists = found["between_resamples"]
    assert of_lists["pairs"] == 4 and of_lists["shared"] == 0.75
    assert of_lists["jaccard"] == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)
    assert of_lists["closest"] == pytest.approx((1 + 1 / 3 + 1 + 1) / 4)
    of_cuts = found["between_modes"]
    assert found["between_draws"] == {"jaccard": 0.5, "closest": 0.5, "shared": 0.5, "pairs": 4}
    assert of_cuts == {"jaccard": pytest.approx((1 + 1 / 3) / 2), "closest": 1, "shared": 1, "pairs": 2}
    assert found["most_frequent"] == {"circuit": [0, 1], "models": 1}  # the first of three as frequent
    np.testing.assert_allclose(found["shapley"], [0.3, 0.7])
    np.testing.assert_allclose(found["shapley_deviation"], [0.2, 0.2])
    assert census.summarize(rows[:1])["mean"]["between_seeds"]["jaccard"] is None
    assert census.jaccard([], []) == 1


def test_resampled_tables_are_tables_of_resampled_lists():
    model = random_model(VARIANTS["plain"])
    table = circuit_table(model, LISTS, "zero")
    drawn = np.random.default_rng(3).integers(0, len(LISTS), (4, len(LISTS)))
    found = census.resample(table, 4, 3)
    for values, chosen in zip(found, drawn, strict=True):
        np.testing.assert_allclose(values, circuit_table(model, LISTS[chosen], "zero").values(), atol=1e-9)


def test_a_model_is_examined():
    model = random_model(VARIANTS["plain"])
    found = census.examine(
        model, LISTS, ["renormalize", "resample"], tolerance=0.02, n_resamples=3, n_draws=2
    )
    assert json.loads(json.dumps(found)) == found and set(found) == {"renormalize", "resample"}
    for mode, said in found.items():
        values = circuit_table(model, LISTS, mode).values()
        enough = values >= values[-1] - 0.02 - 1e-9
        sizes = [len(circuit) for circuit in said["minimal"]]
        assert sizes == sorted(sizes)
        assert said["accuracy"] == values[-1]
        np.testing.assert_allclose(said["shapley"], shapley_values(values), atol=1e-12)
        table = circuit_table(model, LISTS, mode)
        for drawn, circuits in zip(census.resample(table, 3, 0), said["resampled"], strict=True):
            indices = [sum(1 << i for i in circuit) for circuit in circuits]
            assert set(indices) == set(minimal_sets(drawn >= drawn[-1] - 0.02 - 1e-9))
        assert len(said["redrawn"]) == 2 * (mode == "resample")
        for circuit in said["minimal"]:
            index = sum(1 << i for i in circuit)
            assert enough[index] and not any(enough[index ^ 1 << i] for i in circuit)
        smallest = [x for x in said["minimal"] if len(x) == sizes[0]]
        accuracy = [values[sum(1 << i for i in x)] for x in smallest]
        assert accuracy == sorted(accuracy, reverse=True)


def test_a_resampled_set_that_loses_just_the_tolerance_is_sufficient():
    found = 0
    for seed in range(6):
        table = circuit_table(random_model(VARIANTS["two heads"]), LISTS, "resample", seed=seed)
        values = census.resample(table, 40, seed)
        np.testing.assert_array_equal(values, np.rint(50 * values) / 50)  # bit for bit, 25 lists of two
        found += (values < values[:, -1:]).sum()
    assert found


def test_messages_are_drawn_anew():
    model = random_model(VARIANTS["plain"])
    (first, second) = census.examine(model, LISTS, ["resample"], n_resamples=0, n_draws=2)["resample"][
        "redrawn"
    ]
    for seed, said in ((1, first), (2, second)):
        assert census.examine(model, LISTS, ["resample"], seed=seed)["resample"]["minimal"] == said


def order(reversed_by, right):
    """What `tabulate_order` says of a model, with these shares for every change of SEP."""

    def effects(scale):
        share = {"reversed": scale * reversed_by, "right": right, "repeated": 0.5, "length": 2.0}
        return dict.fromkeys(("reversed_list", "positions", "positions_of_reversed"), share)

    exchange = effects(1)
    nothing = {"reversed": 0, "right": 1, "repeated": 0, "length": None}
    for name in ("embeddings", "embeddings_of_reversed", "other_digits", "other_positions"):
        exchange[name] = nothing
    gaps = [{"from": 0, "to": 1, "lists": 3, "lists_right": right, "all": 9, "all_right": None}]
    return {
        "intact": nothing,
        "exchange": exchange,
        "random_vectors": effects(0.05 if reversed_by < 0.9 else 0.5),
        "same_digit_larger": reversed_by,
        "accuracy_by_alpha_gap": gaps,
    }


def test_orders_are_summarised_by_hand():
    found = census.summarize_order([order(0.6, 0.5), order(0.8, 0.1), order(1.0, 0.0)])
    assert found["models"] == 3 and found["in_positions"] == 2  # the third's random vectors reverse half
    assert found["exchange"]["positions"]["reversed"] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    assert found["exchange"]["positions"]["right"] == pytest.approx([0, 0.05, 0.1, 0.3, 0.5])
    assert found["random_vectors"]["positions"]["reversed"] == pytest.approx([0.03, 0.035, 0.04, 0.27, 0.5])
    assert found["intact"]["right"] == [1] * 5 and found["intact"]["length"] == [None] * 5
    assert found["exchange"]["positions"]["length"] == [2] * 5
    assert found["same_digit_larger"] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    (gap,) = found["accuracy_by_alpha_gap"]
    assert (gap["from"], gap["to"], gap["all_right"]) == (0, 1, [None] * 5)
    assert gap["lists_right"] == pytest.approx([0, 0.05, 0.1, 0.3, 0.5])
    with pytest.raises(UserError, match="one model at least"):
        census.summarize_order([])
    for wrong in ([{}], [None], order(0.6, 0.5)):
        with pytest.raises(UserError, match="what tabulate_order gives"):
            census.summarize_order(wrong)


def test_rows_that_do_not_fit_are_refused():
    other_edges = [{"zero": row([[0]])}, {"zero": row([[0]], (), (0.5,))}]
    for rows in ([], None, [{}], {}, [{"zero": row([[0]])}, {"mean": row([[0]])}], other_edges):
        with pytest.raises(UserError, match="the same meanings of a cut and as many edges"):
            census.summarize(rows)


@pytest.mark.parametrize("wrong", [{"n_resamples": -1}, {"n_draws": 1.5}, {"n_resamples": True}])
def test_numbers_of_draws_are_whole(wrong):
    with pytest.raises(UserError, match="a whole number from 0 on"):
        census.examine(random_model(VARIANTS["plain"]), LISTS, ["zero"], **wrong)
    with pytest.raises(UserError, match="one meaning of a cut at least"):
        census.examine(random_model(VARIANTS["plain"]), LISTS, [])
    with pytest.raises(UserError, match="must be a CircuitTable"):
        census.resample(None, 3, 0)
