"""Measures speed, as ratios against peers timed beside it.

    orderscale benchmark --output=benchmark.jsonl

One JSON line per figure: name, value, unit, device. Every pair is timed in
turn, several times, and the median of the pairwise ratios is given, because
machines drift.
"""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orderscale_jax import checkpoint, sae
from orderscale_jax.accelerators import hlo, programs, targets
from orderscale_jax.analysis import ablate_edges
from orderscale_jax.analysis.ablation import count_right
from orderscale_jax.circuits import all_sets, circuit_table
from orderscale_jax.cli import arguments, machine, peers
from orderscale_jax.cli.configuration import load
from orderscale_jax.config import default_config, table_config, task_config
from orderscale_jax.model import MODES, bind, init_params
from orderscale_jax.model.numerics import matmul
from orderscale_jax.sae import sweep as sae_sweep
from orderscale_jax.sae.training import CompiledSAETraining
from orderscale_jax.training.devices import CompiledTraining, lay_out, place, start_runs
from orderscale_jax.training.ensemble import Ensemble, device_lists, make_setup
from orderscale_jax.training.sweep_results import SUCCESS

MOST_STEPS = 20_000  # that a seed may take to accuracy 0.90
NEVER = 2.0  # an accuracy at which no run stops
PUBLISHED_STEPS_PER_SECOND = 141  # two layers, batch 1024, one run at a time on an unnamed CUDA GPU

OUTPUT = arguments.define(
    "output", "path", None, "a file for the lines; they are printed in any case.", shown="FILE"
)
ROUNDS = arguments.define("rounds", "int", 5, "how often each pair is timed.", least=1)
SEEDS = arguments.define(
    "seeds",
    "int",
    16,
    "train so many two-layer seeds to accuracy 0.90 and tell how long they took; 0 leaves it out.",
    least=0,
)

WIDTHS, SAES = (64, 128, 256), 64
SAE_STEPS, LIBRARY_STEPS = 20, 200  # of each of 64 SAEs per timing; of one, ours and the library's
PAUSE = 0.5  # seconds before each of these: PyTorch's threads go on spinning after their work
SETTLED = 1_500  # steps before SAEs are timed, ours and the library's
TABLE_RUNS, MODELS = 60, 256  # on an accelerator
SETS = 256  # of edges, that the loop tries per timing
DENSE_STEPS = 10  # of the dense port per timing; the product takes a stretch of 100


def main():
    measure(None if OUTPUT.value is None else machine.Lines(OUTPUT.value))


def measure(file: machine.Lines | None):
    """Measures everything; every line is printed, and written to `file` if there is one."""

    def tell(name, value, unit):
        device = jax.devices()[0].device_kind
        line = json.dumps({"name": name, "value": float(value), "unit": unit, "device": device})
        print(line, flush=True)
        if file is not None:
            file.add(line)

    for label, n_layers in (("two_layer", 2), ("three_layer", 3)):
        training_speed(tell, label, n_layers)
    ablation_speed(tell)
    for label in ("two_layer", "three_layer"):
        circuit_speed(tell, label)
    ensemble_speed(tell)
    sae_speed(tell)
    if jax.default_backend() != "cpu":
        many_models(tell)
        table_row(tell)
    if SEEDS.value:
        time_to_accuracy(tell, SEEDS.value)


def training_speed(tell, label: str, n_layers: int):
    """Steps per second as users train (shuffling and validation included) and of the dense ports."""
    config = default_config()
    config.model.n_layers = n_layers
    config.train.target_accuracy = NEVER
    setup, split = make_setup(config)
    lists, validation = device_lists(split)
    advance = CompiledTraining(setup, place(1, setup.train.batch_size))
    state = [advance.load(start_runs(setup, [0]))]

    def ours():
        state[0], reports = advance(state[0], lists, validation)
        return reports

    generator = np.random.default_rng(0)
    batches = split.train[generator.integers(len(split.train), size=(DENSE_STEPS, setup.train.batch_size))]
    model = bind(setup.model, init_params(setup.model, jax.random.key(0)))
    arrays = checkpoint.named_arrays(model)
    dense = peers.train_jax(setup.model, jax.tree.map(jnp.asarray, arrays), batches)
    per_step = {"ours": setup.train.eval_every, "dense": DENSE_STEPS, "torch": DENSE_STEPS}
    calls = {"ours": ours, "dense": dense}
    if torch := peers.train_torch(setup.model, arrays, batches):
        calls["torch"] = torch
    seconds = {name: times / per_step[name] for name, times in timings(calls).items()}
    tell(f"train_steps_per_second_{label}", 1 / np.median(seconds["ours"]), "steps/s")
    tell(f"train_steps_per_second_dense_{label}", 1 / np.median(seconds["dense"]), "steps/s")
    tell(f"train_speedup_over_dense_{label}", np.median(seconds["dense"] / seconds["ours"]), "ratio")
    if "torch" in seconds:
        tell(f"train_steps_per_second_torch_{label}", 1 / np.median(seconds["torch"]), "steps/s")
        tell(f"train_speedup_over_torch_{label}", np.median(seconds["torch"] / seconds["ours"]), "ratio")
    if n_layers == 2:
        step_limit(tell, setup, ours)


def ensemble_speed(tell):
    """Steps per second summed over the runs of an ensemble, two layers, batch 1024."""
    on_cpu = jax.default_backend() == "cpu"
    sizes = (1, 8) if on_cpu else (1, 64, 256, 1024)
    for recipe in ("default",) if on_cpu else ("two_layer", "two_layer_fresh"):
        config = default_config() if on_cpu else load(recipe)
        config.train.batch_size = 1024
        config.train.max_steps = 10**6
        config.train.target_accuracy = NEVER
        setup, split = make_setup(config)
        name = "" if on_cpu else f"_{recipe}"
        calls = {size: ensemble(tell, setup, split, size, name) for size in sizes}
        seconds = timings(calls)
        for size in sizes:
            rate = size * setup.train.eval_every / np.median(seconds[size])
            tell(f"seed_steps_per_second{name}_{size}_runs", rate, "steps/s")
            tell(f"seed_steps_over_published{name}_{size}_runs", rate / PUBLISHED_STEPS_PER_SECOND, "ratio")
            if size > 1 and (bound := memory_bound(setup, size)) is not None:
                tell(f"share_of_memory_bound{name}_{size}_runs", rate / bound, "ratio")
        small, large = sizes[-2:]
        per_run = (seconds[large] / large) / (seconds[small] / small)
        tell(f"cost_per_run{name}_{large}_runs_over_{small}", np.median(per_run), "ratio")


def ensemble(tell, setup, split, size: int, name: str):
    """A stretch of so many runs, to be timed; an accelerator's memory is told, as planned and as taken."""
    lists, validation = device_lists(split)
    advance = CompiledTraining(setup, place(size, setup.train.batch_size))
    runs = start_runs(setup, np.arange(size))
    planned = advance.bytes(runs, lists, validation)
    state = [advance.load(runs)]

    def stretch():
        state[0], reports = advance(state[0], lists, validation)
        return reports

    taken = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if taken is not None:
        stretch()
        taken = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
        tell(f"planned_memory{name}_{size}_runs", planned / 1e9, "GB")
        tell(f"most_memory_so_far{name}_{size}_runs", taken / 1e9, "GB")
    return stretch


def memory_bound(setup, size: int) -> float | None:
    """Steps of runs per second if this device did nothing but move the bytes of a training step; None if its
    memory's speed is not known."""
    device = jax.local_devices()[0]
    target = next((x for x in targets.TARGETS.values() if device.device_kind.startswith(x.kind)), None)
    if target is None:
        return None
    program = programs.training_step("", setup, size, place(size, setup.train.batch_size).kernel)
    step, shapes = program.build([device])
    moved = hlo.cost(hlo.read(step.lower(*shapes).compile().as_text())).bytes_moved
    return size * target.bytes_per_second / moved


def table_row(tell):
    """The authors' 60 runs of their plain model (Table 4), 50,000 steps each, to the end."""
    setup, split = make_setup(table_config())
    ensemble = Ensemble(setup, split, start_runs(setup, np.arange(TABLE_RUNS)))
    began = time.perf_counter()
    while not ensemble.done:
        ensemble.advance()
    tell(f"table_4_row_of_{TABLE_RUNS}_runs", time.perf_counter() - began, "s, compiling included")
    accuracy = ensemble.state().best_accuracy
    tell("table_4_row_above_0.9", (accuracy >= SUCCESS).sum(), f"of {TABLE_RUNS} runs")


def sae_speed(tell):
    """SAE-steps per second of one and of SAES BatchTopK autoencoders, of the published library, and the share
    of the machine's matrix products that a step amounts to."""
    model, config = checkpoint.load_pretrained("two_layer")
    source = sae.source(model, task_config(config))
    for width in WIDTHS:
        jobs = sae.grid(sae.SAEConfig(width=width), {}, [0], "two_layer")
        trained = trained_sae(jobs, {"two_layer": source})
        counts = {1: LIBRARY_STEPS, SAES: SAE_STEPS}
        calls = {n: saes(jobs[0].config, *trained, n, count) for n, count in counts.items()}
        x = source.view.sep[~source.view.is_validation] - source.view.sep.mean(0)
        calls["products"] = sae_products(jobs[0].config, x.astype(np.float32))
        steps = {
            1: LIBRARY_STEPS,
            SAES: SAE_STEPS * SAES,
            "products": LIBRARY_STEPS,
            "library": LIBRARY_STEPS,
        }
        library = None  # it runs on the CPU, so beside an accelerator it says nothing
        if jax.default_backend() == "cpu" and (
            library := peers.train_saes_torch(jobs[0].config, x.astype(np.float32), LIBRARY_STEPS, SETTLED)
        ):
            calls["library"] = library
        seconds = {name: times / steps[name] for name, times in timings(calls, PAUSE).items()}
        tell(f"sae_steps_per_second_{width}", 1 / np.median(seconds[SAES]), "steps/s")
        tell(f"sae_steps_per_second_{width}_alone", 1 / np.median(seconds[1]), "steps/s")
        tell(f"sae_cost_{SAES}_together_over_alone_{width}", np.median(seconds[SAES] / seconds[1]), "ratio")
        share = np.median(seconds["products"] / seconds[SAES])
        tell(f"sae_share_of_matrix_products_{width}", share, "ratio")
        if library:
            tell(f"sae_steps_per_second_library_{width}", 1 / np.median(seconds["library"]), "steps/s")
            ratio = np.median(seconds["library"] / seconds[SAES])
            tell(f"sae_speedup_over_library_{width}", ratio, "ratio")
            ratio = np.median(seconds["library"] / seconds[1])
            tell(f"sae_speedup_over_library_{width}_alone", ratio, "ratio")


def trained_sae(jobs, sources):
    """(run [1, …], inputs) of the first job after SETTLED steps, from which thresholds are followed."""
    runs, inputs = sae_sweep.begin(jobs[:1], 1, sources)
    training = CompiledSAETraining(jobs[0].config, SETTLED, lay_out(1))
    return training.fetch(training(training.load(runs), inputs)), inputs


def saes(config: sae.SAEConfig, run, inputs, n_runs: int, n_steps: int):
    """So many steps of so many SAEs together that go on from a trained one, each with its own batches."""
    runs = jax.tree.map(lambda x: np.repeat(np.asarray(x), n_runs, axis=0), run)
    runs = dataclasses.replace(runs, seed=np.arange(n_runs, dtype=np.uint32))
    training = CompiledSAETraining(config, n_steps, lay_out(n_runs))
    state = [training.load(runs)]

    def stretch():
        state[0] = jax.block_until_ready(training(state[0], inputs))

    return stretch


def sae_products(config: sae.SAEConfig, x):
    """The five matrix products of an SAE-step alone, LIBRARY_STEPS times on inputs [M, D]."""
    x = jnp.asarray(x[: config.batch_size])
    rows = jax.random.normal(jax.random.key(0), (config.width, x.shape[1]))

    @jax.jit
    def products(x, rows):
        def body(_, carry):
            x, rows = carry
            latents = matmul(x, rows.T)
            rebuilt = matmul(latents, rows)
            of_latents = matmul(rebuilt, rows.T)
            of_rows = matmul(rebuilt.T, latents) + matmul(x.T, of_latents)
            return x * 0.5 + rebuilt * 1e-9, rows + 1e-9 * of_rows.T

        return jax.lax.fori_loop(0, LIBRARY_STEPS, body, (x, rows))

    return lambda: jax.block_until_ready(products(x, rows))


def many_models(tell):
    """Every edge of 256 two-layer models cut in both modes, on all validation lists."""
    setup, split = make_setup(default_config())
    graphdef, state = nnx.split(bind(setup.model, init_params(setup.model, jax.random.key(0))))
    states = jax.tree.map(lambda x: jnp.tile(x, (MODELS, *[1] * x.ndim)), state)
    validation = jnp.asarray(split.validation)

    @jax.jit
    def all_edges(states):
        def one(state):
            return [count_right(graphdef, state, validation, mode, None, 0)[1] for mode in MODES]

        return jax.lax.map(one, states, batch_size=8)

    seconds = timings({"all": lambda: jax.block_until_ready(all_edges(states))})["all"]
    tell(f"edge_ablation_of_{MODELS}_models", np.median(seconds), "s")


def time_to_accuracy(tell, n_seeds: int):
    """How long seeds of the recipe `two_layer` take, each alone, from their first step to accuracy 0.90.

    Compilation is not counted. A seed that does not get there within MOST_STEPS counts as slower than all
    others.
    """
    config = load("two_layer")
    config.train.target_accuracy = SUCCESS
    config.train.max_steps = MOST_STEPS
    setup, split = make_setup(config)
    lists, validation = device_lists(split)
    advance = CompiledTraining(setup, place(1, setup.train.batch_size))
    advance(advance.load(start_runs(setup, [0])), lists, validation)
    steps, seconds = [], []
    for seed in range(n_seeds):
        run, done = advance.load(start_runs(setup, [seed])), False
        began = time.perf_counter()
        while not done:
            run, report = advance(run, lists, validation)
            done = bool(report["done"][0])
        if report["best_accuracy"][0] >= SUCCESS:
            steps.append(int(report["step"][0]))
            seconds.append(time.perf_counter() - began)
    tell(f"seeds_above_{SUCCESS}", len(steps), f"of {n_seeds} seeds")
    missing = [np.inf] * (n_seeds - len(steps))
    for share in (0, 50, 100):
        for name, values, unit in (("steps", steps, "steps"), ("seconds", seconds, "s")):
            value = np.percentile([*values, *missing], share, method="higher")
            if np.isfinite(value):
                tell(f"{name}_to_{SUCCESS}_percentile_{share}", value, unit)


def step_limit(tell, setup, ours):
    """Time of a two-layer step divided by the time of its main parts alone on this machine.

    Unavoidable are the softmax of both outputs' logits, one more pass over them, and the matrix
    products that make the logit table and carry its gradient back.
    """
    config, batch = setup.model, setup.train.batch_size
    key = jax.random.key(0)
    logits = jax.random.normal(key, (batch * config.list_len, config.d_vocab))
    n_sources = config.list_len * config.n_digits + config.list_len + 1
    sources = jax.random.normal(key, (n_sources, config.d_model))
    unembed = jax.random.normal(key, (config.d_model, config.d_vocab))
    times = 100  # inside one program, so that dispatch does not count

    @jax.jit
    def softmaxes(logits):
        return jax.lax.fori_loop(0, times, lambda _, x: jax.nn.softmax(x), logits)

    @jax.jit
    def passes(logits):
        return jax.lax.fori_loop(0, times, lambda _, x: x * 1.0001 + 1e-6, logits)

    @jax.jit
    def products(sources, unembed):
        def body(_, carry):
            sources, unembed = carry
            table = jnp.matmul(sources, unembed, precision="highest")
            d_sources = jnp.matmul(table, unembed.mT, precision="highest")
            d_unembed = jnp.matmul(sources.mT, table, precision="highest")
            return sources + 1e-9 * d_sources, unembed + 1e-9 * d_unembed

        return jax.lax.fori_loop(0, times, body, (sources, unembed))

    found = timings(
        {
            "ours": ours,
            "softmax": lambda: jax.block_until_ready(softmaxes(logits)),
            "pass": lambda: jax.block_until_ready(passes(logits)),
            "products": lambda: jax.block_until_ready(products(sources, unembed)),
        }
    )
    limit = (found["softmax"] + found["pass"] + found["products"]) / times
    operations = 3 * 2 * n_sources * config.d_model * config.d_vocab
    tell("softmax_rate", logits.size * times / np.median(found["softmax"]) / 1e9, "1e9 logits/s")
    tell("matmul_rate", operations * times / np.median(found["products"]) / 1e9, "1e9 operations/s")
    tell("train_step_limit", np.median(limit) * 1e6, "us")
    tell("train_step_over_limit", np.median(found["ours"] / setup.train.eval_every / limit), "ratio")


def ablation_speed(tell):
    """All edges of the shipped two-layer model in both modes, against a loop of dense forwards."""
    setup, split = make_setup(default_config())
    model, _ = checkpoint.load_pretrained("two_layer")
    arrays = jax.tree.map(jnp.asarray, checkpoint.named_arrays(model))
    loop = peers.ablate_loop(setup.model, arrays, split.validation)

    def ours():
        return [ablate_edges(model, split.validation, mode) for mode in MODES]

    found = timings({"ours": ours, "loop": loop})
    tell("edge_ablation_seconds", np.median(found["ours"]), "s")
    tell("edge_ablation_loop_seconds", np.median(found["loop"]), "s")
    tell("edge_ablation_speedup_over_loop", np.median(found["loop"] / found["ours"]), "ratio")
    gap = np.abs(np.stack([result.accuracies for result in ours()]) - loop()).max()
    tell("edge_ablation_largest_difference_to_loop", gap, "accuracy")


def circuit_speed(tell, label: str):
    """Every set of live edges of a shipped model, one meaning of a cut, against a loop of dense forwards.

    The loop takes SETS of them at most, spread evenly, and its time is told for all.
    """
    model, _ = checkpoint.load_pretrained(label)
    lists = make_setup(default_config())[1].validation
    kept = all_sets(len(model.config.graph.live_edges))
    some = kept[:: max(1, len(kept) // SETS)]
    arrays = jax.tree.map(jnp.asarray, checkpoint.named_arrays(model))
    loop = peers.sets_loop(model.config, arrays, lists, some)
    found = timings({"ours": lambda: circuit_table(model, lists), "loop": loop})
    found["loop"] *= len(kept) / len(some)
    tell(f"circuits_seconds_{label}", np.median(found["ours"]), "s")
    tell(f"circuits_loop_seconds_{label}", np.median(found["loop"]), "s")
    tell(f"circuits_speedup_over_loop_{label}", np.median(found["loop"] / found["ours"]), "ratio")
    gap = np.abs(circuit_table(model, lists).values()[:: max(1, len(kept) // SETS)] - loop()).max()
    tell(f"circuits_largest_difference_to_loop_{label}", gap, "accuracy")


def timings(calls, pause: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds of each call, taken in turn after one call each that compiles; after a pause of seconds."""
    for call in calls.values():
        call()
    found = {name: [] for name in calls}
    for _ in range(ROUNDS.value):
        for name, call in calls.items():
            time.sleep(pause)
            began = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - began)
    return {name: np.array(times) for name, times in found.items()}
