"""The shipped models and the published split give what an independent program says; nothing else is needed.

`fixtures/make_shipped.py` tells where the numbers come from.
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from orderscale_jax import TaskConfig, load_pretrained, make_split
from orderscale_jax.analysis import ablate_edges
from orderscale_jax.cli import configuration
from orderscale_jax.config import check_config, model_config, task_config, train_config
from orderscale_jax.model import scales

SAID = json.loads((Path(__file__).parent / "fixtures" / "shipped.json").read_text())


def test_the_split():
    split = make_split(TaskConfig())
    assert hashlib.sha256(split.train.tobytes()).hexdigest() == SAID["train_sha256"]
    assert split.validation[:3].tolist() == SAID["models"]["two_layer"]["lists"]


@pytest.fixture(scope="module", params=SAID["models"])
def case(request):
    model, _ = load_pretrained(request.param)
    return model, SAID["models"][request.param]


@pytest.mark.parametrize("name", SAID["models"])
def test_their_configurations_can_be_trained(name):
    _, config = load_pretrained(name)
    check_config(config)
    made_by = configuration.load(name)
    for part in (task_config, model_config, train_config):
        assert part(config) == part(made_by)


def test_logits_in_both_forms(case):
    model, said = case
    lists = np.array(said["lists"])
    for logits in (jax.jit(lambda x: model(x))(lists), jax.jit(lambda x: scales.logits(model, x))(lists)):
        np.testing.assert_allclose(logits, said["logits"], rtol=1e-5, atol=1e-3)  # of up to 600


def test_every_live_edge(case):
    model, said = case
    found = ablate_edges(model, make_split(TaskConfig()).validation, "zero")
    assert found.accuracy == pytest.approx(said["accuracy"], abs=1e-3)
    labels = {
        model.config.graph.label(edge): x for edge, x in zip(found.edges, found.accuracies, strict=True)
    }
    for label, accuracy in said["without"].items():
        assert labels[label] == pytest.approx(accuracy, abs=1e-3), label
