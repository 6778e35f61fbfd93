"""Every program of this package that an accelerator runs, by shapes alone, to be lowered and compiled.

Dimensions: R runs, B lists.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from orderscale_jax.analysis.ablation import count_right
from orderscale_jax.analysis.observation import CHUNK, see_chunk
from orderscale_jax.config import Setup
from orderscale_jax.model import MODES, ListTransformer, ModelConfig
from orderscale_jax.sae import SAEConfig
from orderscale_jax.sae import training as sae_training
from orderscale_jax.task import Split
from orderscale_jax.training import run
from orderscale_jax.training.devices import CompiledTraining, Placement, is_worthwhile, jitted, start_runs
from orderscale_jax.training.step import evaluate


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and the shapes that it is run on.

    Attributes:
      name: of this kind and these shapes.
      build: a function of devices, which need not be here, that gives a function with `lower`, and its
        arguments in shapes; of None for a program on one device that is only to be lowered.
      run_steps: how many steps of runs one call takes on each device; None if it does not train.
    """

    name: str
    build: Callable[[Sequence[jax.Device] | None], tuple[Any, tuple]]
    run_steps: float | None = None


def all_programs(
    trained: Mapping[str, tuple[Setup, Split, Sequence[int]]],
    analysed: Mapping[str, tuple[ModelConfig, Split]],
    n_runs: int,
    n_devices: int,
    kernel: str | None,
    saes: Sequence[SAEConfig] = (),
) -> Iterator[Program]:
    """The programs of training some setups, in so many runs each, of analysing some models, and of training
    SAEs on the first setup's model, one and `n_runs` together.

    `kernel` is the one of `fused.KERNELS` that the devices run. The first setup stands for the others where
    its recipe does not matter: in validation of `n_runs`, and on several devices.
    """
    for name, (setup, split, sizes) in trained.items():
        for R in sizes:
            yield drawing(name, setup, split, R, kernel)
            yield training_step(name, setup, R, kernel)
            yield stretch(name, setup, split, R, kernel)
    name, (setup, split, _) = next(iter(trained.items()))
    if n_devices > 1:
        yield stretch(name, setup, split, n_runs, kernel, n_devices, "runs")
        yield stretch(name, setup, split, 1, kernel, n_devices, "batch")
    yield validation(name, setup, split, n_runs, kernel)
    for name, (model, split) in analysed.items():
        yield observation(name, model)
        for mode in MODES:
            yield ablation(name, model, split, mode)
    setup, split, _ = next(iter(trained.values()))
    for config in saes:
        for R in (1, n_runs):
            yield sae_step(config, setup.model.d_model, len(split.train), R)


def drawing(name: str, setup: Setup, split: Split, R: int, kernel: str | None) -> Program:
    """The lists of all steps of R runs up to their next validation."""
    steps = setup.train.eval_every

    def many(rest, train):
        def one(rest):
            return run.batches(setup, rest, rest.step + jnp.arange(steps), train, kernel=kernel)

        return jax.vmap(one)(rest)

    return _on_one(
        f"drawing_{name}_{_of(R)}", many, _rest(_runs(setup, R)), _like(split.train), run_steps=R * steps
    )


def training_step(name: str, setup: Setup, R: int, kernel: str | None) -> Program:
    """One step of R runs on lists that were drawn."""

    def one(params, state, rest, lists):
        return run.stepper(setup, rest, kernel=kernel)(params, state, rest.step, lists)

    def many(*arguments):
        return jax.lax.map(lambda x: one(*x), arguments) if R == 1 else jax.vmap(one)(*arguments)

    runs, kernel = _runs(setup, R), kernel if is_worthwhile(kernel, R) else None
    lists = jax.ShapeDtypeStruct((R, setup.train.batch_size, setup.model.list_len), jnp.int32)
    arguments = runs.params, runs.optimizer, _rest(runs), lists
    return _on_one(f"step_{name}_{_of(R)}", many, *arguments, run_steps=R, donate_argnums=(0, 1))


def stretch(
    name: str,
    setup: Setup,
    split: Split,
    R: int,
    kernel: str | None,
    n_devices: int = 1,
    shared: str = "runs",
) -> Program:
    """R runs to their next validation, on one device or shared out over several: `runs` or the `batch`."""

    def build(devices):
        runs_each = R // n_devices if shared == "runs" else R
        used = kernel if is_worthwhile(kernel, runs_each) else None
        placement = Placement(R, n_devices, shared, R > 1, kernel, used)
        training = CompiledTraining(setup, placement, devices)
        return training.uncompiled(_runs(setup, R), _like(split.train), _like(split.validation))

    several = f"_{n_devices}_devices_by_{shared}" if n_devices > 1 else ""
    return Program(f"stretch_{name}_{_of(R)}{several}", build, setup.train.eval_every * R / n_devices)


def validation(name: str, setup: Setup, split: Split, R: int, kernel: str | None) -> Program:
    """The scores of R runs on all validation lists."""

    def many(params, lists):
        return jax.vmap(functools.partial(evaluate, setup, kernel=kernel), in_axes=(0, None))(params, lists)

    return _on_one(f"validation_{name}_{_of(R)}", many, _runs(setup, R).params, _like(split.validation))


def sae_step(config: SAEConfig, d_model: int, n_lists: int, R: int) -> Program:
    """One step of R sparse autoencoders on as many inputs as a model has training lists."""
    inputs = jax.ShapeDtypeStruct((1, n_lists, d_model), jnp.float32)
    hyper = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((R, *x.shape), x.dtype), sae_training.hyper_of(config)
    )
    seeds, sources = (jax.ShapeDtypeStruct((R,), kind) for kind in (jnp.uint32, jnp.int32))
    runs = jax.eval_shape(functools.partial(sae_training.start_runs, config), seeds, sources, hyper, inputs)

    def build(devices):
        placement = Placement(R, 1, "runs", R > 1, "gpu")
        return sae_training.CompiledSAETraining(config, 1, placement, devices).call, (runs, inputs)

    return Program(f"sae_step_{config.family}_{config.width}_latents_{_of(R)}", build, R)


def ablation(name: str, config: ModelConfig, split: Split, mode: str) -> Program:
    """Every edge of a model cut, on all validation lists."""
    graphdef, state = _split(config)

    def one(state, lists, affordable):
        return count_right(graphdef, state, lists, mode, None, affordable)

    affordable = jax.ShapeDtypeStruct((), jnp.int32)
    return _on_one(f"ablation_{name}_{mode}", one, state, _like(split.validation), affordable)


def observation(name: str, config: ModelConfig) -> Program:
    """One pass of a model over lists, with all that the analyses need."""
    graphdef, state = _split(config)

    def one(state, lists):
        return see_chunk(graphdef, state, lists, None)

    lists = jax.ShapeDtypeStruct((CHUNK, config.list_len), jnp.int32)
    return _on_one(f"observation_{name}", one, state, lists)


def _on_one(name: str, function: Callable, *arguments, run_steps: int | None = None, **options) -> Program:
    def build(devices):
        return jitted(function, devices and devices[0], **options), arguments

    return Program(name, build, run_steps)


def _runs(setup: Setup, R: int) -> run.Run:
    """Shapes of R runs."""
    seeds = jax.ShapeDtypeStruct((R,), jnp.uint32)
    return jax.eval_shape(functools.partial(start_runs, setup), seeds)


def _rest(runs: run.Run) -> run.Run:
    """Runs without what is trained, and without what was best."""
    return dataclasses.replace(runs, params=None, optimizer=None, best_params=None, best_scores=None)


def _split(config: ModelConfig):
    """A model's definition and the shapes of its arrays."""
    return nnx.split(nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0))))


def _like(lists) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(lists.shape, jnp.int32)


def _of(R: int) -> str:
    return f"{R}_run{'s' if R > 1 else ''}"
