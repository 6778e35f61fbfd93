"""Many SAEs in one directory, on one model or many; what is there is not trained again.

A directory holds `plan.json`, which says what is trained, `saes/NAME`, an SAE each, and, until they are
ready, `states/`, from which a run that was killed goes on.

Dimensions: B lists, D model, J jobs, R runs, S models.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from orderscale_jax import checkpoint, files, storage
from orderscale_jax.circuits.checks import check_seed
from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model import ListTransformer
from orderscale_jax.options import shown
from orderscale_jax.sae import store
from orderscale_jax.sae.config import SAEConfig
from orderscale_jax.sae.training import (
    STRETCH,
    CompiledSAETraining,
    Hyper,
    SAERun,
    bind,
    hyper_of,
    start_runs,
)
from orderscale_jax.sae.views import SepView, view_sep
from orderscale_jax.task import TaskConfig
from orderscale_jax.training.devices import lay_out
from orderscale_jax.training.interruption import NEVER, Interrupted, Interruption
from orderscale_jax.training.owner import owned
from orderscale_jax.training.shares import ALL

PLAN, SAES = "plan.json", "saes"
FORMAT = 1
TIMED_STEPS = 20
DIVERGED, SMALLEST_LOSS = 1e4, 1e-6  # so many times the loss of the inputs' mean, and never less
# On a CPU each SAE is trained alone, all by the same program.
_compiled = functools.lru_cache(maxsize=4)(CompiledSAETraining)


@dataclasses.dataclass(frozen=True)
class Job:
    """One SAE to train.

    Attributes:
      config: how.
      seed: decides its first weights and batches.
      source: name of the model on whose SEP it is trained.

    Raises:
      UserError: the configuration, the seed or the name is none.
    """

    config: SAEConfig
    seed: int
    source: str

    def __post_init__(self):
        check_kind("config", self.config, SAEConfig)
        check_seed(self.seed)
        check_kind("source", self.source, str)

    @property
    def name(self) -> str:
        return store.name_of(self.config, self.seed, self.source)


@dataclasses.dataclass(frozen=True)
class Source:
    """A model of which SAEs are trained: its SEP and which lists train; `digest` names it by its weights."""

    view: SepView
    digest: str


def source(model: ListTransformer, config: TaskConfig) -> Source:
    """A model as what SAEs are trained on, for its task; UserError as `view_sep`."""
    return Source(view_sep(model, config), store.model_digest(model))


def grid(base: SAEConfig, axes: Mapping[str, Sequence[Any]], seeds: Sequence[int], source: str) -> list[Job]:
    """A job for every combination of values and every seed, the last axis fastest.

    Raises:
      UserError: an axis is no option of an SAE, is empty, or a combination does not fit; a seed is no
        unsigned number of 32 bits or is there twice.
    """
    check_kind("base", base, SAEConfig)
    check_kind("axes", axes, Mapping)
    known = [field.name for field in dataclasses.fields(SAEConfig)]
    for name, values in axes.items():
        if name not in known:
            raise UserError(f"there is no option {name!r} of an SAE; there are {', '.join(known)}")
        several = isinstance(values, Iterable) and not isinstance(values, str) and list(values)
        if not several or any(value in several[:i] for i, value in enumerate(several)):
            raise UserError(f"the axis {name} needs values, each once; got {shown(values)}")
    if not isinstance(seeds, Iterable):
        raise UserError(f"an SAE needs seeds, each once; got {shown(seeds)}")
    seeds = [check_seed(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"an SAE needs seeds, each once; got {seeds}")
    configs = [base]
    for name, values in axes.items():
        configs = [dataclasses.replace(config, **{name: value}) for config in configs for value in values]
    return [Job(config, seed, source) for config in configs for seed in seeds]


def train(
    jobs: Sequence[Job],
    sources: Mapping[str, Source],
    workdir: str | os.PathLike,
    *,
    on_steps: Callable[[int, float], None] = lambda steps, loss: None,
    save_seconds: float = 30.0,
    interruption: Interruption = NEVER,
) -> dict[str, files.Place]:
    """Trains the SAEs that `workdir` does not hold yet; returns where each is, by its name.

    Args:
      jobs: what to train.
      sources: the models by name.
      workdir: local, made if need be.
      on_steps: called after every stretch with the steps of SAEs that it took, and their mean squared error
        per dimension; at the start with those of SAEs that are ready.
      save_seconds: between two savings of what is in training.
      interruption: asked after every stretch.

    Raises:
      UserError: a job names no source, two have one name, a batch is larger than the training set, `workdir`
        holds SAEs of other plans or models, or is in use by another process.
      Interrupted: it was wanted; what is in training is saved.
      OSError: the system refuses to read or write.
    """
    check_jobs(jobs, sources)
    jobs, workdir = list(jobs), files.absolute(files.place(workdir))
    if files.is_remote(workdir):
        raise UserError(
            f"SAEs are trained in a directory of this machine, and {workdir} is none: copy it after"
        )
    files.make_directory(workdir)
    with owned(workdir, ALL) as check:
        planned = _claim(workdir, jobs, sources)
        places = {job.name: workdir / SAES / job.name for job in jobs}
        for job in jobs:
            if storage.is_there(places[job.name]):
                on_steps(job.config.steps, float("nan"))
        for program in programs(job for job in jobs if not storage.is_there(places[job.name])):
            for group in _groups(program):
                _Course(group, sources, workdir, places, on_steps, save_seconds, interruption, check).train()
        if all(storage.is_there(workdir / SAES / name) for name in planned):
            files.remove_directory(workdir / "states")
    return places


def missing(jobs: Sequence[Job], workdir: str | os.PathLike) -> list[Job]:
    """The jobs whose SAEs are not in `workdir` yet."""
    workdir = files.absolute(files.place(workdir))
    return [job for job in jobs if not storage.is_there(workdir / SAES / job.name)]


def check_jobs(jobs: Sequence[Job], sources: Mapping[str, Source]):
    """UserError unless each job has a name of its own, a source, and enough training lists for its batch."""
    check_kind("jobs", jobs, Sequence)
    check_kind("sources", sources, Mapping)
    for job in jobs:
        check_kind("a job", job, Job)
    for each in sources.values():
        check_kind("a source", each, Source)
    if not jobs:
        raise UserError("there is no SAE to train: give at least one")
    names = [job.name for job in jobs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"two SAEs would have the name {twice[0]}: they differ in no option that a name tells"
        )
    for job in jobs:
        if job.source not in sources:
            raise UserError(f"there is no model {job.source!r}; there are {', '.join(sources)}")
        n_lists = int((~sources[job.source].view.is_validation).sum())
        if job.config.batch_size > n_lists:
            raise UserError(
                f"sae.batch_size={job.config.batch_size} is larger than the training set of {n_lists} lists: "
                "give a smaller one"
            )


def programs(jobs) -> list[list[Job]]:
    """Jobs that one compiled program can train, together."""
    found: dict[SAEConfig, list[Job]] = {}
    for job in jobs:
        found.setdefault(_shape(job.config), []).append(job)
    return list(found.values())


def _shape(config: SAEConfig) -> SAEConfig:
    """The configuration without what may differ between runs of one program."""
    return dataclasses.replace(config, k=1, penalty=None, learning_rate=SAEConfig.learning_rate)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """As many at once as suits the devices: on a CPU, where runs take turns, one each, so that SAEs are ready
    early; elsewhere all."""
    size = jax.local_device_count() if jax.local_devices()[0].platform == "cpu" else len(jobs)
    return [list(jobs[i : i + size]) for i in range(0, len(jobs), size)]


def _places(n_jobs: int) -> int:
    """Places for so many SAEs: one for one, otherwise as many as fill all devices evenly."""
    n_devices = jax.local_device_count()
    return 1 if n_jobs == 1 else -(-n_jobs // n_devices) * n_devices


def _claim(workdir: files.Place, jobs: Sequence[Job], sources: Mapping[str, Source]) -> list[str]:
    """Writes what is trained here, or checks that it is what was begun, with as many more as one likes; the
    names of all that were ever planned."""
    path = workdir / PLAN
    said = {"format": FORMAT, "models": {name: source.digest for name, source in sources.items()}, "jobs": {}}
    if path.exists():
        before = files.read_note(path)
        if before.get("format") != FORMAT:
            raise UserError(f"{path} was written by another version: give another directory")
        for name, digest in before["models"].items():
            if said["models"].setdefault(name, digest) != digest:
                raise UserError(f"{workdir} holds SAEs of another model {name!r}: give another directory")
        said["jobs"] = before["jobs"]
    elif any(workdir.glob("[!.]*")):
        raise UserError(f"{workdir} holds something else than SAEs: give another directory")
    for job in jobs:
        options = dataclasses.asdict(job.config)
        if said["jobs"].setdefault(job.name, options) != options:
            old = said["jobs"][job.name]
            name = next(name for name in options if options[name] != old.get(name))
            raise UserError(
                f"{workdir} was begun with {name}={old.get(name)} and not {options[name]}: give the same "
                "options or another directory"
            )
    files.write_note(path, said)
    return list(said["jobs"])


class _Course:
    """Runs of one program, to their end."""

    def __init__(self, jobs, sources, workdir, places, on_steps, save_seconds, interruption, check):
        self.jobs, self.places, self.check = jobs, places, check
        self.on_steps, self.save_seconds, self.interruption = on_steps, save_seconds, interruption
        self.sources = {name: sources[name] for name in dict.fromkeys(job.source for job in jobs)}
        key = hashlib.sha256("\n".join(job.name for job in jobs).encode()).hexdigest()[:16]
        self.states = workdir / "states" / key

    def train(self):
        config, n_places, done = _shape(self.jobs[0].config), _places(len(self.jobs)), 0
        runs, inputs = begin(self.jobs, n_places, self.sources)
        self.most = {
            name: max(SMALLEST_LOSS, DIVERGED * float(((sep - sep.mean(0)) ** 2).sum(-1).mean()))
            for name, sep in zip(self.sources, np.asarray(inputs), strict=True)
        }
        latest = checkpoint.restore_latest(self.states, self._kept(jax.device_get(runs)))
        if latest is not None:
            done, kept, _ = latest
            which = np.arange(n_places) % len(self.jobs)
            runs = jax.tree.map(lambda x: np.asarray(x)[which], kept)
            self.on_steps(done * len(self.jobs), float("nan"))
        placement = lay_out(n_places)
        loaded, saved_at = None, time.perf_counter()
        with self.interruption.deferred():
            while done < config.steps:
                size = min(STRETCH, config.steps - done)
                training = _compiled(config, size, placement)
                loaded = training.load(runs) if loaded is None else loaded
                loaded = training(loaded, inputs)
                losses = np.asarray(loaded.loss).ravel()[: len(self.jobs)]
                done += size
                self._check_losses(losses, done)
                self.on_steps(size * len(self.jobs), float(losses.mean() / inputs.shape[-1]))
                is_wanted = self.interruption.is_wanted and done < config.steps
                if is_wanted or time.perf_counter() - saved_at >= self.save_seconds:
                    self.check()
                    checkpoint.save_state(self.states, done, self._kept(training.fetch(loaded)), {})
                    saved_at = time.perf_counter()
                if is_wanted:
                    raise Interrupted(f"stopped after step {done:,}, which is saved in {self.states}")
            self._write(runs if loaded is None else training.fetch(loaded))
            if self.interruption.is_wanted:
                raise Interrupted(f"stopped after {self.jobs[-1].name}, which is ready and kept")

    def _kept(self, runs: SAERun) -> SAERun:
        """Runs [R, …] without those that fill places."""
        return jax.tree.map(lambda x: x[: len(self.jobs)], runs)

    def _check_losses(self, losses: np.ndarray, done: int):
        for job, loss in zip(self.jobs, losses, strict=True):
            if not loss <= self.most[job.source]:
                raise UserError(
                    f"{job.name} diverged before step {done:,}: its loss is {loss:.2g}, and that of the mean "
                    f"of all inputs {self.most[job.source] / DIVERGED:.2g}; give a smaller learning rate"
                )

    def _write(self, runs: SAERun):
        for i, job in enumerate(self.jobs):
            self.check()
            run = jax.tree.map(lambda x, i=i: x[i], runs)
            about = {"seed": job.seed, "model": job.source, "model_sha256": self.sources[job.source].digest}
            sae = bind(job.config, run.params, run.fixed)
            store.save_sae(self.places[job.name], sae, {**about, "final_loss": float(run.loss)})
        files.remove_directory(self.states)


def begin(jobs: Sequence[Job], n_places: int, sources: Mapping[str, Source]):
    """(runs [R, …], inputs [S, M, D]) of jobs; places that are left over train some of them again."""
    names = list(sources)
    held = [source.view.sep[~source.view.is_validation] for source in sources.values()]
    if len({sep.shape for sep in held}) > 1:
        raise UserError("the models of one sweep must have the same width and as many training lists")
    inputs = jnp.asarray(np.stack(held), jnp.float32)
    placed = [jobs[i % len(jobs)] for i in range(n_places)]
    hypers: Hyper = jax.tree.map(lambda *x: jnp.stack(x), *(hyper_of(job.config) for job in placed))
    seeds = jnp.asarray([job.seed for job in placed], jnp.uint32)
    which = jnp.asarray([names.index(job.source) for job in placed])
    return start_runs(_shape(jobs[0].config), seeds, which, hypers, inputs), inputs


def estimate(jobs: Sequence[Job], sources: Mapping[str, Source]) -> float:
    """Seconds that training all jobs will take: some steps of each program are timed on all devices."""
    check_jobs(jobs, sources)
    total = 0.0
    for program in programs(jobs):
        group = _groups(program)[0]
        n_places = _places(len(group))
        some = {name: sources[name] for name in dict.fromkeys(job.source for job in group)}
        runs, inputs = begin(group, n_places, some)
        training = CompiledSAETraining(_shape(program[0].config), TIMED_STEPS, lay_out(n_places))
        loaded = jax.block_until_ready(training(training.load(runs), inputs))  # compiles
        loaded = jax.block_until_ready(training(loaded, inputs))
        began = time.perf_counter()
        jax.block_until_ready(training(loaded, inputs))
        per_step = (time.perf_counter() - began) / (TIMED_STEPS * len(group))
        total += per_step * sum(job.config.steps for job in program)
    return total
