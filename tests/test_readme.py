"""What the README and docs/ say about code can be done, and what the README says of models is measured."""

import ast
import importlib
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from orderscale_jax import TaskConfig, analysis, load_pretrained, make_split
from orderscale_jax.checkpoint import PRETRAINED, named_arrays
from orderscale_jax.report.published import published_checkpoints

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = [
    (page, link)
    for page in PAGES
    for link in sorted(set(re.findall(r"(?:\]\(|(?:src|href)=\")([^:)\"]+)[)\"]", page.read_text("utf-8"))))
]


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


def cells(first: str) -> list[str]:
    """The cells of the row of a table in the README that begins with `first`, without that one."""
    (row,) = (line for line in README.replace("*", "").splitlines() if line.startswith(f"| {first} |"))
    return row.strip("| ").split(" | ")[1:]


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", text)]


@pytest.mark.parametrize(("column", "name"), [(0, "two_layer"), (1, "two_layer_published")])
def test_its_table_is_that_of_the_shipped_models(column, name):
    assert "| two layers | `two_layer` | `two_layer_published` |" in README
    model, _ = load_pretrained(name)
    split = make_split(TaskConfig())
    lists = split.validation
    seen = analysis.observe(model, lists)
    cuts = analysis.ablate_edges(model, lists, "zero")
    lost = 100 * (cuts.accuracy - cuts.accuracies)
    critical = np.flatnonzero(lost > 1)
    first = "points lost without SEP←d1, SEP←d2", "points lost without o1←SEP, o2←SEP, o2←o1"
    told = [x for row in first for x in numbers(cells(row)[column])]
    np.testing.assert_allclose(told, lost[critical], atol=0.0501)
    difference = analysis.decompose_difference(seen)
    measured = {
        "outputs right, validation lists": 100 * seen.accuracy,
        "lists entirely right, validation lists": 100 * seen.sequence_accuracy,
        "lists entirely right, training lists": 100 * analysis.observe(model, split.train).sequence_accuracy,
        "outputs right with mean patterns": 100 * analysis.attention_statistics(seen).mean_pattern_accuracy,
        "o2 right with alpha_1 = 1, alpha_2 = 0 in their difference": 100
        * difference.o2_accuracy_with_alpha[1, 0],
        "lists reversed by exchanging alpha_1 and alpha_2": 100
        * analysis.exchange_in_model(seen).both_reversed,
    }
    for row, value in measured.items():
        (said,) = numbers(cells(row)[column])
        digits = len(cells(row)[column].partition(".")[2].rstrip(" %"))
        assert said == pytest.approx(value, abs=0.501 * 10.0**-digits), row
    (said,) = numbers(cells("two equations for the logits, largest difference to the model")[column])
    assert said / 10 < max(analysis.closed_form(seen).max_abs_diff) < said * 10
    assert numbers(cells("critical edges (cutting one costs over 1 point)")[column]) == [len(critical), 13]


def test_its_table_tells_of_the_published_checkpoint_what_its_reference_does():
    published = published_checkpoints()["two_layer"]
    lost = [-100 * edge["delta"] for edge in published["ablation"]["zero"]["edges"]]
    measured = {
        "outputs right, validation lists": [100 * published["val"]["accuracy"]],
        "lists entirely right, validation lists": [100 * published["val"]["sequence_accuracy"]],
        "points lost without SEP←d1, SEP←d2": [x for x in lost if x > 1][:2],
        "points lost without o1←SEP, o2←SEP, o2←o1": [x for x in lost if x > 1][2:],
        "outputs right with mean patterns": [100 * published["mean_pattern_accuracy"]],
        "lists reversed by exchanging alpha_1 and alpha_2": [
            100 * published["alpha_swap_full_model"]["both_reversed"]
        ],
        "lists reversed by exchanging the weights of P_1 and P_2": [
            100 * published["order"]["exchange"]["positions"]["reversed"]
        ],
    }
    for row, values in measured.items():
        np.testing.assert_allclose(numbers(cells(row)[2]), values, atol=0.0501, err_msg=row)


def test_it_says_what_turns_lists_of_the_shipped_model_round():
    model, _ = load_pretrained("two_layer")
    lists = make_split(TaskConfig()).validation
    seen, of_reversed = (analysis.observe(model, x) for x in (lists, lists[:, ::-1]))
    P, E = (np.asarray(x) for x in (model.pos_embed.W_pos[:2], model.embed.W_E[...][lists]))
    (a1, a2), (r1, r2) = ((x.sep_reads[0, :, 0].T[:, :, None]) for x in (seen, of_reversed))
    differ = lists[:, 0] != lists[:, 1]

    def reversed_by(vector):
        added = np.zeros((2, len(lists), 5, model.config.d_model), np.float32)
        added[0, :, 2] = vector
        answers = analysis.intervene(seen, added=added).predictions
        return 100 * (answers == lists[:, ::-1]).all(1)[differ].mean()

    positions, digits = (r1 - a1) * P[0] + (r2 - a2) * P[1], (r2 - a1) * E[:, 0] + (r1 - a2) * E[:, 1]
    measured = {
        "SEP of the reversed list, the reference": reversed_by(positions + digits),
        "only P_1 and P_2 weighted as there": reversed_by(positions),
        "only E[d1] and E[d2] weighted as there": reversed_by(digits),
    }
    for row, value in measured.items():
        assert numbers(cells(row)[0])[0] == pytest.approx(value, abs=0.0501), row
    exchanged = reversed_by((a2 - a1) * (P[0] - P[1]))
    assert numbers(cells("lists reversed by exchanging the weights of P_1 and P_2")[0])[0] == pytest.approx(
        exchanged, abs=0.0501
    )
    assert f"**position vectors** alone reverses {exchanged:.0f} %" in " ".join(README.split())


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda x: getattr(x, "name", x))
def test_what_it_links_to_exists(page, link):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    if anchor and target.suffix == ".md":
        headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", x.lower()).replace(" ", "-") for x in headings}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, folders as one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "orderscale_jax":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("orderscale_jax."):
            names.add(node.module.split(".")[1])
    return names


def test_modules_import_what_stands_before_them():
    package, text = ROOT / "orderscale_jax", (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (chain,) = re.findall(r"^`(errors →.*?)`", text, re.MULTILINE | re.DOTALL)
    before = set()
    for stage in chain.split("→"):
        modules = {name.strip() for name in stage.split(",")}
        for module in modules:
            folder = package / module
            for file in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
                assert imported(file) - {module} <= before, file
        before |= modules
    there = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/*.py")
    }
    assert before == there - {"__init__", "__main__"}


def test_what_notices_an_old_file_exists():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tests = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 5 and all(f"def {name}(" in tests for name in named)


def test_every_promise_names_its_tests():
    text = (ROOT / "docs" / "robustness.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    tests = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or set(row) <= set("| -"), row
        assert all(f"def {name}(" in tests for name in named), row


def test_the_glossary_explains_each_word_once():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    terms = re.findall(r"^\*\*(.+?)\.\*\* \S", glossary, re.MULTILINE)
    assert 20 <= len(terms) == len(set(terms))
    assert {"SEP", "alpha", "beta", "Residual stream", "Edge", "Logit lens", "Shapley value"} <= set(terms)


def test_every_command_is_in_its_table():
    from orderscale_jax.cli.commands import COMMANDS

    assert set(re.findall(r"^\| `orderscale ([\w-]+)", README, re.MULTILINE)) >= set(COMMANDS)


def test_papers_and_version_are_cited_as_in_its_file():
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    citing = (ROOT / "docs" / "citing.md").read_text("utf-8")
    for page in (README, citing.partition("## This software")[0]):
        for field in ("title", "url"):
            values = re.findall(rf"^ +{field} += {{(.*)}},?$", page, re.MULTILINE)
            assert values and all(value in cited for value in values)
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert f"\nversion: {version}\n" in cited and f"version = {{{version}}}" in citing


@pytest.mark.parametrize(
    "package", ["", ".model", ".analysis", ".circuits", ".sae", ".figures", ".report", ".explorer"]
)
def test_every_public_name_is_on_the_api_page(package):
    name = f"orderscale_jax{package}"
    module = importlib.import_module(name)
    names = getattr(module, "__all__", ["explorer_html"])
    _, _, section = (ROOT / "docs" / "api.md").read_text("utf-8").partition(f"\n## {name}\n")
    headings = re.findall(r"^### (\w+)$", section.partition("\n## ")[0], re.MULTILINE)
    assert set(names) <= set(headings)
    assert module.__doc__.splitlines()[0] in section


def test_the_api_page_is_that_of_the_docstrings():
    pytest.importorskip("pdoc", reason="needs the extra `docs`")
    made = runpy.run_path(str(ROOT / "docs" / "api.py"))["page"]()
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == made, "run `python docs/api.py`"
