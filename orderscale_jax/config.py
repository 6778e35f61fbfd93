"""The configuration of a run: what `--config.…` can set, with its defaults, and its checks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from orderscale_jax.errors import UserError, check_kind
from orderscale_jax.model import ModelConfig, array_names, matching_arrays
from orderscale_jax.options import check_types, check_values, is_float32, meanings, shown
from orderscale_jax.task import TaskConfig

BATCHES = ("reshuffle", "replay", "resample", "mirrored", "sampled")
SCHEDULES = ("constant", "cosine")
SCORES = ("free", "bounded", "divided", "penalized", "shifted")
OVERRIDES = (  # what can be set for some arrays
    "learning_rate",
    "weight_decay",
    "epsilon",
    "beta2",
    "gradient_noise",
    "initial_scale",
    "first_step",
    "last_step",
)
STATIC_OVERRIDES = ("beta2",)  # optax computes with it in double precision, so it belongs to the program
LAST_SCORES = "blocks.-1.attn.W_[QK]"  # the arrays behind the scores of the last layer
TRANSITION_ACCURACY = 0.75  # a two-layer run stays near 0.50 or breaks through to 0.9; this is between


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train (paper, appendix; defaults as published except `batches`).

    Attributes:
      batch_size: lists per step, over all devices.
      batches: where they come from. `reshuffle`: the training set in a new order every epoch, an
        incomplete last batch dropped; `replay`: the first epoch's batches again and again, as published;
        `resample`: drawn from the training set with replacement; `mirrored`: drawn likewise and each
        list reversed with probability 1/2, so that both orders come equally often; `sampled`:
        drawn from all lists.
      max_steps: steps of one attempt; a run of three attempts may take three times as many.
      learning_rate: of AdamW (betas 0.9 and 0.999).
      weight_decay: decoupled, on every trained array.
      epsilon: of Adam, added to the root of the second moment.
      overrides: other values for some arrays, as (pattern, field, value), see `config.as_drawn`; on the
        command line `PATTERN FIELD VALUE` with semicolons between, in place of all those of the
        configuration. The pattern is a regular expression for whole array names, `blocks.1.attn.W_[QK]` or,
        from the end, `blocks.-1.attn.W_[QK]` (with ten layers and more, `blocks.1.*` names block 10 too);
        of two for the same array and field the later one counts. The field is learning_rate (with 0 the
        array is not trained and no gradient is computed for it; its weight decay goes on, at
        train.learning_rate), weight_decay, epsilon, beta2, gradient_noise, initial_scale (a factor on the
        initial values), first_step or last_step (the array is trained from first_step on and before
        last_step; outside it stays as it is, while Adam's moments follow its gradient).
      scores: what becomes of the scores of the last layer's outputs that choose between several keys,
        while training and in its validations: `free`, nothing; `bounded`, c tanh(s / c); `divided`, s / c;
        `penalized`, the training loss gets c times their mean square; `shifted`, c is added to those of
        SEP. For plain models; all but `penalized` change the model itself, so they are for sweeps, which
        keep no weights.
      scores_value: c of `scores`.
      scores_until: step from which the scores are free; None for never.
      schedule: `constant`, or `cosine` after a linear warm-up from 0.
      warmup_steps: of the cosine schedule.
      max_grad_norm: clip the global gradient norm to this; None does not clip.
      gradient_noise: standard deviation of the Gaussian noise added to every entry of the gradient at
        every step, before clipping, as a multiple of the root mean square of its array's gradient
        (the noise of a mini-batch as a noise-to-signal ratio); 0 adds none.
      eval_every: steps between full validations.
      eval_batch_size: lists per validation batch.
      target_accuracy: stop when validation accuracy reaches this.
      patience: stop after so many validations without a new best; None never does.
      patience_threshold: accuracy below which patience does not stop.
      min_accuracy: an attempt that ends below this accuracy is followed by another, from other weights.
      max_attempts: attempts of a run in all; the best of them is kept.
    """

    batch_size: int = 2048
    batches: str = "reshuffle"
    max_steps: int = 100_000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    overrides: tuple = ()
    scores: str = "free"
    scores_value: float = 0.0
    scores_until: int | None = None
    schedule: str = "constant"
    warmup_steps: int = 1000
    max_grad_norm: float | None = None
    gradient_noise: float = 0.0
    eval_every: int = 100
    eval_batch_size: int = 4096
    target_accuracy: float = 0.999
    patience: int | None = None
    patience_threshold: float = 0.9
    min_accuracy: float = 0.9
    max_attempts: int = 3

    def __post_init__(self):
        check_types(self, "train")
        counts = ("batch_size", "max_steps", "eval_every", "eval_batch_size", "max_attempts")
        least = {**dict.fromkeys(counts, 1), "warmup_steps": 0}
        check_values(self, "train", least, {"batches": BATCHES, "schedule": SCHEDULES, "scores": SCORES})
        for name in (*counts, "warmup_steps", "patience"):
            if (getattr(self, name) or 0) >= 2**31:
                raise UserError(f"train.{name} must be below 2^31, got {getattr(self, name)}")
        object.__setattr__(self, "overrides", _overrides(self.overrides))
        if not self.learning_rate > 0:
            raise UserError(f"train.learning_rate must be positive, got {self.learning_rate}")
        for name in ("min_accuracy", "patience_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"train.{name} is a fraction, from 0 to 1; got {getattr(self, name)}")
        if self.max_steps * self.max_attempts >= 2**31:
            raise UserError(f"train.max_steps is too large: all attempts must stay below {2**31} steps")
        if not self.weight_decay >= 0:
            raise UserError(f"train.weight_decay must not be negative, got {self.weight_decay}")
        if not self.epsilon > 0:
            raise UserError(f"train.epsilon must be positive, got {self.epsilon}")
        if self.scores == "free" and (self.scores_value or self.scores_until is not None):
            raise UserError("train.scores_value and scores_until say nothing where train.scores is 'free'")
        fits = self.scores_value != 0 if self.scores == "shifted" else self.scores_value > 0
        if self.scores != "free" and not fits:
            raise UserError(
                f"train.scores={self.scores!r} needs a train.scores_value that is not zero"
                f"{' or negative' * (self.scores != 'shifted')}, got {self.scores_value}"
            )
        if self.scores_until is not None and not 1 <= self.scores_until < 2**31:
            raise UserError(
                f"train.scores_until must be at least 1 or None, and below 2^31; got {self.scores_until}"
            )
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise UserError(f"train.max_grad_norm must be positive or None, got {self.max_grad_norm}")
        if not self.gradient_noise >= 0:
            raise UserError(f"train.gradient_noise must not be negative, got {self.gradient_noise}")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"train.patience must be at least 1 or None, got {self.patience}")


def _overrides(entries) -> tuple[tuple[str, str, float], ...]:
    """`TrainConfig.overrides` in one form, checked as far as it can be without a model."""
    found = []
    for entry in entries:
        if not isinstance(entry, tuple | list) or len(entry) != 3:
            raise UserError(f"train.overrides holds (pattern, field, value), got {shown(entry)}")
        pattern, field, value = entry
        number = isinstance(value, int | float) and not isinstance(value, bool)  # what JSON can hold
        number = number and is_float32(value)
        is_word = isinstance(pattern, str) and pattern and not set(pattern) & set("; \t\n")
        if not is_word or field not in OVERRIDES or not number:
            raise UserError(
                "train.overrides holds (pattern, field, value) with a word without spaces or semicolons, one "
                f"of {', '.join(OVERRIDES)}, and a number; got {shown(entry)}"
            )
        is_step = field in ("first_step", "last_step")
        wrong = (field == "beta2" and value >= 1) or (field == "epsilon" and value == 0)
        if value < 0 or wrong or (is_step and value != int(value)):
            raise UserError(f"train.overrides gives {field} the value {value}, which it cannot have")
        found.append((pattern, field, float(value)))
    return tuple(found)


def as_drawn(pattern: str, **more: float) -> tuple[tuple[str, str, float], ...]:
    """The overrides that leave arrays at their random initial values, without learning or weight decay.

    The arrays are those whose names match `pattern`.

    `as_drawn(LAST_SCORES)` is the recipe of the configurations `two_layer` and `two_layer_fresh`.
    """
    fields = {"learning_rate": 0.0, "weight_decay": 0.0, **more}
    return tuple((pattern, field, value) for field, value in fields.items())


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Options at the top level of a configuration.

    Attributes:
      seed: decides the initial weights and the batches; of several runs it is the first one's.
      runs: how many runs are trained as one program, with seeds seed … seed + runs - 1.
      name: of the run, in Weights & Biases and in reports; where it is empty one is made up.
      save_seconds: seconds between two savings of the state from which a killed run goes on, each after a
        validation; 0 saves at every one.
    """

    seed: int = 0
    runs: int = 1
    name: str = ""
    save_seconds: float = 30.0

    def __post_init__(self):
        check_types(self, "config")
        check_values(self, "config", {"runs": 1, "save_seconds": 0}, {})
        check_seeds(self.seed, self.runs)


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Logging to Weights & Biases.

    Attributes:
      enabled: log every validation; needs the package wandb.
      project: where to.
    """

    enabled: bool = False
    project: str = "order-by-scale"

    def __post_init__(self):
        check_types(self, "wandb")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Options at the top level of the configuration of a sweep, beside base and grid.

    Attributes:
      seeds: runs of each cell.
      first_seed: seed of a cell's first run; the others follow it.
      success: accuracy from which a run counts as one, in figures and sentences.
      save_seconds: seconds between two savings of the runs in flight, each after a validation; 0 saves at
        every one.
    """

    seeds: int
    first_seed: int
    success: float
    save_seconds: float

    def __post_init__(self):
        check_types(self, "config")
        check_values(self, "config", {"seeds": 1, "save_seconds": 0}, {})
        check_seeds(self.first_seed, self.seeds)
        if not 0 <= self.success <= 1:
            raise UserError(f"config.success is a fraction, from 0 to 1; got {self.success}")


GROUPS = {"": RunConfig, "task": TaskConfig, "model": ModelConfig, "train": TrainConfig, "wandb": WandbConfig}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is the same for every run of one program."""

    model: ModelConfig
    task: TaskConfig
    train: TrainConfig


def default_config() -> ml_collections.ConfigDict:
    """Every option with its default, in the groups `task`, `model`, `train` and `wandb`.

    It is locked: to set an option that does not exist is an error.
    """
    groups = {group: {name: default for name, default, _ in options(group)} for group in GROUPS}
    top = groups.pop("")
    groups["train"]["max_grad_norm"] = config_dict.placeholder(float)
    groups["train"]["patience"] = config_dict.placeholder(int)
    groups["train"]["scores_until"] = config_dict.placeholder(int)
    return ml_collections.ConfigDict({**top, **groups}).lock()


def options(group: str) -> list[tuple[str, Any, str]]:
    """Name, default and meaning of each option of a group that a configuration can set."""
    cls = GROUPS[group]
    meaning = meanings(cls)
    taken = {field.name for field in dataclasses.fields(TaskConfig)} if cls is ModelConfig else ()
    return [
        (field.name, field.default, meaning.get(field.name, ""))
        for field in dataclasses.fields(cls)
        if field.name not in taken  # the task's list length and alphabet are the model's
    ]


def table_config() -> ml_collections.ConfigDict:
    """`default_config` with the settings of the paper's tables: batches of 1,024 lists drawn on the fly."""
    config = default_config()
    config.train.batches = "sampled"
    config.train.batch_size = 1024
    config.train.max_steps = 50_000
    config.train.eval_every = 500
    return config


def check_seeds(first: int, count: int):
    """UserError unless seeds first … first + count - 1 are different unsigned 32-bit numbers."""
    if not 0 <= first <= 2**32 - count:
        raise UserError(f"seeds must be from 0 to {2**32 - 1}, got {first} … {first + count - 1}")


def check_config(config: ml_collections.ConfigDict):
    """UserError unless `config` is complete and every option in it exists and fits."""
    model_config(config), train_config(config)
    if missing := [name for name in ("seed", "runs", "name", "save_seconds", "wandb") if name not in config]:
        raise UserError(f"the configuration says nothing of {missing[0]}: start from default_config()")
    _build(RunConfig, "", {name: value for name, value in config.items() if name not in GROUPS})
    _build(WandbConfig, "wandb", config.wandb)


def check_sweep(config: ml_collections.ConfigDict):
    """UserError unless `config` is that of a sweep, as far as it can be told without its cells."""
    check_kind("config", config, ml_collections.ConfigDict)
    if "grid" not in config:
        raise UserError("this is the configuration of one run, not of a sweep: give it to `orderscale train`")
    top = {name: value for name, value in config.items() if name not in ("base", "grid")}
    names = [field.name for field in dataclasses.fields(SweepConfig)]
    if missing := [name for name in (*names, "base") if name not in config]:
        raise UserError(f"the sweep says nothing of {missing[0]}: make it with sweep_config()")
    if unknown := sorted(set(top) - set(names)):
        raise UserError(f"unknown option {unknown[0]}; a sweep has base, grid, {', '.join(names)}")
    SweepConfig(**top)
    for group in ("task", "model", "train"):
        if not isinstance(config.base, ml_collections.ConfigDict) or group not in config.base:
            raise UserError(f"the base of a sweep needs the group {group}: start from default_config()")
    for axis in config.grid if isinstance(config.grid, tuple | list) else [config.grid]:
        if not _is_axis(axis):
            raise UserError(
                "the grid of a sweep holds fields with their values, as sweep_config() makes it of "
                f"{{'model.n_layers': (1, 2)}}; got {shown(axis)}"
            )


def _is_axis(axis: Any) -> bool:
    """Whether it is (fields, values) with a value for each field in each."""
    several = (tuple, list)
    if not isinstance(axis, several) or len(axis) != 2 or not all(isinstance(x, several) for x in axis):
        return False
    fields, values = axis
    right = all(isinstance(value, several) and len(value) == len(fields) for value in values)
    return right and bool(fields) and all(isinstance(field, str) for field in fields)


def task_config(config: ml_collections.ConfigDict) -> TaskConfig:
    """The `task` group, checked."""
    if not isinstance(config, dict | ml_collections.ConfigDict):
        raise UserError(f"a configuration must be a ConfigDict, got {shown(config)}: see default_config()")
    if "grid" in config:
        raise UserError("this is the configuration of a sweep: give it to `orderscale sweep`")
    if "task" not in config or "model" not in config:
        raise UserError("a configuration needs the groups task and model: start from default_config()")
    return _build(TaskConfig, "task", config.task)


def model_config(config: ml_collections.ConfigDict) -> ModelConfig:
    """The `model` group with the task's list length and alphabet, checked."""
    task = task_config(config)
    return _build(ModelConfig, "model", config.model, list_len=task.list_len, n_digits=task.n_digits)


def train_config(config: ml_collections.ConfigDict) -> TrainConfig:
    """The `train` group, checked."""
    if "train" not in config:
        raise UserError(
            "this configuration does not say how to train, as that of an imported checkpoint: copy its "
            "task and model groups into one of default_config()"
        )
    return _build(TrainConfig, "train", config.train)


@functools.lru_cache(maxsize=64)
def overridden(
    model: ModelConfig, overrides: tuple[tuple[str, str, float], ...]
) -> Mapping[str, Mapping[str, int]]:
    """By array and field, the number of the override that holds: the last one that names both.

    Raises:
      UserError: a pattern names no array of this model.
    """
    found: dict[str, dict[str, int]] = {name: {} for name in array_names(model)}
    for number, (pattern, field, _) in enumerate(overrides):
        for name in matching_arrays(model, pattern):
            found[name][field] = number
    return found


def untrained_arrays(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The arrays that training leaves as they are drawn, but for their weight decay."""
    if "train" not in config:
        return ()
    overrides = train_config(config).overrides
    places = overridden(model_config(config), overrides)
    rates = {name: overrides[of["learning_rate"]][2] for name, of in places.items() if "learning_rate" in of}
    return tuple(name for name, rate in rates.items() if rate == 0)


def validation_lists_seen(config: ml_collections.ConfigDict) -> bool | None:
    """Whether training may draw validation lists, so that accuracy on them is what a model can hold and not
    what it generalises to; None where that is not known: lists are drawn from more than can be held, or the
    configuration does not say how it was trained."""
    if "train" not in config:
        return None
    task, batches = task_config(config), train_config(config).batches
    both_orders_train = task.split == "paired" and task.paired_share == 1
    if not task.is_exhaustive:
        return None
    return batches == "sampled" or (batches == "mirrored" and not both_orders_train)


def _build(cls, group: str, values, **more):
    if not isinstance(values, dict | ml_collections.ConfigDict):
        raise UserError(f"{group} must be a group of options, got {shown(values)}")
    known = {field.name for field in dataclasses.fields(cls)} - set(more)
    if unknown := sorted(set(values) - known):
        where = f"{group}." if group else ""
        there_is = [*sorted(known), *(() if group else filter(None, GROUPS))]
        raise UserError(
            f"unknown option {where}{unknown[0]}; {group or 'a configuration'} has {', '.join(there_is)}"
        )
    return cls(**values, **more)
