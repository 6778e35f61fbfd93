"""What training takes is estimated before it begins: what is impossible is refused, and nothing else."""

import jax
import pytest
from conftest import VARIANTS

from orderscale_jax import host
from orderscale_jax.cli.configuration import load, shipped
from orderscale_jax.config import default_config
from orderscale_jax.errors import UserError
from orderscale_jax.graph import Graph
from orderscale_jax.model import ListTransformer, ModelConfig, init_params
from orderscale_jax.model.config import MOST_LAYERS
from orderscale_jax.task import TaskConfig, make_split
from orderscale_jax.training import ensemble, size, sweep
from orderscale_jax.training.devices import CompiledTraining, place, start_runs
from orderscale_jax.training.ensemble import Ensemble, device_lists, make_setup
from orderscale_jax.training.run import lists_scored

SMALL_MACHINE = 8 * 2**30
SMALL = {"task__n_digits": 5, "model__d_model": 8, "train__batch_size": 16}


@pytest.fixture
def memory(monkeypatch):
    """Sets how much memory is free."""
    return lambda n_bytes: monkeypatch.setattr(host, "free_memory", lambda: n_bytes)


def changed(**options):
    config = default_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in options.items()})
    return config


@pytest.mark.parametrize("config", [*VARIANTS.values(), ModelConfig()], ids=[*VARIANTS, "default"])
def test_weights_are_counted_without_making_them(config):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert config.n_parameters == sum(array.size for array in jax.tree.leaves(shapes))


@pytest.mark.parametrize("variant", ["plain", "MLP"])
def test_a_compiler_plans_no_less(variant):
    model = VARIANTS[variant]
    config = changed(**SMALL, model__n_layers=1 + model.mlp, model__mlp=model.mlp)
    setup, split = make_setup(config)
    training = CompiledTraining(setup, place(1, 16))
    planned = training.bytes(start_runs(setup, [0]), *device_lists(split))
    assert size.run_bytes(setup) <= planned <= 8 * size.run_bytes(setup)


def test_what_is_shipped_trains_on_a_small_machine(memory):
    memory(SMALL_MACHINE)
    for name in shipped():
        config = load(name)
        if "grid" in config:
            sweep.plan(config)
        else:
            config.runs = 1024
            make_setup(config)


IMPOSSIBLE = {
    "model.n_layers": 10**5,
    "model.d_model": 10**6,
    "task.n_digits": 10**9,
    "task.list_len": 10**6,
    "train.batch_size": 10**9,
    "config.runs": 10**6,
}


@pytest.mark.parametrize("option", IMPOSSIBLE)
def test_the_option_that_takes_the_memory_is_named(option, memory):
    memory(SMALL_MACHINE)
    config = default_config()
    config.update_from_flattened_dict({option.removeprefix("config."): IMPOSSIBLE[option]})
    with pytest.raises(UserError, match=rf"GB of memory, and 8\.6 GB are free: give a smaller {option}"):
        make_setup(config)


def test_processes_share_out_the_memory_of_runs(memory):
    memory(SMALL_MACHINE)
    config = changed(runs=10**6)
    with pytest.raises(UserError, match="100,000 runs take at least 48 GB"):
        make_setup(config, n_processes=10)
    make_setup(config, n_processes=1000)


def test_layers_are_compiled_one_by_one(memory):
    memory(10**15)
    said = f"model.n_layers must be at most {MOST_LAYERS}"
    with pytest.raises(UserError, match=said):
        make_setup(changed(model__n_layers=MOST_LAYERS + 1))
    with pytest.raises(UserError, match=said):
        ListTransformer(ModelConfig(n_layers=MOST_LAYERS + 1), rngs=None)


def test_the_library_alone_refuses_too(memory):
    memory(SMALL_MACHINE)
    with pytest.raises(UserError, match="the weights of this model take at least 512 GB of memory"):
        ListTransformer(ModelConfig(n_digits=10**9), rngs=None)
    for graph in (Graph(10**6, 2), Graph(2, 10**9)):
        with pytest.raises(
            UserError, match=r"the edges of a graph with list_len=.* GB are free: give shorter"
        ):
            graph.check(["L0 SEP<-d1"])
    with pytest.raises(UserError, match="a mask of a graph"):
        Graph(10**6, 2).readable(0)
    for task in (TaskConfig(list_len=10**6), TaskConfig(list_len=10**9)):
        with pytest.raises(UserError, match=r"the lists of task.n_digits=100 and task.list_len=10* take at"):
            make_split(task)
    assert len(Graph(2, 1000).live_edges) == 6991


def test_a_device_without_memory_for_one_run_says_so(monkeypatch):
    setup, split = make_setup(changed(**SMALL, model__n_layers=1))
    for name in ("memory", "most_memory"):
        monkeypatch.setattr(ensemble, name, lambda: 1000)
    with pytest.raises(
        UserError, match=r"one run takes .* of memory, as its program is planned, and there are"
    ):
        Ensemble(setup, split, start_runs(setup, [0]))


def test_bytes_in_words():
    sizes = (10**8, 10**9, 12 * 10**9, 1234 * 10**9, 3 * 10**15, 10**25)
    said = ["0.1 GB", "1.0 GB", "12 GB", "1,234 GB", "3 million GB", "1.0e+16 GB"]
    assert [host.in_words(size) for size in sizes] == said


@pytest.mark.parametrize(
    "options",
    [{}, {"duplicates": "none"}, {"duplicates": "train_only"}, {"train_fraction": 0.33}, {"list_len": 3}],
)
def test_lists_scored_are_those_of_the_split(options):
    task = TaskConfig(**{"n_digits": 7, **options})
    split = make_split(task)
    assert lists_scored(task) == (len(split.validation), len(split.train))
