"""The command `orderscale` does what was asked, or says in one sentence why not and leaves nothing behind."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import VARIANTS, random_model

from orderscale_jax import files
from orderscale_jax.checkpoint import load_checkpoint, load_pretrained, named_arrays, save_checkpoint
from orderscale_jax.cli import app
from orderscale_jax.cli.commands import COMMANDS
from orderscale_jax.cli.configuration import SHIPPED, find, shipped
from orderscale_jax.config import GROUPS, default_config, model_config, options
from orderscale_jax.convert import to_torch
from orderscale_jax.errors import UserError

SMALL = {
    "task.n_digits": 8,
    "model.d_model": 8,
    "train.batch_size": 16,
    "train.max_steps": 6,
    "train.eval_every": 3,
    "train.max_attempts": 1,
}
SMALL_FLAGS = [f"--config.{name}={value}" for name, value in (SMALL | {"model.n_layers": 1}).items()]
FILES = {
    "file": "something else",
    "warns.py": (
        "import logging\n"
        "from orderscale_jax.config import default_config\n"
        "def get_config():\n"
        "    logging.getLogger('orderscale_jax.checkpoint').warning('the state of step %d is damaged', 7)\n"
        "    return default_config()\n"
    ),
    "layers.py": (
        "from orderscale_jax.config import default_config\n"
        "def get_config(n_layers):\n"
        "    config = default_config()\n"
        "    config.model.n_layers = int(n_layers)\n"
        "    return config\n"
    ),
    "sweep.py": (
        "from orderscale_jax.config import default_config\n"
        "from orderscale_jax.training.sweep import sweep_config\n"
        "def get_config():\n"
        "    base = default_config()\n"
        f"    base.update_from_flattened_dict({ {k: v for k, v in SMALL.items() if 'attempts' not in k} })\n"
        "    base.model.n_layers = 1\n"  # compiles soon, and once for both cells
        "    return sweep_config(base, {'train.weight_decay': (0.0, 0.1)}, seeds=2)\n"
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("cli")
    for name, text in FILES.items():
        (place / name).write_text(text)
    return place


@pytest.fixture(scope="module")
def orderscale(place, forks):
    """`orderscale(*arguments)` runs the command in `place` and gives its `Answer`."""
    return functools.partial(forks.run, place=place)


TRAIN = ["train", "--config=two_layer", "--workdir=new/run"]


def fail(error):
    raise error


@pytest.mark.parametrize(
    "error", [ValueError("of another library"), KeyError("x"), ImportError("x"), RuntimeError("x")]
)
def test_every_other_error_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        app.guard(functools.partial(fail, error))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device", "place/file"), 1, "place/file: No space left on device"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (UserError("one thing\nand another"), 1, "one thing; and another"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_can_be_expected_is_one_sentence(error, code, said, capsys):
    with pytest.raises(SystemExit) as end:
        app.guard(functools.partial(fail, error))
    assert end.value.code == code
    assert capsys.readouterr().err == f"error: {said}\n"


def test_verbosity_shows_where_an_error_came_from(orderscale):
    code, _, err = orderscale(*TRAIN, "--config.model.n_layers=0", "--verbosity=1")
    assert code == 1 and "Traceback" in err and "__post_init__" in err
    assert err.splitlines()[-1] == "error: model.n_layers must be at least 1, got 0"


def test_a_warning_is_one_line(orderscale):
    _, _, err = orderscale("train", "--config=warns.py", "--workdir=file")
    assert err.splitlines()[0] == "warning: the state of step 7 is damaged" and err.count("\n") == 2


def test_nobody_reads(orderscale):
    closed = "import os; read, write = os.pipe(); os.close(read); os.dup2(write, 1); main.main()"
    assert orderscale("train", "--help", code=closed) == (1, "", "")


def test_the_commands_are_listed(orderscale):
    code, out, err = orderscale()
    assert (code, err) == (0, "") and orderscale("--help") == orderscale("-h") == (code, out, err)
    named = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert named == list(COMMANDS)
    assert max(map(len, out.splitlines())) <= 80
    version = orderscale("--version")
    assert version == (0, "orderscale 0.1.0\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, orderscale):
    code, out, err = orderscale(command, "--help")
    assert (code, err) == (0, "") and orderscale(command, "--workdir=x", "-h") == (code, out, err)
    assert out.startswith(f"orderscale {command}\n\n") and f"    orderscale {command} --" in out
    assert max(map(len, out.splitlines())) <= 80


def test_help_tells_every_option(orderscale):
    said = " ".join(orderscale("train", "--help").out.split())
    swept = " ".join(orderscale("sweep", "--help").out.split())
    for group in GROUPS:
        for name, default, meaning in options(group):
            flag = f"{group}.{name}".removeprefix(".")
            shown = str(default).lower() if isinstance(default, bool) else default
            shown = "none" if default in (None, ()) else shown
            assert f"--config.{flag}={shown} {meaning}" in said and meaning
            assert (
                f"--config.base.{flag}={shown} {meaning}" in swept
                or group in ("", "wandb")
                or (name in ("min_accuracy", "max_attempts"))
            )


def test_a_launcher_of_the_clone_is_the_same_program(orderscale):
    launch = "import runpy; runpy.run_module('experiments.reproduce', run_name='__main__', alter_sys=True)"
    assert orderscale("--help", code=launch) == orderscale("reproduce", "--help")


def test_configurations_are_found_by_name(tmp_path, monkeypatch):
    assert list(shipped())[:2] == ["three_layer", "two_layer"] and "sweeps/table4" in shipped()
    monkeypatch.chdir(tmp_path)
    assert find("sweeps/table4") == SHIPPED / "sweeps" / "table4.py"
    (tmp_path / "two_layer").mkdir()
    assert find("two_layer") == SHIPPED / "two_layer.py"  # a directory is no file
    (tmp_path / "mine.py").write_text("")
    assert find("mine.py") == Path("mine.py")


def test_training(orderscale, place):
    arguments = ["train", "--config=two_layer", "--workdir=runs/one", *SMALL_FLAGS]
    code, out, err = orderscale(*arguments)
    assert (code, err) == (0, "")
    summary = json.loads((place / "runs" / "one" / "summary.json").read_text())
    assert summary["steps"] == 6 and summary["seed"] == 0
    scores = f"accuracy {summary['accuracy']:.4f} (lists {summary['sequence_accuracy']:.4f})"
    kept = f"at step {summary['best_step']} of attempt 1; 1 attempt, 6 steps, "
    assert out.startswith(f"1 run on 1 CPU device: {scores} {kept}")
    told, missed = out.splitlines()
    seen = f"{summary['train_accuracy']:.4f} (lists {summary['train_sequence_accuracy']:.4f})"
    assert told.endswith(f" s; on training lists {seen}: {summary['checkpoint']}")
    assert missed == "no attempt reached 0.9 (train.min_accuracy): the best weights of all are kept"
    code, out, err = orderscale(*arguments)
    assert (code, err) == (0, "") and out.startswith(f"this run had finished before: {scores} {kept}")


def test_attempts_and_every_form_of_a_flag(orderscale, place):
    forms = [
        "--config.model.bias",
        "--noconfig.model.layer_norm",
        "--config.train.patience=none",
        "--config.train.overrides=blocks.-1.attn.W_[QK] learning_rate 0; .* epsilon 1e-4",
    ]
    code, out, err = orderscale(
        "train",
        "--config=layers.py:1",
        "--workdir=runs/two",
        *SMALL_FLAGS,
        "--config.train.max_attempts=2",
        *forms,
    )
    assert (code, err) == (0, "") and "; 2 attempts, 12 steps, " in out
    config = json.loads((place / "runs" / "two" / "config.json").read_text())
    model = config["model"]
    assert (model["n_layers"], model["bias"], model["layer_norm"]) == (1, True, False)
    frozen = ["blocks.-1.attn.W_[QK]", "learning_rate", 0.0]
    assert config["train"]["overrides"] == [frozen, [".*", "epsilon", 1e-4]]


def test_shares(orderscale):
    def share(index):
        arguments = ["--config.runs=2", "--num_processes=2", f"--process_id={index}", *SMALL_FLAGS]
        return orderscale("train", "--config=two_layer", "--workdir=runs/shared", *arguments)

    told = (
        "share 2 of 2 is complete; the summary is written when all are: "
        "run the same command again to see it\n"
    )
    assert share(1) == (0, told, "")
    code, out, err = share(0)
    assert (code, err) == (0, "") and out.startswith("2 processes: 1 run on 1 CPU device: accuracy ")
    assert ", the best, at step " in out


def test_a_sweep(orderscale, place):
    code, out, err = orderscale("sweep", "--config=sweep.py", "--dry_run", "--config.seeds=3")
    assert (code, err) == (0, "") and not (place / "new").exists()
    assert out.startswith("2 cells x 3 seeds = 6 runs; timing some steps on ")
    assert (
        "cell   1: weight_decay 0.0\ncell   2: weight_decay 0.1\n          6 runs, at most " in out
        and "good to a factor of two" in out
    )
    arguments = ["sweep", "--config=sweep.py", "--workdir=runs/sweep", "--config.seeds=1"]
    code, out, err = orderscale(*arguments, "--num_processes=2", "--process_id=0")
    assert (code, err) == (0, "") and out.startswith("share 1 of 2 is complete; ")
    code, out, err = orderscale(*arguments, "--num_processes=2", "--process_id=1")
    assert (code, err) == (0, "") and out.startswith("2 runs: ")
    assert "weight_decay 0.1: 0/1 at 0.9 or above" in out
    assert {"results.csv", "success_rates.png"} <= {
        path.name for path in (place / "runs" / "sweep").iterdir()
    }


def test_a_sweep_of_which_every_run_diverges(orderscale, place):
    arguments = ["--workdir=runs/diverged", "--config.seeds=1", "--config.base.train.learning_rate=1e30"]
    code, out, err = orderscale("sweep", "--config=sweep.py", *arguments)
    assert code == 1 and out.count(", 1 diverged\n") == 2
    assert err.startswith("error: every run of the sweep diverged") and err.count("\n") == 1
    assert (place / "runs" / "diverged" / "success_rates.png").exists()


def test_a_published_file_becomes_a_checkpoint_or_nothing(orderscale, place):
    model = random_model(VARIANTS["two heads"])
    np.savez(place / "model.npz", **to_torch(model))
    code, out, err = orderscale("import-torch", "--source=model.npz", "--output=deep/model")
    assert (code, err) == (0, "") and out.count("\n") == 1
    assert "2 layers, 2 heads, d_model 8, lists of 2 of 5 digits" in out
    arrays = named_arrays(load_checkpoint(place / "deep" / "model")[0])
    for name, array in named_arrays(model).items():
        np.testing.assert_array_equal(arrays[name], array)


SEEDS = {"two_layer": 1, "two_layer_published": 2, "three_layer": 3}
REPRODUCE = f"""
from pathlib import Path
from orderscale_jax import figures
from orderscale_jax.cli import reproduce
from orderscale_jax.report import write
write.draw = lambda found, history, published: {{"training_curves": figures.training_curves(*history)}}
configs = reproduce.paper_configs(seed=1)
config = configs["two_layer"]
config.update_from_flattened_dict({SMALL})
for name, seed in {SEEDS}.items():  # all share their programs
    configs[name] = config.copy_and_resolve_references()
    configs[name].seed = seed
Path("tiny").mkdir()
reproduce.reproduce(configs, Path("tiny"), {{}})
"""


def test_everything_is_reproduced_and_can_be_analysed_again(orderscale, place):
    code, out, err = orderscale(code=REPRODUCE)
    assert (code, err) == (0, "")
    assert (
        out.startswith("training the model with 2 layers\n")
        and out.count("training the model with 2 layers\n") == 2
        and "training the model with 2 layers, as published\n" in out
    )
    compared = (place / "tiny" / "comparison.txt").read_text()
    assert compared in out and compared.count("two_layer\n") == 1 and "verdict" in compared
    assert "as published" in compared and compared.count("recipes of two layers") == 1
    written = {path.name for path in (place / "tiny").iterdir()}
    pictures = {"information_flow.png", "information_flow.pdf"}
    models = {"two_layer", "two_layer_published", "three_layer"}
    assert written == {*models, "comparison.txt", *pictures}
    for name in models:
        report = place / "tiny" / name
        assert (report / "report.html").is_file() and (report / "figures" / "training_curves.pdf").is_file()
        summary = json.loads((place / "tiny" / name / "training" / "summary.json").read_text())
        assert summary["seed"] == SEEDS[name]
    code, out, err = orderscale("analyze", "--checkpoint=tiny/two_layer/training/checkpoint", "--output=page")
    assert (code, err) == (0, "") and out.count("\n") == 1
    assert out.startswith("accuracy ") and out.endswith(f" on 13 lists: {place / 'page' / 'report.html'}\n")
    results, again = (
        json.loads((place / folder / "results.json").read_text()) for folder in ("tiny/two_layer", "page")
    )
    assert again.pop("name") == "training" and results.pop("name") == "two_layer" and again == results
    drawn = {path.name for path in (place / "page" / "figures").iterdir()}
    assert {"information_flow.png", "order_exchanges.pdf", "training_curves.png"} < drawn


PUBLISHED = """
from pathlib import Path
from orderscale_jax.cli import reproduce
whole = reproduce.study_model
reproduce.study_model = lambda model, lists, trained: whole(model, lists[:20], trained[:20])
print(sorted(reproduce.read_published(Path("published"))))
"""


def test_published_checkpoints_are_read_or_named(orderscale, place):
    folder = place / "published"
    folder.mkdir()
    arrays = to_torch(load_pretrained("two_layer")[0])
    np.savez(folder / "a_weights.npz", **arrays)
    np.savez(folder / "a_activations.npz", resid_post=np.ones(3))
    (folder / "a.pt").write_text("the same model, which is not read twice")
    code, out, err = orderscale(code=PUBLISHED)
    assert (code, err) == (0, "")
    assert out == "published model with 2 layers: published/a_weights.npz\n['two_layer']\n"
    missing = {name: array for name, array in arrays.items() if name != "unembed.W_U"}
    np.savez(folder / "0_missing.npz", **missing)
    arguments = ["reproduce", "--published=published", "--output=new"]
    code, out, err = orderscale(*arguments)
    assert (code, out) == (1, "")
    assert (
        err == "error: published/0_missing.npz is not a published checkpoint: array unembed.W_U is missing\n"
    )
    (folder / "0_missing.npz").write_bytes((folder / "a_weights.npz").read_bytes()[:1000])
    code, out, err = orderscale(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: published/0_missing.npz is not an .npz file of plain arrays: it is damaged")
    (folder / "0_missing.npz").rename(folder / "0_damaged.pt")
    code, out, err = orderscale(*arguments)
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
    assert "published/0_damaged.pt" in err
    assert not (place / "new").exists()


def test_a_census_goes_on_and_is_of_one_kind_of_question(orderscale, place):
    small = (
        "from orderscale_jax.cli import census; whole = census.configuration\n"
        "def small(kind, n_models):\n"
        "    config = whole(kind, n_models)\n"
        f"    config.update_from_flattened_dict({SMALL})\n"
        "    return config\n"
        "census.configuration = small; main.main()"
    )
    options = ["census", "--output=census", "--kinds=two_layer", "--cuts=zero,mean", "--resamples=2"]
    code, out, err = orderscale(*options, "--models=2", code=small)
    assert (code, err) == (0, "") and out.startswith("training 2 models of the kind two_layer\n")
    assert "between seeds" in out and "reversed in the median model" in out
    file = place / "census" / "census.json"
    said = files.read_note(file)
    assert set(said["models"]["two_layer"]) == {"0", "1"}
    assert set(said["summary"]["two_layer"]["circuits"]) == {"zero", "mean"}
    assert said["summary"]["two_layer"]["order"]["models"] == 2 and file.with_suffix(".png").is_file()
    written = dict(said["models"]["two_layer"])
    files.write_note(file, said | {"models": {"two_layer": {"0": written["0"]}}, "summary": {}})
    undrawn = small.replace("main.main()", "census.figures.save = print; main.main()")
    code, out, err = orderscale(*options, "--models=2", code=undrawn)
    assert (code, err) == (0, "") and files.read_note(file) == said
    code, out, err = orderscale(*options, "--models=2", "--tolerance=0.1", code=small)
    assert code == 1 and "was made with" in err and err.count("\n") == 1
    for older in ({"format": 1}, {"format": None}):
        files.write_note(file, said | older)
        code, out, err = orderscale(*options, "--models=2", code=small)
        assert code == 1 and "written by another version" in err and err.count("\n") == 1
    files.write_note(file, said)
    text = file.read_text().replace('"resamples": 2', '"resamples": 3')
    file.write_text(text)
    code, out, err = orderscale(*options, "--models=2", code=small)
    assert code == 1 and "census.json is damaged" in err
    for wrong, why in {"--kinds=four": "there is no kind 'four'", "--models=1": "expected 2 or more"}.items():
        code, out, err = orderscale(*options, wrong, code=small)
        assert code == 1 and why in err


def test_a_model_is_explored(orderscale, place):
    code, out, err = orderscale("explore", "two_layer", "--open=false", "--output=new/page.html")
    assert (code, out, err) == (0, f"{place / 'new' / 'page.html'}\n", "")
    page = (place / "new" / "page.html").read_text()
    assert '"name": "two_layer", "checkpoint": null, "about"' in page
    assert page.count('"name"') == 1 and '"film": null' in page
    for given, sentence in (
        (["nothing"], "there is no checkpoint at"),
        (["two_layer", "three_layer"], "unexpected argument 'three_layer': options are written --name=value"),
        (
            ["two_layer", "--output=page.txt"],
            "--output=page.txt must name an HTML file, such as explorer.html",
        ),
        (["--checkpoint="], "--checkpoint is required, and it is empty"),
        (["two_layer", "--checkpoint=three_layer"], "'two_layer' and --checkpoint say the same thing"),
    ):
        code, out, err = orderscale("explore", *given, "--open=false")
        assert (code, out) == (1, "") and err.count("\n") == 1 and sentence in err, err


def test_circuits_of_a_model(orderscale, place):
    everything = ["--cuts=zero", "--compare"]
    for more, key in ((everything, "exact_circuit"), (["--samples=3"], "sampled_circuit")):
        options = ["circuits", "--checkpoint=two_layer", "--output=found", "--examples=20", *more]
        code, out, err = orderscale(*options)
        assert (code, err) == (0, "") and out.endswith(f"{place / 'found' / 'results.json'}\n")
        results = json.loads((place / "found" / "results.json").read_text())
        assert results["n_val_used"] == 20
        for mode, found in results[key].items():
            assert found["edges"] == [[0, 2, 0], [0, 2, 1], [1, 3, 2], [1, 4, 2], [1, 4, 3]]
            assert f"edge ({mode}, accuracy)" in out and len(found["shapley"]) == 5
        if "rankings" in results:
            marks = results["rankings"]["zero"]["marks"]
            assert marks["best"]["mean_regret"] == 0 and "edge_attribution" in out
    assert set(results["sampled_circuit"]) == {"renormalize", "zero"}
    written = {path.name for path in (place / "found").iterdir()}
    assert {"circuit_lattice.png", "regret_curves.pdf"} < written


def test_circuits_are_written_before_they_are_drawn(orderscale, place):
    options = ["circuits", "--checkpoint=two_layer", "--output=undrawn", "--examples=20", "--cuts=zero"]
    full = "from orderscale_jax import {}; {} = lambda *_: exec('raise OSError(28, \\'full\\')'); main.main()"
    code, _, err = orderscale(*options, code=full.format("files", "files.write_json"))
    assert (code, err) == (1, "error: full\n") and not (place / "undrawn").exists()
    code, _, err = orderscale(*options, code=full.format("figures", "figures.save"))
    assert (code, err) == (1, "error: full\n")
    assert [path.name for path in (place / "undrawn").iterdir()] == ["results.json"]


def test_circuits_of_too_many_edges_and_of_none(orderscale, place):
    few = "from orderscale_jax.circuits import table; table.MOST_EDGES = 4; main.main()"
    options = ["circuits", "--output=none"]
    code, out, err = orderscale(*options, "--checkpoint=two_layer", code=few)
    assert (code, out) == (1, "") and "2^5 = 32 sets" in err and "GB of memory" in err
    assert err.endswith(": draw some of them with --samples=200\n") and err.count("\n") == 1
    config = default_config()
    config.update_from_flattened_dict(SMALL | {"model.n_layers": 1})
    save_checkpoint(place / "flat", random_model(model_config(config)), config)
    for more in ("--compare", "--samples=3"):
        code, out, err = orderscale(*options, "--checkpoint=flat", more)
        assert (code, out) == (1, "") and err.startswith("error: this model has no live edge")
        assert err.count("\n") == 1 and not (place / "none").exists()
    code, out, err = orderscale(*options, "--checkpoint=flat")
    assert (code, err) == (0, "") and "minimal circuits within 0.01: 1" in out
    results = json.loads((place / "none" / "results.json").read_text())
    assert results["exact_circuit"]["zero"]["minimal_circuits"] == [[]]
