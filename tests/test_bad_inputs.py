"""What is wrong is said in one sentence, by every command and by every public function.

The tables hold what people get wrong: what they do, and words that the sentence must have. A command
answers with `error: …` on stderr and exit code 1, and leaves nothing behind; a function raises UserError,
or the OSError that it documents.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from conftest import VARIANTS, random_model
from flax import nnx
from matplotlib.figure import Figure

from orderscale_jax import analysis, checkpoint, convert, explorer, figures, report, sae
from orderscale_jax.config import TrainConfig, as_drawn, check_config, check_sweep, default_config
from orderscale_jax.config import train_config as read_train
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Graph
from orderscale_jax.model import Interventions, ListTransformer, ModelConfig, cut, keep_weights, patch
from orderscale_jax.model.transformer import matching_arrays
from orderscale_jax.sae import store
from orderscale_jax.sae.autoencoder import from_named_arrays, named_arrays
from orderscale_jax.task import TaskConfig, make_split, tokens
from orderscale_jax.training import sweep, sweep_results, sweep_rows, workdir
from orderscale_jax.training.ensemble import make_setup
from orderscale_jax.training.shares import Share

HEAD = (
    "from orderscale_jax.config import default_config\n"
    "from orderscale_jax.training.sweep import sweep_config\n"
    "def get_config():\n"
)
ANYHOW = (
    "    with c.unlocked(), c.ignore_type():\n        {}\n    return c\n"  # past the checks of ConfigDict
)


def run_file(line: str) -> str:
    return f"{HEAD}    c = default_config()\n" + ANYHOW.format(line)


def sweep_file(line: str = "pass", **options) -> str:
    given = ", ".join(f"{name}={value}" for name, value in {"seeds": "1", **options}.items())
    made = f"    c = sweep_config(default_config(), {{'model.n_layers': (1, 2)}}, {given})\n"
    return HEAD + made + ANYHOW.format(line)


FILES = {
    "exits.py": "import sys\ndef get_config():\n    sys.exit(0)\n",
    "exits_at_once.py": "raise SystemExit\n",
    "dict.py": "def get_config():\n    return {}\n",
    "function.py": "def get_config():\n    return get_config\n",
    "nothing.py": "",
    "constant.py": "get_config = 3\n",
    "arguments.py": "def get_config(a, b):\n    return a\n",
    "syntax.py": "def get_config(:\n",
    "text.py": "just words\n",
    "imports.py": "import nowhere_to_be_found\n",
    "raises.py": "def get_config():\n    raise ValueError('two\\nlines')\n",
    "slow.py": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n",
    "interrupts.py": "def get_config():\n    raise KeyboardInterrupt\n",
    "prints.py": run_file("print('said'); c.model.n_layers = 0"),
    "half_layers.py": f"{HEAD}    c = default_config()\n    c.model.n_layers = 2.5\n    return c\n",
    "many.py": f"{HEAD}    c = default_config()\n    c.train.batch_size = 'many'\n    return c\n",
    "many_anyway.py": run_file("c.train.batch_size = 'many'"),
    "array.py": run_file("import numpy; c.train.batch_size = numpy.ones(3)"),
    "nan.py": run_file("c.train.learning_rate = float('nan')"),
    "inf.py": run_file("c.train.weight_decay = float('inf')"),
    "no_group.py": run_file("c.train = 3"),
    "no_task.py": run_file("del c['task']"),
    "no_seed.py": run_file("del c['seed']"),
    "huge.py": run_file("c.model.d_model = 10**400"),
    "sweep.py": sweep_file(),
    "high.py": sweep_file(success="'high'"),
    "above.py": sweep_file(success="1.5"),
    "success_nan.py": sweep_file(success="float('nan')"),
    "half_seeds.py": sweep_file(seeds="1.5"),
    "no_seeds.py": sweep_file(seeds="0"),
    "first_seed.py": sweep_file(first_seed="-1"),
    "grid_text.py": sweep_file("c.grid = 'abc'"),
    "grid_numbers.py": sweep_file("c.grid = [1, 2]"),
    "grid_none.py": sweep_file("c.grid = None"),
    "grid_empty.py": sweep_file("c.grid = ()"),
    "grid_short.py": sweep_file("c.grid = ((('model.n_layers', 'model.bias'), ((1,),)),)"),
    "grid_field.py": sweep_file("c.grid = ((('depth',), ((1,),)),)"),
    "grid_value.py": sweep_file("c.grid = ((('model.n_layers',), (('two',),)),)"),
    "grid_twice.py": sweep_file("c.grid = ((('model.n_layers',), ((1,), (1,))),)"),
    "grid_zero.py": sweep_file("c.grid = ((('model.n_layers',), ((0,),)),)"),
    "base.py": sweep_file("c.base = 3"),
    "base_task.py": sweep_file("del c.base['task']"),
    "more.py": sweep_file("c.runs = 3"),
    "less.py": sweep_file("del c['success']"),
    "typo.py": f"{HEAD}    c = default_config()\n    c.learning_rate = 1\n    return c\n",
    "file": "something else",
    "text.npz": "no archive",
    "text.pt": "no archive",
}

TRAIN = ["train", "--workdir=new/run"]
TWO = [*TRAIN, "--config=two_layer"]
SWEEP = ["sweep", "--workdir=new/sweep"]
GRID = "the grid of a sweep holds fields with their values"
COMMANDS = {
    # (what is typed, words of the answer)
    "no command": (["nothing"], "there is no command 'nothing'"),
    "a file that exits": ([*TRAIN, "--config=configs/exits.py"], "ended the program: leave out sys.exit()"),
    "exits at once": ([*TRAIN, "--config=configs/exits_at_once.py"], "ended the program"),
    "a dict": ([*TRAIN, "--config=configs/dict.py"], "must return a ConfigDict, not a dict"),
    "a function": ([*TRAIN, "--config=configs/function.py"], "must return a ConfigDict, not a function"),
    "an empty file": ([*TRAIN, "--config=configs/nothing.py"], "defines no function get_config()"),
    "a constant": ([*TRAIN, "--config=configs/constant.py"], "defines no function get_config()"),
    "arguments": ([*TRAIN, "--config=configs/arguments.py"], "missing 2 required positional arguments"),
    "one argument": ([*TRAIN, "--config=configs/arguments.py:1"], "missing 1 required positional argument"),
    "too many arguments": ([*TRAIN, "--config=two_layer:3"], "takes 0 positional arguments"),
    "bad syntax": ([*TRAIN, "--config=configs/syntax.py"], "the configuration file failed: SyntaxError"),
    "words": ([*TRAIN, "--config=configs/text.py"], "the configuration file failed: SyntaxError"),
    "bytes": ([*TRAIN, "--config=configs/bytes.py"], "the configuration file failed"),
    "an import": ([*TRAIN, "--config=configs/imports.py"], "No module named 'nowhere_to_be_found'"),
    "two lines": ([*TRAIN, "--config=configs/raises.py"], "ValueError: two; lines"),
    "an interruption": ([*TRAIN, "--config=configs/interrupts.py"], "interrupted"),
    "interrupted by a key": ([*TRAIN, "--config=configs/slow.py"], "interrupted"),
    "a directory": ([*TRAIN, "--config=folder"], "folder is no file: give a Python file"),
    "no file": ([*TRAIN, "--config=nowhere.py"], "no configuration file 'nowhere.py'"),
    "no name": ([*TRAIN, "--config="], "--config is required, and it is empty"),
    "it prints": ([*TRAIN, "--config=configs/prints.py"], "model.n_layers must be at least 1"),
    "half a layer": ([*TRAIN, "--config=configs/half_layers.py"], "cannot be casted to type <class 'int'>"),
    "many": ([*TRAIN, "--config=configs/many.py"], "many is of original type <class 'str'>"),
    "many anyway": (
        [*TRAIN, "--config=configs/many_anyway.py"],
        "train.batch_size must be a whole number, got 'many'",
    ),
    "an array": (
        [*TRAIN, "--config=configs/array.py"],
        "train.batch_size must be a whole number, got array(",
    ),
    "NaN": ([*TRAIN, "--config=configs/nan.py"], "train.learning_rate must be a finite number"),
    "infinity": ([*TRAIN, "--config=configs/inf.py"], "train.weight_decay must be a finite number"),
    "no group": ([*TRAIN, "--config=configs/no_group.py"], "train must be a group of options, got 3"),
    "no task": ([*TRAIN, "--config=configs/no_task.py"], "needs the groups task and model"),
    "no seed": ([*TRAIN, "--config=configs/no_seed.py"], "says nothing of seed"),
    "too large a number": ([*TRAIN, "--config=configs/huge.py"], "must be a whole number of 64 bits"),
    "a sweep": ([*TRAIN, "--config=configs/sweep.py"], "give it to `orderscale sweep`"),
    "a broken sweep": ([*TRAIN, "--config=configs/grid_text.py"], GRID),
    "a run": ([*SWEEP, "--config=two_layer"], "give it to `orderscale train`"),
    "high": ([*SWEEP, "--config=configs/high.py"], "config.success must be a number, got 'high'"),
    "above 1": ([*SWEEP, "--config=configs/above.py"], "config.success is a fraction, from 0 to 1; got 1.5"),
    "success NaN": ([*SWEEP, "--config=configs/success_nan.py"], "config.success must be a finite number"),
    "half a seed": (
        [*SWEEP, "--config=configs/half_seeds.py"],
        "config.seeds must be a whole number, got 1.5",
    ),
    "no seeds": ([*SWEEP, "--config=configs/no_seeds.py"], "config.seeds must be at least 1"),
    "a negative seed": ([*SWEEP, "--config=configs/first_seed.py"], "seeds must be from 0 to"),
    "grid of text": ([*SWEEP, "--config=configs/grid_text.py"], GRID),
    "grid of numbers": ([*SWEEP, "--config=configs/grid_numbers.py"], GRID),
    "no grid": ([*SWEEP, "--config=configs/grid_none.py"], GRID),
    "an empty grid": ([*SWEEP, "--config=configs/grid_empty.py"], "the grid is empty"),
    "a short grid": ([*SWEEP, "--config=configs/grid_short.py"], GRID),
    "grid of a field": ([*SWEEP, "--config=configs/grid_field.py"], "the grid's field 'depth' is unknown"),
    "grid of a word": ([*SWEEP, "--config=configs/grid_value.py"], "the grid's value 'two' does not fit"),
    "a cell twice": ([*SWEEP, "--config=configs/grid_twice.py"], "names the same cell twice"),
    "a cell of nothing": (
        [*SWEEP, "--config=configs/grid_zero.py"],
        "the cell model.n_layers=0 cannot be trained",
    ),
    "no base": ([*SWEEP, "--config=configs/base.py"], "the base of a sweep needs the group task"),
    "a base without task": (
        [*SWEEP, "--config=configs/base_task.py"],
        "the base of a sweep needs the group task",
    ),
    "more in a sweep": ([*SWEEP, "--config=configs/more.py"], "unknown option runs; a sweep has base, grid"),
    "less in a sweep": ([*SWEEP, "--config=configs/less.py"], "the sweep says nothing of success"),
    "flag success NaN": ([*SWEEP, "--config=configs/sweep.py", "--config.success=nan"], "expected a number"),
    "flag success inf": ([*SWEEP, "--config=configs/sweep.py", "--config.success=inf"], "expected a number"),
    "flag no seeds": (
        [*SWEEP, "--config=configs/sweep.py", "--config.seeds=0"],
        "config.seeds must be at least 1",
    ),
    "too many seeds": (
        [*SWEEP, "--config=configs/sweep.py", "--config.seeds=9999999999"],
        "seeds must be from 0",
    ),
    "sweep in a file": (
        ["sweep", "--config=configs/sweep.py", "--workdir=file"],
        "cannot be written: it is a file",
    ),
    "sweep nowhere": (
        ["sweep", "--config=configs/sweep.py", "--workdir="],
        "--workdir is required, and it is empty",
    ),
    "sweep layers": (
        [*SWEEP, "--config=configs/sweep.py", "--config.base.model.d_model=1000000"],
        "GB are free",
    ),
    "rate NaN": ([*TWO, "--config.train.learning_rate=nan"], "expected a number"),
    "rate infinite": ([*TWO, "--config.train.learning_rate=inf"], "expected a number"),
    "rate zero": ([*TWO, "--config.train.learning_rate=0"], "train.learning_rate must be positive"),
    "rate tiny": ([*TWO, "--config.train.learning_rate=1e-300"], "must be a finite number of 32 bits"),
    "norm infinite": ([*TWO, "--config.train.max_grad_norm=inf"], "expected a number or none"),
    "override NaN": ([*TWO, "--config.train.overrides=embed.W_E epsilon nan"], "and a number; got"),
    "decay negative": ([*TWO, "--config.train.weight_decay=-1"], "must not be negative"),
    "patience huge": ([*TWO, "--config.train.patience=9999999999"], "train.patience must be below 2^31"),
    "steps huge": ([*TWO, "--config.train.max_steps=9999999999"], "train.max_steps must be below 2^31"),
    "steps none": ([*TWO, "--config.train.max_steps=0"], "train.max_steps must be at least 1"),
    "fraction": ([*TWO, "--config.task.train_fraction=1"], "must lie between 0 and 1"),
    "duplicates": ([*TWO, "--config.task.duplicates=some"], "task.duplicates must be one of"),
    "seed negative": ([*TWO, "--config.seed=-1"], "seeds must be from 0 to"),
    "runs none": ([*TWO, "--config.runs=0"], "config.runs must be at least 1"),
    "runs text": ([*TWO, "--config.runs=many"], "expected a whole number"),
    "layers 10^5": ([*TWO, "--config.model.n_layers=100000"], "GB are free"),
    "layers 300": ([*TWO, "--config.model.n_layers=300"], "must be at most 256, for which compiling takes"),
    "width 10^6": ([*TWO, "--config.model.d_model=1000000"], "GB are free: give a smaller model.d_model"),
    "digits 10^9": ([*TWO, "--config.task.n_digits=1000000000"], "give a smaller task.n_digits"),
    "length 10^6": ([*TWO, "--config.task.list_len=1000000"], "give a smaller task.list_len"),
    "batch 10^9": ([*TWO, "--config.train.batch_size=1000000000"], "give a smaller train.batch_size"),
    "runs 10^6": ([*TWO, "--config.runs=100000000"], "give a smaller config.runs"),
    "work nowhere": (["train", "--config=two_layer", "--workdir="], "--workdir is required, and it is empty"),
    "work in a file": (["train", "--config=two_layer", "--workdir=file/x"], "cannot be written"),
    "no store": (["train", "--config=two_layer", "--workdir=ftpx://a/b"], "cannot be reached"),
    "analyze nothing": (
        ["analyze", "--checkpoint=", "--output=new"],
        "--checkpoint is required, and it is em",
    ),
    "analyze to nowhere": (
        ["analyze", "--checkpoint=two_layer", "--output="],
        "--output is required, and it",
    ),
    "analyze a file": (["analyze", "--checkpoint=file", "--output=new"], "is a file, not the directory of"),
    "analyze a folder": (["analyze", "--checkpoint=folder", "--output=new"], "is not a checkpoint"),
    "analyze to a file": (["analyze", "--checkpoint=two_layer", "--output=file"], "it is a file"),
    "few examples": (["analyze", "--checkpoint=two_layer", "--output=new", "--examples=0"], "1 or more"),
    "examples": (["analyze", "--checkpoint=two_layer", "--output=new", "--examples=nan"], "a whole number"),
    "import nothing": (
        ["import-torch", "--source=", "--output=new"],
        "--source is required, and it is empty",
    ),
    "circuits: tolerance": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--tolerance=1"],
        "tolerance must be a fraction from 0 to below 1",
    ),
    "circuits: cuts": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--cuts=zero,one"],
        "mode must be one of renormalize, zero, mean, resample; got 'one'",
    ),
    "circuits: no cuts": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--cuts="],
        "--cuts=: expected words with commas between them, and one is empty",
    ),
    "circuits: seed": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--seed=4294967296"],
        "--seed must be a whole number from 0 to 4294967295; got 4294967296",
    ),
    "circuits: one list": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--cuts=zero,resample", "--examples=1"],
        "--cuts=resample draws the message of another list, so it needs at least two: got 1",
    ),
    "circuits: rankings without sets": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--samples=3", "--compare"],
        "--compare judges rankings by every set of edges: give it without --samples",
    ),
    "circuits: samples": (
        ["circuits", "--checkpoint=three_layer", "--output=new", "--samples=1"],
        "expected 2 or more",
    ),
    "circuits of nothing": (["circuits", "--checkpoint=none", "--output=new"], "there is no checkpoint at"),
    "import to nowhere": (["import-torch", "--source=text.npz", "--output="], "--output is required"),
    "import what is not there": (
        ["import-torch", "--source=x.npz", "--output=new"],
        "there is no file x.npz",
    ),
    "import text": (["import-torch", "--source=text.npz", "--output=new"], "is not an .npz file"),
    "import a folder": (["import-torch", "--source=folder", "--output=new"], "folder is a directory: give"),
    "import others": (["import-torch", "--source=other.npz", "--output=new"], "array embed.W_E is missing"),
    "reproduce to nowhere": (["reproduce", "--output="], "--output=: expected a path"),
    "nothing published": (["reproduce", "--output=new", "--published="], "--published=: expected a path"),
    "published nowhere": (["reproduce", "--output=new", "--published=nowhere"], "No such file or directory"),
    "published in a file": (["reproduce", "--output=new", "--published=file"], "Not a directory"),
    "seed too large": (["reproduce", "--output=new", "--seed=99999999999"], "seeds must be from 0 to"),
    "seed below 0": (["reproduce", "--output=new", "--seed=-1"], "expected 0 or more"),
    "benchmark to nothing": (["benchmark", "--output="], "--output=: expected a path"),
    "benchmark to nowhere": (
        ["benchmark", "--output=nowhere/x"],
        "nowhere/x cannot be written: No such file",
    ),
    "benchmark to a folder": (["benchmark", "--output=folder"], "cannot be written: it is a directory"),
    "benchmark below a file": (["benchmark", "--output=file/x"], "cannot be written: Not a directory"),
    "benchmark to a device": (["benchmark", "--output=/dev/null"], "cannot be written: it is no file"),
    "no rounds": (["benchmark", "--rounds=0"], "expected 1 or more"),
    "rounds NaN": (["benchmark", "--rounds=nan"], "expected a whole number"),
    "seeds below 0": (["benchmark", "--seeds=-1", "--output=file"], "expected 0 or more"),
    "compile for nothing": (
        ["compile", "--target=", "--output=file"],
        "--target is required, and it is empty",
    ),
    "compile to nothing": (["compile", "--target=h100", "--output="], "--output=: expected a path"),
    "compile to a folder": (["compile", "--target=h100", "--output=folder"], "it is a directory"),
    "compile no runs": (["compile", "--target=h100", "--runs=0", "--output=file"], "expected 1 or more"),
    "compile half runs": (["compile", "--target=h100", "--runs=1.5"], "expected a whole number"),
    "no layers": ([*TWO, "--config.model.n_layers=0"], "model.n_layers must be at least 1"),
    "heads": ([*TWO, "--config.model.n_heads=7"], "model.n_heads must divide model.d_model"),
    "one digit": ([*TWO, "--config.task.n_digits=1"], "task.n_digits must be at least 2"),
    "batch": ([*TWO, "--config.train.batch_size=8001"], "larger than the training set of 8000"),
    "unknown field": ([*TWO, "--config.model.n_layer=3"], "did you mean --config.model.n_layers?"),
    "unknown group": ([*TWO, "--config.optimizer.lr=3"], "there is no option --config.optimizer.lr"),
    "unknown flag": ([*TWO, "--workdri=x"], "there is no option --workdri: did you mean --workdir?"),
    "no number": ([*TWO, "--config.model.n_layers=two"], "n_layers=two: expected a whole number"),
    "no truth": ([*TWO, "--config.model.bias=maybe"], "expected true or false"),
    "none": ([*TWO, "--config.train.max_steps=none"], "expected a whole number"),
    "not even none": ([*TWO, "--config.train.patience=ever"], "expected a whole number or none"),
    "two ways": ([*TWO, "--config.train.batches=twice"], "train.batches must be one of"),
    "no such name": (
        ["train", "--config=four_layer", "--workdir=new"],
        "none of that name is shipped: there are three_layer, two_layer, two_layer_fresh, two_l",
    ),
    "typo": (
        ["train", "--config=configs/typo.py", "--workdir=new"],
        'typo.py:5: the configuration file failed: AttributeError: \'Key "learning_rate" does not exist',
    ),
    "no workdir": (["train", "--config=two_layer"], "--workdir is required: the directory for checkpoint"),
    "no config": (
        ["train", "--workdir=new"],
        "--config is required: a Python file with get_config(), or what",
    ),
    "read-only": ([*TWO, "--workdir=/proc/run"], "cannot be written"),
    "stray argument": ([*TWO, "stray"], "unexpected argument 'stray'"),
    "no override": (
        [*TWO, "--config.train.overrides=nonsense"],
        "--config.train.overrides=nonsense: expected PATTERN FIELD VALUE, with semicolons between several",
    ),
    "no such field": (
        [*TWO, "--config.train.overrides=embed.W_E rate 1"],
        "one of learning_rate, weight_decay, epsilon, ",
    ),
    "no such array": (
        [*TWO, "--config.train.overrides=blocks.2.attn.W_Q epsilon 1"],
        "the pattern 'blocks.2.attn.W_Q' names no array of this model; there are blocks.0.attn.W_K, ",
    ),
    "no pattern": (
        [*TWO, "--config.train.overrides=[ epsilon 1"],
        "'[' is not a regular expression",
    ),
    "other run": ([*TWO, "--workdir=taken"], "holds a run of another configuration"),
    "half a share": ([*TWO, "--num_processes=2"], "--process_id is missing"),
    "no such share": ([*TWO, "--num_processes=2", "--process_id=2"], "there is no process 2 of 2"),
    "idle share": ([*TWO, "--num_processes=2", "--process_id=1"], "more processes (2) than runs (1)"),
    "two shares": ([*TWO, "--distributed", "--num_processes=2", "--process_id=1"], "asks the cluster"),
    "run as a base": ([*SWEEP, "--config=two_layer", "--config.base.model.bias"], "has no group 'base'"),
    "an axis": (
        [*SWEEP, "--config=configs/sweep.py", "--config.base.model.n_layers=3"],
        "the grid sets model.n_layers",
    ),
    "attempts": (
        [*SWEEP, "--config=configs/sweep.py", "--config.base.train.max_attempts=3"],
        "there is no option",
    ),
    "no checkpoint": (["analyze", "--checkpoint=nowhere", "--output=new"], "no checkpoint at"),
    "no directory": (
        ["analyze", "--checkpoint=other.npz", "--output=new"],
        "orderscale import-torch --source=oth",
    ),
    "too many": (
        ["analyze", "--checkpoint=two_layer", "--output=new", "--examples=9000"],
        "more than the 2000 validation lists",
    ),
    "no target": (["compile", "--target=a100"], "no target 'a100'; there are v5e, v6e and h100"),
    "which target": (["compile"], "--target is required: the device: v5e, v6e or h100"),
    "none published": (
        ["reproduce", "--published=folder", "--output=new"],
        "holds no published checkpoint",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    (place / "configs").mkdir()
    for name, text in FILES.items():
        (place / "configs" / name if name.endswith(".py") else place / name).write_text(text)
    (place / "configs" / "bytes.py").write_bytes(bytes(range(256)))
    (place / "folder").mkdir()
    (place / "taken").mkdir()
    (place / "taken" / "config.json").write_text("{}")
    np.savez(place / "other.npz", a=np.ones(3))
    return place


def contents(place: Path) -> dict[str, bytes | None]:
    """All that is in a directory."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(place.rglob("*"))}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_says_what_is_wrong(case, forks, place):
    arguments, said = COMMANDS[case]
    before = contents(place)
    code, out, err = forks.run(*arguments, place=place)
    assert code == (130 if said == "interrupted" else 1) and out == (
        "said\n" if case == "it prints" else ""
    ), err
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert contents(place) == before


MODEL = random_model(VARIANTS["plain"])  # two layers, lists of two of five digits, width 8
CONFIG, GRAPH = MODEL.config, MODEL.config.graph
LISTS = np.array([[0, 1], [2, 3], [4, 4], [1, 0]])
SEEN = analysis.observe(MODEL, LISTS)
LONG = random_model(VARIANTS["three layers"])
NAN = float("nan")
T, L = CONFIG.n_positions, CONFIG.n_layers


def changed(**options):
    """A configuration with other options, past the checks of ConfigDict."""
    config = default_config()
    with config.unlocked(), config.ignore_type():
        for name, value in options.items():
            group, _, option = name.rpartition("__")
            (config[group] if group else config)[option] = value
    return config


def swept(**options):
    config = sweep.sweep_config(default_config(), {"model.n_layers": (1, 2)}, seeds=1)
    with config.unlocked(), config.ignore_type():
        config.update(options)
    return config


def arrays(**changes):
    """A published state_dict with some arrays replaced, or left out where they are None."""
    found = convert.to_torch(MODEL)
    for name, change in changes.items():
        key = name.replace("__", ".")
        found[key] = change(found[key]) if key in found else change(None)
    return {name: array for name, array in found.items() if array is not None}


def summary(**changes):
    row = dict.fromkeys(sweep_rows.COLUMNS, 0) | {"accuracy": 0.5, "steps": 10, "transition_step": None}
    return sweep_results.summarize([row | changes])[0]


VIEW = sae.view_sep(MODEL, TaskConfig(n_digits=5))  # 25 lists, of which 20 train
SMALL_SAE = sae.SAEConfig(width=6, k=2, steps=2, batch_size=4, threshold_start=0)
SAE = sae.SparseAutoencoder(SMALL_SAE, 8, rngs=nnx.Rngs(0))
ENCODED = sae.encode_lists(SAE, VIEW)
SOURCE = sae.source(MODEL, TaskConfig(n_digits=5))


def trained_on(sources, **changes):
    """What training one SAE gives, on other sources or with other options."""
    config = sae.SAEConfig(
        **{"width": 6, "k": 2, "steps": 2, "batch_size": 4, "threshold_start": 0} | changes
    )
    return sae.train([sae.Job(config, 0, "m")], sources, "new")


def regions(**changes):
    """Where lists are reversed, with other arguments."""
    given = {"readout": VIEW.readout, "lists": VIEW.lists, "base": VIEW.sep, "vector": VIEW.sep}
    return sae.reversal_regions(**given | changes)


def with_array(**changes):
    """An SAE with other arrays."""
    found = named_arrays(SAE) | changes
    found = {name: array for name, array in found.items() if array is not None}
    return from_named_arrays(SMALL_SAE, found)


FUNCTIONS = {
    # (what is called, words of the error)
    "task: length of none": (lambda: TaskConfig(list_len=0), "task.list_len must be at least 1"),
    "task: one digit": (lambda: TaskConfig(n_digits=1), "task.n_digits must be at least 2"),
    "task: digits as text": (lambda: TaskConfig(n_digits="100"), "must be a whole number, got '100'"),
    "task: half a digit": (lambda: TaskConfig(n_digits=9.5), "must be a whole number, got 9.5"),
    "task: too many digits": (lambda: TaskConfig(n_digits=2**31), "task.n_digits must be at most"),
    "task: 30 zeros": (lambda: TaskConfig(n_digits=10**30), "must be a whole number of 64 bits"),
    "task: 5,000 zeros": (lambda: TaskConfig(n_digits=10**5000), "a number of thousands of digits"),
    "task: true digits": (lambda: TaskConfig(n_digits=True), "must be a whole number, got True"),
    "task: no fraction": (lambda: TaskConfig(train_fraction=NAN), "must be a finite number"),
    "task: all train": (lambda: TaskConfig(train_fraction=1.0), "must lie between 0 and 1"),
    "task: percent": (lambda: TaskConfig(train_fraction=80), "must lie between 0 and 1"),
    "task: split": (lambda: TaskConfig(split="random"), "task.split must be one of published, paired"),
    "task: long pairs": (lambda: TaskConfig(list_len=10**6, split="paired"), "100^1000000 are too many"),
    "task: seed": (lambda: TaskConfig(split_seed=-1), "task.split_seed must fit 32 bits"),
    "split: of a dict": (lambda: make_split({"n_digits": 5}), "make_split needs a TaskConfig, got dict"),
    "split: of nothing": (lambda: make_split(None), "make_split needs a TaskConfig"),
    "split: of a config": (lambda: make_split(default_config()), "make_split needs a TaskConfig, got Conf"),
    "split: too few": (
        lambda: make_split(TaskConfig(list_len=1, n_digits=2, train_fraction=0.1)),
        "cannot be",
    ),
    "split: too long": (lambda: make_split(TaskConfig(list_len=10**7)), "give fewer digits or shorter lists"),
    "tokens: digit": (lambda: tokens([[5, 0]], 5), "digits must lie in 0 … 4, got 0 … 5"),
    "tokens: floats": (lambda: tokens([[0.0, 1.0]], 5), "lists must hold integers"),
    "tokens: one list": (lambda: tokens([0, 1], 5), "lists must have shape [B, n]"),
    "graph: text": (lambda: Graph("2", 2), "Graph.list_len must be a whole number, got '2'"),
    "graph: no layers": (lambda: Graph(2, 0), "Graph.n_layers must be at least 1"),
    "graph: half a layer": (lambda: Graph(2, 1.5), "Graph.n_layers must be a whole number"),
    "graph: long lists": (lambda: Graph(10**7, 2).edges, "GB are free: give shorter lists or fewer layers"),
    "graph: many layers": (lambda: Graph(2, 10**12).live_edges, "the edges of a graph with"),
    "graph: no such edge": (lambda: GRAPH.check(["L0 o1<-d1"]), "edge 'L0 o1<-d1' does not exist"),
    "graph: a name alone": (lambda: GRAPH.check("L1 o2<-o1"), "edges must be given as a list of edges"),
    "graph: an edge alone": (lambda: GRAPH.check((1, 4, 3)), "an edge is three whole numbers"),
    "graph: a number": (lambda: GRAPH.check(3), "edges must be given as a list of edges"),
    "graph: edges by floats": (lambda: GRAPH.check([(1.0, 4.0, 3.0)]), "an edge is three whole numbers"),
    "graph: negative": (lambda: GRAPH.check([(-1, 4, 3)]), "does not exist"),
    "graph: is live": (lambda: GRAPH.is_live("o2<-o1"), "edge 'o2<-o1' does not exist"),
    "graph: position": (lambda: GRAPH.position("o3"), "position 'o3' does not exist: there are d1"),
    "graph: position -1": (lambda: GRAPH.position(-1), "position -1 does not exist"),
    "graph: position 1.5": (lambda: GRAPH.position(1.5), "position 1.5 does not exist"),
    "graph: position none": (lambda: GRAPH.position(None), "position None does not exist"),
    "model: no layers": (lambda: ModelConfig(n_layers=0), "model.n_layers must be at least 1"),
    "model: heads": (lambda: ModelConfig(n_heads=3), "model.n_heads must divide model.d_model"),
    "model: width": (lambda: ModelConfig(d_model="64"), "model.d_model must be a whole number, got '64'"),
    "model: LayerNorm": (lambda: ModelConfig(layer_norm=1), "model.layer_norm must be true or false"),
    "model: frozen heads": (lambda: ModelConfig(frozen_heads="all"), "must be one of shared, block"),
    "model: 10^9 digits": (lambda: ListTransformer(ModelConfig(n_digits=10**9), rngs=None), "GB are free"),
    "model: 10^6 wide": (lambda: ListTransformer(ModelConfig(d_model=10**6), rngs=None), "GB are free"),
    "model: 10^4 layers": (lambda: ListTransformer(ModelConfig(n_layers=10**4), rngs=None), "at most 256"),
    "model: a dict": (
        lambda: ListTransformer({"n_layers": 2}, rngs=None),
        "config must be a ModelConfig, got",
    ),
    "lists: floats": (lambda: MODEL(LISTS / 1.0), "lists must hold integers, got float64"),
    "lists: too long": (lambda: MODEL([[0, 1, 2]]), "lists must have shape [B, 2], got [1, 3]"),
    "lists: one": (lambda: MODEL([0, 1]), "lists must have shape [B, 2], got [2]"),
    "lists: digit": (lambda: MODEL([[0, 5]]), "digits must lie in 0 … 4, got 0 … 5"),
    "lists: negative": (lambda: MODEL([[0, -1]]), "digits must lie in 0 … 4, got -1 … 0"),
    "lists: ragged": (lambda: MODEL([[0, 1], [2]]), "got rows of different lengths"),
    "lists: text": (lambda: MODEL([["0", "1"]]), "lists must hold integers"),
    "lists: words": (lambda: MODEL("0 1"), "lists must have shape [B, 2]"),
    "lists: none": (lambda: MODEL(None), "lists must have shape [B, 2], got []"),
    "lists: truth values": (lambda: MODEL(LISTS > 0), "lists must hold integers, got bool"),
    "lists: tokens": (lambda: MODEL(tokens(LISTS, 5)), "lists must have shape [B, 2], got [4, 5]"),
    "lists: traced": (lambda: jax.jit(MODEL)(jnp.zeros((4, 3), int)), "lists must have shape [B, 2]"),
    "interventions: edges": (lambda: MODEL(LISTS, ["L1 o2<-o1"]), "must be given as Interventions"),
    "interventions: keep": (
        lambda: MODEL(LISTS, Interventions(keep=np.ones((T, T)))),
        "keep must have shape",
    ),
    "interventions: NaN": (
        lambda: MODEL(LISTS, Interventions(keep=np.full((L, 1, T, T), NAN))),
        "keep must hold finite numbers",
    ),
    "interventions: negative": (
        lambda: MODEL(LISTS, Interventions(keep=-np.ones((L, 1, T, T)))),
        "none below 0",
    ),
    "interventions: text": (lambda: MODEL(LISTS, Interventions(keep="all")), "keep must hold numbers"),
    "interventions: ragged": (lambda: MODEL(LISTS, Interventions(keep=[[1], 2])), "keep must be an array of"),
    "interventions: rescale": (lambda: MODEL(LISTS, Interventions(renormalize=1)), "must hold truth values"),
    "interventions: where": (
        lambda: MODEL(LISTS, Interventions(patterns_at=np.ones((L, T, T), bool))),
        "patterns and patterns_at must be given together",
    ),
    "interventions: nowhere": (
        lambda: MODEL(LISTS, Interventions(residuals=np.ones((L + 1, 1, T, 8)))),
        "residuals and residuals_at must be given together",
    ),
    "cut: no such edge": (lambda: cut(CONFIG, ["L2 o2<-o1"]), "edge 'L2 o2<-o1' does not exist"),
    "cut: an edge alone": (lambda: cut(CONFIG, "L1 o2<-o1"), "edges must be given as a list"),
    "cut: a model": (lambda: cut(MODEL, ["L1 o2<-o1"]), "edges are cut by model.config"),
    "cut: head": (lambda: cut(CONFIG, [], head=1), "head 1 does not exist: the model has heads 0 … 0"),
    "cut: head -1": (lambda: keep_weights(CONFIG, [], head=-1), "head -1 does not exist"),
    "cut: head as text": (lambda: cut(CONFIG, [], head="0"), "head must be a whole number, got '0'"),
    "patch: a config": (lambda: patch(CONFIG, LISTS, 1, "SEP"), "patch runs the model"),
    "patch: layer": (lambda: patch(MODEL, LISTS, 3, "SEP"), "layer 3 does not exist"),
    "patch: layer -1": (lambda: patch(MODEL, LISTS, -1, "SEP"), "layer -1 does not exist"),
    "patch: position": (lambda: patch(MODEL, LISTS, 1, "sep"), "position 'sep' does not exist"),
    "patch: swapped": (lambda: patch(MODEL, LISTS, "SEP", 1), "layer must be a whole number, got 'SEP'"),
    "patch: donors": (lambda: patch(MODEL, [[0, 9]], 1, "SEP"), "digits must lie in 0 … 4"),
    "patch: too many": (
        lambda: MODEL(LISTS, patch(MODEL, LISTS[:3], 1, "SEP")),
        "residuals must have shape [3, 1 or 4, 5, 8]",
    ),
    "arrays: no such": (lambda: matching_arrays(CONFIG, "W_E"), "names no array of this model"),
    "arrays: no pattern": (lambda: matching_arrays(CONFIG, "["), "is not a regular expression"),
    "observe: config": (
        lambda: analysis.observe(CONFIG, LISTS),
        "model must be a ListTransformer, got Model",
    ),
    "observe: swapped": (lambda: analysis.observe(LISTS, MODEL), "model must be a ListTransformer, got ndar"),
    "observe: nothing": (lambda: analysis.observe(MODEL, LISTS[:0]), "give at least one list"),
    "observe: floats": (lambda: analysis.observe(MODEL, LISTS * 1.0), "lists must hold integers"),
    "observe: NaN": (lambda: analysis.observe(broken(), LISTS), "weights are not finite numbers"),
    "ablate: mode": (lambda: analysis.ablate_edges(MODEL, LISTS, "median"), "mode must be one of"),
    "ablate: swapped": (lambda: analysis.ablate_edges(LISTS, MODEL), "model must be a ListTransformer"),
    "ablate: nothing": (lambda: analysis.ablate_edges(MODEL, LISTS[:0]), "at least one list"),
    "ablate: head": (lambda: analysis.ablate_edges(MODEL, LISTS, head=2), "head 2 does not exist"),
    "ablate: tolerance": (
        lambda: analysis.ablate_edges(MODEL, LISTS, tolerance=NAN),
        "tolerance must be a f",
    ),
    "ablate: percent": (
        lambda: analysis.ablate_edges(MODEL, LISTS, tolerance="1 %"),
        "tolerance must be a fr",
    ),
    "ablate: observation": (lambda: analysis.ablate_edges(SEEN, LISTS), "model must be a ListTransformer"),
    "jointly: model": (lambda: analysis.ablate_jointly(MODEL, []), "observation must be an Observation, got"),
    "jointly: edge": (lambda: analysis.ablate_jointly(SEEN, ["L0 x<-d1"]), "edge 'L0 x<-d1' does not exist"),
    "jointly: one edge": (lambda: analysis.ablate_jointly(SEEN, "L1 o2<-o1"), "must be given as a list"),
    "jointly: mode": (lambda: analysis.ablate_jointly(SEEN, [], "median"), "mode must be one of"),
    "jointly: head": (lambda: analysis.ablate_jointly(SEEN, [], head=1), "head 1 does not exist"),
    "intervene: model": (lambda: analysis.intervene(MODEL), "observation must be an Observation"),
    "intervene: keep": (lambda: analysis.intervene(SEEN, keep=np.ones(3)), "keep must have shape"),
    "intervene: patterns": (lambda: analysis.intervene(SEEN, patterns=np.ones((T, T))), "patterns must have"),
    "intervene: at": (
        lambda: analysis.intervene(SEEN, patterns=SEEN.patterns, patterns_at=np.ones((L, T, T))),
        "patterns_at must hold truth values",
    ),
    "difference: model": (lambda: analysis.decompose_difference(MODEL), "observation must be an Observation"),
    "difference: long": (lambda: analysis.decompose_difference(observed(LONG)), "this model has 3 layers"),
    "lens: model": (lambda: analysis.logit_lens(MODEL), "observation must be an Observation"),
    "closed form: model": (lambda: analysis.closed_form(MODEL), "observation must be an Observation"),
    "closed form: long": (
        lambda: analysis.closed_form(observed(LONG)),
        "this model has 3 layers and lists of",
    ),
    "equations: model": (
        lambda: analysis.why_no_equations(MODEL),
        "config must be a ModelConfig, got ListTra",
    ),
    "misfits: model": (lambda: analysis.misfits(MODEL), "config must be a ModelConfig, got ListTransformer"),
    "exchange: model": (lambda: analysis.exchange_in_model(MODEL), "observation must be an Observation"),
    "exchange: same": (lambda: analysis.exchange_in_model(SEEN, 0, 0), "cannot exchange digits 0 and 0"),
    "exchange: digit": (lambda: analysis.exchange_in_model(SEEN, 0, 2), "two different ones of 0 … 1"),
    "exchange: name": (lambda: analysis.exchange_in_model(SEEN, "d1", "d2"), "cannot exchange digits d1 and"),
    "exchange: form": (lambda: analysis.exchange_in_closed_form(MODEL), "observation must be an Observation"),
    "separate: model": (lambda: analysis.separate_outputs(MODEL), "observation must be an Observation"),
    "reconstruct: model": (lambda: analysis.reconstruct_from_positions(MODEL), "observation must be an Obs"),
    "attention: model": (lambda: analysis.attention_statistics(MODEL), "observation must be an Observation"),
    "sep: model": (lambda: analysis.sep_attention(MODEL), "observation must be an Observation"),
    "sep: layer": (lambda: analysis.sep_attention(SEEN, 2), "layer 2 does not exist"),
    "sep: layer -1": (lambda: analysis.sep_attention(SEEN, -1), "layer -1 does not exist"),
    "sep: layer as text": (
        lambda: analysis.sep_attention(SEEN, "0"),
        "layer must be a whole number, got '0'",
    ),
    "parameters: config": (lambda: analysis.parameter_overview(CONFIG), "model must be a ListTransformer"),
    "errors: model": (lambda: analysis.list_errors(LISTS, MODEL), "outcome must be an Outcome, got ListTran"),
    "errors: fewer": (lambda: analysis.list_errors(LISTS[:2], SEEN), "lists must be those of the outcome"),
    "output errors: model": (lambda: analysis.output_errors(LISTS, MODEL), "outcome must be an Outcome"),
    "output errors: list": (
        lambda: analysis.output_errors(LISTS[:1], SEEN),
        "lists must be those of the out",
    ),
    "p value: fewer": (lambda: analysis.structure_p_value(LISTS, np.ones(2, bool), 5), "wrong must say of"),
    "p value: numbers": (lambda: analysis.structure_p_value(LISTS, np.ones(4), 5), "wrong must say of each"),
    "p value: digit": (lambda: analysis.structure_p_value(LISTS, LISTS[:, 0] > 1, 3), "digits must lie in 0"),
    "study: config": (lambda: analysis.study_model(CONFIG, LISTS), "model must be a ListTransformer"),
    "study: training": (lambda: analysis.study_model(MODEL, LISTS, [[0, 9]]), "digits must lie in 0 … 4"),
    "tabulate: model": (lambda: analysis.tabulate(MODEL), "found must be a Study, got ListTransformer"),
    "explorer: long": (lambda: explorer.explorer_html(LONG), "the explorer shows models of two or"),
    "explorer: config": (lambda: explorer.explorer_html(CONFIG), "model must be a ListTransformer"),
    "report: complete": (lambda: report.complete({}), "results must be what tabulate gives: they have no"),
    "report: results": (lambda: report.complete(None), "results must be a Mapping, got NoneType"),
    "report: judge": (lambda: report.judge_claims([{}]), "ours must be a Mapping, got list"),
    "report: judge one": (lambda: report.judge_claims({"val": {}}), "ours must be by two_layer and three_"),
    "report: page": (lambda: report.render_page(None, {}, {}), "found must be a Study, got NoneType"),
    "figures: said": (lambda: figures.read_published(None, {}), "said must be a Mapping, got NoneType"),
    "figures: measured": (lambda: figures.read_published({}, {}), "said must hold what was stored of a"),
    "explorer: list": (lambda: explorer.explorer_html(MODEL, validation=[[7, 0]]), "digits must lie in 0"),
    "explorer: one list": (lambda: explorer.explorer_html(MODEL, validation=[1, 0]), "lists must have shape"),
    "explorer: circuits": (lambda: explorer.explorer_html(MODEL, circuits={}), "circuits must hold circuit_"),
    "explorer: state": (lambda: explorer.evaluate([1, 2], MODEL), "state must be a Mapping, got list"),
    "explorer: model": (lambda: explorer.evaluate({}, CONFIG), "model must be a ListTransformer"),
    "explorer: three digits": (lambda: explorer.evaluate({}, LONG), "this model has lists of 3 digits"),
    "explorer: film": (lambda: explorer.film_model("last"), "the film has no step 'last'; it has 0, 100"),
    "explorer: shown": (lambda: explorer.single_page(MODEL), "shown must be a PageModel"),
    "figure: matrix": (
        lambda: figures.ablation_matrix(MODEL),
        "ablation must be an EdgeAblation, got ListTr",
    ),
    "figure: bars": (
        lambda: figures.difference_bars(SEEN),
        "difference must be a Difference, got Observation",
    ),
    "figure: histograms": (lambda: figures.attention_histograms(SEEN), "statistics must be an AttentionStat"),
    "figure: scores": (lambda: figures.sep_attention_scores(SEEN), "sep must be a SepAttention"),
    "figure: wrong lists": (lambda: figures.wrong_lists(SEEN, 5), "errors must be a ListErrors"),
    "figure: no flow": (lambda: figures.information_flow(), "information_flow needs at least one Flow"),
    "figure: flow": (lambda: figures.information_flow(SEEN), "a panel must be a Flow, got Observation"),
    "figure: no curve": (lambda: figures.training_curves(), "training_curves needs at least one Curve"),
    "figure: curves": (lambda: figures.training_curves([1, 2]), "a curve must be a Curve, got list"),
    "figure: curve": (lambda: figures.Curve("a", [1, 2], [0.5]), "must have the same length"),
    "figure: format": (lambda: figures.save(Figure(), "new/x", ("jpg",)), "formats are some of"),
    "figure: one format": (lambda: figures.save(Figure(), "new/x", "png"), "formats are some of"),
    "figure: none": (lambda: figures.save(None, "new/x"), "figure must be a Figure, got NoneType"),
    "figure: no groups": (lambda: figures.survival_curves([]), "this figure takes 1 to"),
    "figure: no series": (lambda: figures.dose_response({}), "this figure takes 1 to"),
    "figure: dose": (lambda: figures.dose_response({"a": [(NAN, summary())]}), "doses must be finite"),
    "figure: no doses": (lambda: figures.dose_response({"a": []}), "every series needs a dose"),
    "figure: negative dose": (
        lambda: figures.dose_response({"a": [(-1, summary())]}, log=True),
        "must not be negative",
    ),
    "figure: no cells": (lambda: figures.success_rates([]), "needs at least one cell"),
    "figure: heatmap": (lambda: figures.success_heatmap([summary()], "depth"), "the cells have no field"),
    "figure: colour": (lambda: figures.success_heatmap([summary()], "x", "red"), "coloured by 'success' or"),
    "figure: outcome": (lambda: figures.outcome_strips([summary()], "loss"), "a strip shows 'accuracy' or"),
    "report: model": (lambda: report.write_report("new", MODEL, None, name="x"), "found must be a Study"),
    "report: history": (lambda: report.read_history("log/checkpoint"), "is not the log of a training run"),
    "checkpoint: swapped": (
        lambda: checkpoint.save_checkpoint(MODEL, "new", default_config()),
        "takes a path, a ListTransformer and a ConfigDict, in this order",
    ),
    "checkpoint: other": (
        lambda: checkpoint.save_checkpoint("new", MODEL, default_config()),
        "the configuration describes ModelConfig",
    ),
    "checkpoint: no name": (lambda: checkpoint.load_pretrained("four_layer"), "no pretrained model 'four_la"),
    "checkpoint: no path": (lambda: checkpoint.load_checkpoint(None), "a path is text or a pathlib.Path"),
    "checkpoint: bytes": (lambda: checkpoint.load_checkpoint(b"folder"), "a path is text or a pathlib.Path"),
    "checkpoint: no model": (lambda: checkpoint.named_arrays(3), "model must be a ListTransformer, got int"),
    "checkpoint: no arrays": (lambda: checkpoint.from_named_arrays(CONFIG, [1]), "arrays must be a Mapping"),
    "checkpoint: lists": (
        lambda: checkpoint.from_named_arrays(CONFIG, checkpoint.named_arrays(MODEL) | {"embed.W_E": [1.0]}),
        "embed.W_E has shape [1], expected",
    ),
    "state: no arrays": (lambda: checkpoint.save_state("new", 1, {}, {}), "a state needs arrays"),
    "torch: no model": (lambda: convert.to_torch(3), "model must be a ListTransformer, got int"),
    "torch: no arrays": (lambda: convert.from_torch(3), "arrays must be a Mapping, got int"),
    "torch: no path": (lambda: convert.read_arrays(None), "a path is text or a pathlib.Path"),
    "sweep: a text for a grid": (
        lambda: sweep.sweep_config(default_config(), "abc", 1),
        "grid must be a Mapping",
    ),
    "sweep: a number for values": (
        lambda: sweep.sweep_config(default_config(), {"model.n_layers": 3}, 1),
        "the grid needs several values of model.n_layers",
    ),
    "sweep: part of a seed": (
        lambda: sweep.plan(sweep.sweep_config(default_config(), {"model.n_layers": (1,)}, 1.5)),
        "config.seeds must be a whole number",
    ),
    "checkpoint: folder": (lambda: checkpoint.load_checkpoint("folder"), "is not a checkpoint"),
    "checkpoint: missing": (lambda: checkpoint.from_named_arrays(CONFIG, {}), "W_K is missing"),
    "checkpoint: unknown": (
        lambda: checkpoint.from_named_arrays(CONFIG, checkpoint.named_arrays(MODEL) | {"x": np.ones(3)}),
        "array x does not belong to this model",
    ),
    "checkpoint: shape": (
        lambda: checkpoint.from_named_arrays(CONFIG, checkpoint.named_arrays(LONG)),
        "does not belong to this model",
    ),
    "torch: nothing": (lambda: convert.from_torch({}), "array embed.W_E is missing"),
    "torch: missing": (
        lambda: convert.from_torch(arrays(unembed__W_U=lambda x: None)),
        "unembed.W_U is miss",
    ),
    "torch: unknown": (
        lambda: convert.from_torch(arrays(other=lambda x: np.ones(3))),
        "array other has no pl",
    ),
    "torch: axes": (lambda: convert.from_torch(arrays(embed__W_E=lambda x: x[0])), "must have 2 axes"),
    "torch: shape": (lambda: convert.from_torch(arrays(unembed__W_U=lambda x: x.T)), "has shape"),
    "torch: integers": (lambda: convert.from_torch(arrays(embed__W_E=lambda x: x.astype(int))), "floating"),
    "torch: NaN": (lambda: convert.from_torch(arrays(embed__W_E=lambda x: x * NAN)), "not finite"),
    "torch: text": (lambda: convert.read_arrays("text.npz"), "is not an .npz file of plain arrays"),
    "train: batch": (lambda: TrainConfig(batch_size=0), "train.batch_size must be at least 1"),
    "train: half a batch": (lambda: TrainConfig(batch_size=0.5), "must be a whole number, got 0.5"),
    "train: batches": (lambda: TrainConfig(batches="random"), "train.batches must be one of"),
    "train: rate": (lambda: TrainConfig(learning_rate="fast"), "must be a number, got 'fast'"),
    "train: rate NaN": (lambda: TrainConfig(learning_rate=NAN), "must be a finite number"),
    "train: rate inf": (lambda: TrainConfig(learning_rate=float("inf")), "must be a finite number"),
    "train: rate whole": (lambda: TrainConfig(learning_rate=10**50), "must be a finite number of 32 bits"),
    "train: accuracy": (lambda: TrainConfig(min_accuracy=90), "train.min_accuracy is a fraction"),
    "train: patience": (lambda: TrainConfig(patience=0), "train.patience must be at least 1 or None"),
    "train: validations": (lambda: TrainConfig(eval_every=2**40), "train.eval_every must be below 2^31"),
    "train: overrides": (lambda: TrainConfig(overrides=("a",)), "train.overrides holds (pattern, field"),
    "train: override": (lambda: TrainConfig(overrides=as_drawn("x", rate=1.0)), "one of learning_rate"),
    "train: value": (lambda: TrainConfig(overrides=(("x", "epsilon", NAN),)), "and a number; got"),
    "config: name": (lambda: check_config(changed(train__rate=1)), "unknown option train.rate; train has"),
    "config: group": (lambda: check_config(changed(task=None)), "task must be a group of options, got None"),
    "config: empty": (lambda: check_config(ml_collections.ConfigDict()), "needs the groups task and model"),
    "config: how": (lambda: read_train(ml_collections.ConfigDict()), "does not say how to train"),
    "config: a number": (lambda: check_config(3), "a configuration must be a ConfigDict, got 3"),
    "config: a name": (lambda: make_setup("two_layer"), "a configuration must be a ConfigDict, got 'two_la"),
    "config: no sweep": (lambda: check_sweep("table4"), "config must be a ConfigDict, got str"),
    "config: sweep": (lambda: check_config(swept()), "give it to `orderscale sweep`"),
    "setup: layers": (lambda: make_setup(changed(model__n_layers=10**5)), "GB are free"),
    "setup: width": (lambda: make_setup(changed(model__d_model=10**6)), "give a smaller model.d_model"),
    "setup: digits": (lambda: make_setup(changed(task__n_digits=10**9)), "give a smaller task.n_digits"),
    "setup: length": (lambda: make_setup(changed(task__list_len=10**6)), "give a smaller task.list_len"),
    "setup: batch": (lambda: make_setup(changed(train__batch_size=10**9)), "give a smaller train.batch_size"),
    "setup: runs": (lambda: make_setup(changed(runs=10**8)), "give a smaller config.runs"),
    "setup: training set": (lambda: make_setup(changed(train__batch_size=8001)), "the training set of 8000"),
    "setup: override": (lambda: make_setup(changed(train__overrides=as_drawn("x"))), "names no array"),
    "training: sizes": (lambda: workdir.train(changed(model__d_model=10**6), "new"), "smaller model.d_model"),
    "training: scores": (
        lambda: workdir.train(changed(train__scores="shifted", train__scores_value=4.0), "new"),
        "it is for sweeps",
    ),
    "training: shares": (
        lambda: workdir.train(default_config(), "new", Share(1, 2)),
        "more processes (2) than",
    ),
    "share: no such": (lambda: Share(2, 2), "there is no process 2 of 2"),
    "share: negative": (lambda: Share(-1, 2), "there is no process -1 of 2"),
    "share: of none": (lambda: Share(0, 3).of(2), "more processes (3) than runs (2)"),
    "sweep: run": (lambda: sweep.plan(default_config()), "give it to `orderscale train`"),
    "sweep: no seeds": (lambda: sweep.plan(swept(seeds=0)), "seed"),
    "sweep: seed": (lambda: sweep.plan(swept(first_seed=-1)), "seeds must be from 0 to"),
    "sweep: success": (lambda: check_sweep(swept(success="high")), "config.success must be a number"),
    "sweep: grid": (lambda: check_sweep(swept(grid="abc")), GRID),
    "sweep: empty grid": (lambda: sweep.plan(swept(grid=())), "the grid is empty"),
    "results: text": (lambda: sweep_rows.read_results("text.csv"), "where the results of a sweep have 'run'"),
    "results: nothing": (lambda: sweep_results.summarize([]), "there are no results to summarise"),
    "results: column": (lambda: sweep_results.summarize([{"seed": 1}], ("depth",)), "have no column 'depth'"),
    "results: rate": (lambda: sweep_results.wilson_interval(3, 2), "a rate needs 0 <= successes <= runs"),
    "sae config: a dict": (
        lambda: sae.SAEConfig({"width": 3}),
        "sae.family must be a word, got {'width': 3}",
    ),
    "sae config: family": (lambda: sae.SAEConfig("gated"), "sae.family must be one of batch_topk, topk"),
    "sae config: no width": (lambda: sae.SAEConfig(width=0), "sae.width must be at least 1"),
    "sae config: wide": (lambda: sae.SAEConfig(width=10**6), "sae.width must be at most 65,536"),
    "sae config: large batch": (
        lambda: sae.SAEConfig(width=2**16),
        "at most 2^24, got 268,435,456: give a s",
    ),
    "sae config: k": (lambda: sae.SAEConfig(k=200), "sae.k=200 keeps more latents than there are"),
    "sae config: half a k": (lambda: sae.SAEConfig(k=2.5), "sae.k must be a whole number, got 2.5"),
    "sae config: rate": (lambda: sae.SAEConfig(learning_rate=0), "sae.learning_rate must be positive"),
    "sae config: rate NaN": (lambda: sae.SAEConfig(learning_rate=NAN), "must be a finite number of 32 bits"),
    "sae config: penalty": (lambda: sae.SAEConfig(penalty=0.1), "sae.penalty is for jumprelu and l1 and not"),
    "sae config: below 0": (lambda: sae.SAEConfig("l1", penalty=-1), "not negative; got -1 with family l1"),
    "sae config: decay": (lambda: sae.SAEConfig(threshold_decay=1), "must be from 0 to below 1, got 1"),
    "sae config: few steps": (
        lambda: sae.SAEConfig(steps=1001),
        "sae.steps=1001 is too few to learn a threshold",
    ),
    "sae config: steps": (lambda: sae.SAEConfig(steps=2**30), "sae.steps must be below 2^30"),
    "sae config: aux": (lambda: sae.SAEConfig(aux=-0.1), "sae.aux must be at least 0"),
    "sae: of a dict": (
        lambda: sae.SparseAutoencoder({"width": 3}, 8, rngs=nnx.Rngs(0)),
        "SAEConfig, got dict",
    ),
    "sae: width as text": (
        lambda: sae.SparseAutoencoder(SMALL_SAE, "8", rngs=nnx.Rngs(0)),
        "d_model must be a whole number from 1 on, got '8'",
    ),
    "sae: SEP of another width": (
        lambda: SAE.encode(np.ones((3, 7))),
        "sep must have shape [B, 8], got [3, 7]",
    ),
    "sae: one number": (lambda: SAE(np.ones((3, 1))), "sep must have shape [B, 8], got [3, 1]"),
    "sae: one SEP": (lambda: SAE.encode(np.ones(8)), "sep must have shape [B, 8], got [8]"),
    "sae: lists": (lambda: SAE.encode(LISTS), "sep must have shape [B, 8], got [4, 2]"),
    "sae: SEP of text": (lambda: SAE.encode([["a"] * 8]), "sep must hold numbers"),
    "sae: traced": (lambda: jax.jit(SAE.encode)(jnp.ones((3, 7))), "sep must have shape [B, 8], got [3, 7]"),
    "sae: latents of SEP": (lambda: SAE.decode(VIEW.sep), "latents must have shape [B, 6], got [25, 8]"),
    "sae arrays: missing": (lambda: with_array(W_dec=None), "array W_dec is missing"),
    "sae arrays: unknown": (
        lambda: with_array(x=np.ones(3)),
        "array x does not belong to a sparse autoencod",
    ),
    "sae arrays: shape": (lambda: with_array(b_enc=np.ones(5)), "array b_enc has shape [5], expected [6]"),
    "sae arrays: text": (lambda: with_array(b_enc=["a"] * 6), "array b_enc must hold numbers"),
    "sae arrays: NaN": (lambda: with_array(b_enc=np.full(6, NAN)), "array b_enc must hold finite numbers"),
    "sae arrays: a list": (lambda: from_named_arrays(SMALL_SAE, [1]), "arrays must be a Mapping, got list"),
    "view: three layers": (
        lambda: sae.view_sep(LONG, TaskConfig(n_digits=5, list_len=3)),
        "where two equations describe the model: ",
    ),
    "view: other task": (
        lambda: sae.view_sep(MODEL, TaskConfig()),
        "the task has lists of 2 of 100 digits, and the model has 2 of 5: give the task of the model",
    ),
    "view: swapped": (lambda: sae.view_sep(TaskConfig(), MODEL), "model must be a ListTransformer, got Task"),
    "view: model's options": (lambda: sae.view_sep(MODEL, CONFIG), "config must be a TaskConfig, got ModelC"),
    "view: NaN": (
        lambda: sae.view_sep(broken(), TaskConfig(n_digits=5)),
        "some weights of this model are not",
    ),
    "view: many digits": (
        lambda: sae.view_sep(random_model(ModelConfig(d_model=8, n_digits=300)), TaskConfig(n_digits=300)),
        "at most those of 200 digits; this model has 300 digits",
    ),
    "view: group": (lambda: VIEW.group("test"), "no group 'test' of lists; there are all, training, valid"),
    "readout: width": (
        lambda: VIEW.readout.logits(np.ones((3, 7))),
        "sep must have shape [B, 8], got [3, 7]",
    ),
    "readout: one SEP": (lambda: VIEW.readout.answers(np.ones(8)), "sep must have shape [B, 8], got [8]"),
    "readout: gate": (lambda: VIEW.readout.gate(LISTS), "sep must have shape [B, 8], got [4, 2]"),
    "encode: swapped": (lambda: sae.encode_lists(VIEW, SAE), "sae must be a SparseAutoencoder, got SepView"),
    "encode: a model": (lambda: sae.encode_lists(SAE, MODEL), "view must be a SepView, got ListTransformer"),
    "encode: other width": (
        lambda: sae.encode_lists(sae.SparseAutoencoder(SMALL_SAE, 4, rngs=nnx.Rngs(0)), VIEW),
        "the SAE reads residuals of width 4, and the model has 8: give the model that it was trained on",
    ),
    "encoded: latents": (
        lambda: ENCODED.decode(np.ones((3, 8))),
        "latents must have shape [B, 6], got [3, 8]",
    ),
    "fidelity: SAE": (lambda: sae.fidelity(SAE), "encoded must be an Encoded, got SparseAutoencoder"),
    "sae judge: fewer": (lambda: sae.judge(VIEW.answers[:3], VIEW.lists), "must both have shape [B, 2]"),
    "sae judge: none": (lambda: sae.judge(LISTS[:0], LISTS[:0]), "with at least one list; got [0, 2] and"),
    "dictionary: SAE": (lambda: sae.match_dictionary(SAE), "encoded must be an Encoded, got SparseAutoenc"),
    "peel: fewer": (
        lambda: sae.peel(VIEW, ENCODED.latents[:3]),
        "latents must have shape [25, F], got [3, 6]",
    ),
    "peel: encoded": (lambda: sae.peel(ENCODED, ENCODED.latents), "view must be a SepView, got Encoded"),
    "agreement: one": (
        lambda: sae.seed_agreement([np.ones((3, 8))]),
        "between the decoders [F, D] of two SAEs",
    ),
    "agreement: rows": (
        lambda: sae.seed_agreement([np.ones(8)] * 2),
        "between the decoders [F, D] of two SAEs",
    ),
    "agreement: SAEs": (lambda: sae.seed_agreement([SAE, SAE]), "decoders must hold numbers, got object"),
    "agreement: widths": (lambda: sae.seed_agreement([np.ones((3, 8)), np.ones((3, 7))]), "of the same D"),
    "bins: none": (lambda: sae.in_bins(ENCODED.latents, 0), "n must be a whole number from 1 on; got 0"),
    "bins: half": (lambda: sae.in_bins(ENCODED.latents, 1.5), "n must be a whole number from 1 on; got 1.5"),
    "bins: one list": (lambda: sae.in_bins(ENCODED.latents[0], 2), "latents must have shape [B, F], got [6]"),
    "bins: NaN": (lambda: sae.in_bins([[NAN]], 2), "latents must hold finite numbers"),
    "grade: no bins": (lambda: sae.grade(ENCODED, 0, bins=[0]), "bins must be a whole number from 1 to 1000"),
    "grade: one number": (lambda: sae.grade(ENCODED, 0, bins=3), "bins must be several numbers of values"),
    "grade: nothing": (lambda: sae.grade(ENCODED, 0, bins=()), "bins must be several numbers of values"),
    "grade: latent": (lambda: sae.grade(ENCODED, 6), "latents are indices from 0 to 5, each once; got 6"),
    "grade: negative": (lambda: sae.grade(ENCODED, -1), "latents are indices from 0 to 5, each once; got -1"),
    "grade: SAE": (lambda: sae.grade(SAE, 0), "encoded must be an Encoded, got SparseAutoencoder"),
    "grade: draws": (lambda: sae.grade(ENCODED, 0, n_draws=0), "n_draws must be a whole number from 1 to"),
    "steer: twice": (lambda: sae.steer(ENCODED, [1, 1]), "from 0 to 5, each once; got [1, 1]"),
    "steer: none": (lambda: sae.steer(ENCODED, []), "latents are indices from 0 to 5, each once; got []"),
    "steer: half": (lambda: sae.steer(ENCODED, 0.5), "latents are indices from 0 to 5, each once; got 0.5"),
    "steer: truth values": (lambda: sae.steer(ENCODED, [True, False]), "latents are indices from 0 to 5"),
    "steer: ragged": (lambda: sae.steer(ENCODED, [[0], [1, 2]]), "latents are indices from 0 to 5"),
    "steer: scales": (lambda: sae.steer(ENCODED, 0, 3, 1), "scales go from low to high, both finite; got 3"),
    "steer: endless": (lambda: sae.steer(ENCODED, 0, 0, float("inf")), "both finite; got 0 and inf"),
    "steer: text": (lambda: sae.steer(ENCODED, 0, "a", "b"), "both finite; got 'a' and 'b'"),
    "steer: SAE": (lambda: sae.steer(SAE, 0), "encoded must be an Encoded, got SparseAutoencoder"),
    "steering: seed": (lambda: sae.study_steering(ENCODED, 0, seed=-1), "seed must be a whole number from 0"),
    "regions: digits": (lambda: regions(lists=VIEW.lists + 1), "digits must lie in 0 … 4, got 1 … 5"),
    "regions: negative": (lambda: regions(lists=VIEW.lists - 1), "digits must lie in 0 … 4, got -1 … 3"),
    "regions: floats": (lambda: regions(lists=VIEW.lists / 1.0), "lists must hold integers, got float64"),
    "regions: three digits": (lambda: regions(lists=[[0, 1, 2]]), "lists must have shape [B, 2], got [1, 3]"),
    "regions: one vector": (lambda: regions(vector=VIEW.sep[0]), "vector must have shape [25, 8] or [1, 8]"),
    "regions: fewer": (
        lambda: regions(base=VIEW.sep[:3]),
        "base must have shape [25, 8] or [1, 8], got [3, 8]",
    ),
    "regions: NaN": (lambda: regions(base=VIEW.sep * NAN), "base must hold finite numbers"),
    "regions: a view": (lambda: regions(readout=VIEW), "readout must be a Readout, got SepView"),
    "study of an SAE: swapped": (
        lambda: sae.study_sae(VIEW, SAE),
        "sae must be a SparseAutoencoder, got SepV",
    ),
    "study of an SAE: a model": (lambda: sae.study_sae(SAE, MODEL), "view must be a SepView, got ListTransf"),
    "tabulate an SAE": (lambda: sae.tabulate(ENCODED), "SAEStudy, got Encoded"),
    "job: a dict": (lambda: sae.Job({"width": 3}, 0, "m"), "SAEConfig, got dict"),
    "job: seed": (lambda: sae.Job(SMALL_SAE, -1, "m"), "seed must be a whole number from 0 to"),
    "job: a source": (lambda: sae.Job(SMALL_SAE, 0, SOURCE), "source must be a str, got Source"),
    "grid: a dict": (lambda: sae.grid({}, {}, [0], "m"), "SAEConfig, got dict"),
    "grid: axis": (
        lambda: sae.grid(SMALL_SAE, {"depth": [1]}, [0], "m"),
        "no option 'depth' of an SAE; there",
    ),
    "grid: a number": (
        lambda: sae.grid(SMALL_SAE, {"k": 3}, [0], "m"),
        "axis k needs values, each once; got 3",
    ),
    "grid: text": (
        lambda: sae.grid(SMALL_SAE, {"family": "l1"}, [0], "m"),
        "needs values, each once; got 'l1'",
    ),
    "grid: twice": (lambda: sae.grid(SMALL_SAE, {"k": [1, 1]}, [0], "m"), "values, each once; got [1, 1]"),
    "grid: lists": (
        lambda: sae.grid(SMALL_SAE, {"k": [[1]]}, [0], "m"),
        "sae.k must be a whole number, got [1]",
    ),
    "grid: no axes": (lambda: sae.grid(SMALL_SAE, ["k"], [0], "m"), "axes must be a Mapping, got list"),
    "grid: seeds": (lambda: sae.grid(SMALL_SAE, {}, 3, "m"), "an SAE needs seeds, each once; got 3"),
    "grid: no seeds": (lambda: sae.grid(SMALL_SAE, {}, [], "m"), "an SAE needs seeds, each once; got []"),
    "grid: width below k": (
        lambda: sae.grid(SMALL_SAE, {"width": [1]}, [0], "m"),
        "sae.k=2 keeps more latents",
    ),
    "train SAEs: none": (lambda: sae.train([], {"m": SOURCE}, "new"), "no SAE to train: give at least one"),
    "train SAEs: one": (
        lambda: sae.train(sae.Job(SMALL_SAE, 0, "m"), {"m": SOURCE}, "new"),
        "jobs must be a Sequence, got Job",
    ),
    "train SAEs: options": (
        lambda: sae.train([SMALL_SAE], {"m": SOURCE}, "new"),
        "a job must be a Job, got SAE",
    ),
    "train SAEs: a source": (lambda: trained_on(SOURCE), "sources must be a Mapping, got Source"),
    "train SAEs: a model": (
        lambda: trained_on({"m": MODEL}),
        "a source must be a Source, got ListTransformer",
    ),
    "train SAEs: name": (lambda: trained_on({"n": SOURCE}), "there is no model 'm'; there are n"),
    "train SAEs: batch": (
        lambda: trained_on({"m": SOURCE}, batch_size=21),
        "sae.batch_size=21 is larger than the training set of 20 lists: give a smaller one",
    ),
    "train SAEs: twice": (
        lambda: sae.train([sae.Job(SMALL_SAE, 0, "m")] * 2, {"m": SOURCE}, "new"),
        "two SAEs would have the name m_batch_topk_w6_k2_lr0.001_seed0: they differ in no option",
    ),
    "train SAEs: no path": (
        lambda: sae.train([sae.Job(SMALL_SAE, 0, "m")], {"m": SOURCE}, None),
        "a path is text or a pathlib.Path, got None",
    ),
    "train SAEs: folder": (
        lambda: sae.train([sae.Job(SMALL_SAE, 0, "m")], {"m": SOURCE}, "folder"),
        "holds something else than SAEs: give another directory",
    ),
    "save SAE: swapped": (lambda: sae.save_sae(SAE, "new"), "sae must be a SparseAutoencoder, got str"),
    "save SAE: about": (lambda: sae.save_sae("new", SAE, [1]), "about must be a Mapping, got list"),
    "load SAE: file": (
        lambda: sae.load_sae("file"),
        "turn a .pt or .npz file into one with orderscale sae-imp",
    ),
    "load SAE: folder": (lambda: sae.load_sae("folder"), "is not a checkpoint of orderscale-jax"),
    "load SAE: a model": (
        lambda: sae.load_sae(checkpoint.PRETRAINED / "two_layer"),
        "holds no sparse autoencoder, but a model or a training state",
    ),
    "load SAE: name": (
        lambda: sae.load_pretrained_sae("four_layer"),
        "no pretrained SAE 'four_layer'; there is",
    ),
    "SAE's model: other": (
        lambda: store.check_model({"model_sha256": "x", "model": "mine"}, MODEL),
        "this SAE was trained on another model (mine): give the checkpoint of that one",
    ),
    "SAE's model: swapped": (lambda: store.check_model(MODEL, {}), "about must be a Mapping, got ListTransf"),
    "import SAE: text": (lambda: sae.import_sae("text.npz"), "text.npz is not an .npz file of plain arrays"),
    "import SAE: no name": (lambda: sae.import_sae(None), "a path is text or a pathlib.Path, got None"),
    "import SAE: folder": (
        lambda: sae.import_sae("folder"),
        "folder is a directory: give a .pt or .npz file",
    ),
    "import SAE: file": (lambda: sae.import_sae("file"), "file is not a PyTorch state_dict of plain tensors"),
}
OF_FILES = {
    # (what is called, the error, words of it)
    "no checkpoint": (lambda: checkpoint.load_checkpoint("nowhere"), FileNotFoundError, "nowhere"),
    "no arrays": (
        lambda: convert.read_arrays("nowhere.npz"),
        FileNotFoundError,
        "there is no file nowhere.npz",
    ),
    "a folder of arrays": (
        lambda: convert.read_arrays("folder"),
        UserError,
        "folder is a directory: give",
    ),
    "no results": (lambda: sweep_rows.read_results("nowhere.csv"), FileNotFoundError, "nowhere.csv"),
    "no SAE": (lambda: sae.load_sae("nowhere"), FileNotFoundError, "nowhere"),
    "no file of an SAE": (lambda: sae.import_sae("no.pt"), FileNotFoundError, "there is no file no.pt"),
    "an SAE in a file": (lambda: sae.save_sae("file/x", SAE), OSError, "file"),
    "an SAE over others": (lambda: sae.save_sae("folder", SAE), FileExistsError, "folder"),
    "SAEs in a file": (
        lambda: sae.train([sae.Job(SMALL_SAE, 0, "m")], {"m": SOURCE}, "file/x"),
        OSError,
        "file",
    ),
    "a figure in a file": (lambda: figures.save(Figure(), "file/x"), OSError, "file"),
    "a checkpoint in a file": (
        lambda: checkpoint.save_checkpoint("file/x", *checkpoint.load_pretrained("two_layer")),
        OSError,
        "file",
    ),
    "a checkpoint over others": (
        lambda: checkpoint.save_checkpoint("folder", *checkpoint.load_pretrained("two_layer")),
        FileExistsError,
        "folder",
    ),
}


def broken() -> ListTransformer:
    """A model one of whose weights is not finite."""
    model = random_model(VARIANTS["plain"])
    model.embed.W_E[...] = model.embed.W_E[...].at[0, 0].set(jnp.nan)
    return model


def observed(model: ListTransformer) -> analysis.Observation:
    return analysis.observe(model, np.array([[0, 1, 2], [3, 4, 0]]))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A directory with some files, in which the test runs."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "something").write_text("else")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "metrics.jsonl").write_text("no JSON\n")
    for name in ("file", "text.npz", "text.csv"):
        (tmp_path / name).write_text("something else\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_says_what_is_wrong(case, files):
    call, said = FUNCTIONS[case]
    before = contents(files)
    with pytest.raises(UserError) as error:
        call()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert contents(files) == before


@pytest.mark.parametrize("case", OF_FILES)
def test_a_function_says_what_is_wrong_with_a_file(case, files):
    call, kind, said = OF_FILES[case]
    before = contents(files)
    with pytest.raises(kind) as error:
        call()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert contents(files) == before


def test_there_are_many_cases():
    assert len(COMMANDS) + len(FUNCTIONS) + len(OF_FILES) >= 200
