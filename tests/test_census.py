"""The census: what rows of models have in common, and a command that goes on where it was killed."""

import json

import numpy as np
import pytest
from conftest import VARIANTS, random_model

from orderscale_jax import census
from orderscale_jax.circuits import circuit_table
from orderscale_jax.errors import UserError

LISTS = np.indices((5, 5), np.int32).reshape(2, -1).T


def row(minimal, resampled=(), shapley=(0.5, 0.5)):
    return {
        "accuracy": 1.0,
        "minimal": [list(x) for x in minimal],
        "shapley": list(shapley),
        "resampled": [[list(x) for x in circuits] for circuits in resampled],
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
    assert of_cuts == {"jaccard": pytest.approx((1 + 1 / 3) / 2), "closest": 1, "shared": 1, "pairs": 2}
    assert found["most_frequent"]["models"] == 1
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
    found = census.examine(model, LISTS, ["renormalize", "resample"], tolerance=0.02, n_resamples=3)
    assert json.loads(json.dumps(found)) == found and set(found) == {"renormalize", "resample"}
    for mode, said in found.items():
        values = circuit_table(model, LISTS, mode).values()
        enough = values >= values[-1] - 0.02 - 1e-9
        sizes = [len(circuit) for circuit in said["minimal"]]
        assert sizes == sorted(sizes) and len(said["resampled"]) == 3
        for circuit in said["minimal"]:
            index = sum(1 << i for i in circuit)
            assert enough[index] and not any(enough[index ^ 1 << i] for i in circuit)
        smallest = [x for x in said["minimal"] if len(x) == sizes[0]]
        accuracy = [values[sum(1 << i for i in x)] for x in smallest]
        assert accuracy == sorted(accuracy, reverse=True)


def test_rows_that_do_not_fit_are_refused():
    for rows in ([], [{"zero": row([[0]])}, {"mean": row([[0]])}]):
        with pytest.raises(UserError, match="same meanings of a cut"):
            census.summarize(rows)
