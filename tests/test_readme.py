"""What the README says about code can be done."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from orderscale_jax import load_pretrained
from orderscale_jax.checkpoint import PRETRAINED, named_arrays

README = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_checkpoint_is_read_with_bare_orbax():
    (code,) = re.findall(r"<!-- bare orbax -->\n```python\n(.*?)```", README, re.DOTALL)
    assert "orderscale" not in code and "results/two_layer/training/checkpoint" in code
    found = {}
    exec(code.replace("results/two_layer/training/checkpoint", str(PRETRAINED / "two_layer")), found)
    model, config = load_pretrained("two_layer")
    assert found["options"]["model"]["n_layers"] == config.model.n_layers == 2
    ours = named_arrays(model)
    assert found["arrays"].keys() == ours.keys()
    jax.tree.map(np.testing.assert_array_equal, found["arrays"], ours)
    for name, shape in {"embed.W_E": (102, 64), "blocks.0.attn.W_Q": (1, 64, 64)}.items():
        assert found["arrays"][name].shape == shape and name in code


def test_its_first_lines_run(capsys):
    using, intervening = (code for code in PYTHON if "orbax" not in code)
    found = {}
    exec(using, found)
    table = capsys.readouterr().out
    assert "L1 o2<-o1" in table and f"{100 * found['result'].accuracy:.2f}" in table
    whole = np.asarray(found["logits"])
    exec(intervening, found)
    assert np.abs(np.asarray(found["logits"]) - whole).max() > 1


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^:)#]+)\)", README))))
def test_what_it_links_to_exists(path):
    assert (Path(__file__).parents[1] / path).exists()


def test_every_promise_names_its_tests():
    _, _, section = README.partition("## What survives what")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or set(row) <= set("| -"), row
        assert all(f"def {name}(" in tests for name in named), row
