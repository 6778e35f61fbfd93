"""Sweeps: every run once, whatever happens; a run is what it would be alone; numbers and pictures hold."""

import contextlib
import csv
import importlib.util
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orderscale_jax import checkpoint, figures, storage
from orderscale_jax.checkpoint import named_arrays
from orderscale_jax.cli.sweep import pictures, sentence
from orderscale_jax.config import LAST_SCORES, as_drawn, default_config
from orderscale_jax.figures import cells
from orderscale_jax.model import array_names, bind
from orderscale_jax.overrides import overrides_text
from orderscale_jax.storage import weight_digest
from orderscale_jax.training import sweep, sweep_states, sweep_training
from orderscale_jax.training.devices import start_runs
from orderscale_jax.training.ensemble import Ensemble, make_setup
from orderscale_jax.training.hyper import hyper_of
from orderscale_jax.training.interruption import Interrupted, Interruption
from orderscale_jax.training.shares import Share
from orderscale_jax.training.size import run_bytes
from orderscale_jax.training.step import add_noise
from orderscale_jax.training.sweep import sweep_config
from orderscale_jax.training.sweep_estimate import work
from orderscale_jax.training.sweep_results import (
    Summary,
    compare_survival,
    summarize,
    varying_fields,
    wilson_interval,
)
from orderscale_jax.training.sweep_rows import COLUMNS, OUTCOMES, read_results

ROOT = pathlib.Path(__file__).parents[1]
RATES = {"train.learning_rate": (0.001, 0.01)}


def tiny(grid=RATES, seeds=2, **base):
    config = default_config()
    config.task.n_digits, config.model.d_model, config.model.n_layers = 4, 4, 1  # compiles soon
    config.train.batch_size, config.train.max_steps, config.train.eval_every = 4, 20, 10
    config.train.update(base)
    return sweep_config(config, grid, seeds)


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing disturbed: its rows and its file."""
    workdir = tmp_path_factory.mktemp("whole")
    return sweep_training.train(tiny(), workdir), workdir / "results.csv"


def test_a_row_per_run(whole):
    rows, path = whole
    assert [(row["learning_rate"], row["seed"]) for row in rows] == [
        (r, s) for r in RATES["train.learning_rate"] for s in (0, 1)
    ]
    assert read_results(path) == rows
    assert len({row["weights_sha256"] for row in rows}) == 4
    assert all(row["steps"] == 20 and row["parameters"] == 4 * (6 + 5 + 6) + 2 * 16 for row in rows)
    assert all(np.isclose(np.mean(row["position_accuracy"]), row["accuracy"]) for row in rows)
    with open(path) as file:
        assert tuple(next(csv.reader(file))) == (*COLUMNS, "digest")


def test_a_run_is_what_it_is_alone(whole):
    config = tiny().base
    config.train.learning_rate = 0.01
    setup, split = make_setup(config)
    alone = Ensemble(setup, split, start_runs(setup, [1]))
    while not alone.done:
        last = alone.advance()[0]
    params = jax.tree.map(lambda x: x[0], alone.state().best_params)
    digest = weight_digest(named_arrays(bind(setup.model, params)))
    row = whole[0][3]
    assert (row["seed"], row["accuracy"], row["weights_sha256"]) == (1, last["best_accuracy"], digest)


@pytest.mark.parametrize(("n_rows", "torn"), [(0, "run,se"), (1, ""), (3, "0123456789abcdef,0,2,4")])
def test_goes_on_after_a_kill(whole, tmp_path, n_rows, torn):
    finished, trained = [], []

    def killed(job, row):
        finished.append(row["run"])
        if len(finished) > n_rows - 1:
            raise KeyboardInterrupt

    if n_rows:
        with pytest.raises(KeyboardInterrupt):
            sweep_training.train(tiny(), tmp_path, killed)
    with open(tmp_path / "results.csv", "a") as file:
        file.write(torn)
    rows = sweep_training.train(tiny(), tmp_path, lambda job, row: trained.append(row["run"]))
    assert sorted(trained) == sorted({row["run"] for row in rows})
    assert trained[:n_rows] == finished
    assert without_time(rows) == without_time(whole[0])
    assert read_results(tmp_path / "results.csv") == rows


def test_finished_runs_are_not_trained_again(whole, tmp_path, monkeypatch):
    text = whole[1].read_text()
    (tmp_path / "results.csv").write_text(text[:-10])  # the last row is torn
    asked = []
    original = sweep_states.start

    def spy(jobs):
        asked.extend((job.cell.index, job.seed) for job in jobs)
        return original(jobs)

    monkeypatch.setattr(sweep_states, "start", spy)
    assert without_time(sweep_training.train(tiny(), tmp_path)) == without_time(whole[0])
    assert asked == [(1, 1)]


def test_more_seeds_add_to_a_sweep(whole, tmp_path):
    (tmp_path / "results.csv").write_text(whole[1].read_text())
    rows = sweep_training.train(tiny(seeds=3), tmp_path)
    assert [row["seed"] for row in rows] == [0, 1, 2] * 2
    assert [row for row in rows if row["seed"] < 2] == whole[0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_processes_share_a_sweep(whole, tmp_path, order):
    seen = []
    first, last = (Share(i, 2) for i in order)
    assert sweep_training.train(tiny(), tmp_path, lambda job, row: seen.append(job.seed), first) is None
    assert seen == [order[0]] * 2  # every share has a seed of each cell
    assert [path.name for path in tmp_path.iterdir()] == [f"results.share_{first}.csv"]
    assert without_time(sweep_training.train(tiny(), tmp_path, share=last)) == without_time(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    assert without_time(sweep_training.train(tiny(), tmp_path, share=first)) == without_time(whole[0])
    with pytest.raises(ValueError, match=r"more processes \(2\) than runs \(1\)"):
        sweep_training.train(tiny({"train.learning_rate": (0.01,)}, seeds=1), tmp_path, share=first)


def test_a_defect_of_a_library_is_not_taken_for_a_wrong_cell(monkeypatch):
    def broken(config):
        raise ValueError("a library's own")

    monkeypatch.setattr(sweep, "make_setup", broken)
    with pytest.raises(ValueError, match="a library's own"):
        sweep.plan(tiny())


def test_another_number_of_processes_goes_on(whole, tmp_path):
    assert sweep_training.train(tiny(), tmp_path, share=Share(1, 3)) is None
    trained = []
    rows = sweep_training.train(tiny(), tmp_path, lambda job, row: trained.append(row["run"]))
    assert len(set(trained)) == 4 and without_time(rows) == without_time(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_a_part_that_does_not_fit_is_halved(whole, tmp_path, monkeypatch):
    sizes = []
    start = sweep_states.start

    def small(jobs):
        sizes.append(len(jobs))
        if len(jobs) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return start(jobs)

    monkeypatch.setattr(sweep_states, "start", small)
    monkeypatch.setattr(sweep_training, "runs_at_once", lambda n_runs: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert without_time(sweep_training.train(tiny(), tmp_path)) == without_time(whole[0])
    assert sizes == [2, 1, 1, 1, 1]


def test_programs_share_what_differs_in_values_only():
    grid = {"model.n_layers": (1, 2), "train.learning_rate": (0.1, 0.2), "train.weight_decay": (0.0, 0.1)}
    jobs = sweep.plan(tiny(grid, seeds=3))
    assert [len(group) for group in sweep.programs(jobs)] == [12, 12]


def test_tied_fields_make_other_grids_than_rectangles():
    jobs = sweep.plan(tiny({("model.n_layers", "task.list_len"): ((2, 3), (3, 2))}, seeds=1))
    assert [(job.cell.setup.model.n_layers, job.cell.setup.task.list_len) for job in jobs] == [(2, 3), (3, 2)]
    assert all(job.cell.setup.train.max_attempts == 1 for job in jobs)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny({"model.layers": (1,)}), "field 'model.layers' is unknown"),
        (tiny({"seed": (1,)}), "field 'seed' is unknown"),
        (tiny({"model.n_layers": ("two",)}), "'two' does not fit model.n_layers"),
        (tiny({"model.n_layers": (0,)}), "cell model.n_layers=0 cannot be trained"),
        (tiny({"train.batch_size": (13,)}), "larger than the training set"),
        (tiny({}), "the grid is empty"),
        (tiny({"model.n_layers": ()}), "the grid is empty"),
        (tiny({"model.n_layers": (2, 2)}), "same cell twice"),
        (tiny(seeds=0), "config.seeds must be at least 1, got 0"),
    ],
)
def test_a_wrong_sweep_is_refused(config, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        sweep_training.train(config, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [tiny({"train.learning_rate": (0.001,)}), tiny({"train.weight_decay": (0.0, 0.1)}), tiny(max_steps=30)],
)
def test_results_of_another_sweep_stay(whole, tmp_path, other):
    path = tmp_path / "results.csv"
    path.write_text(whole[1].read_text())
    with pytest.raises(ValueError, match="another sweep"):
        sweep_training.train(other, tmp_path)
    assert path.read_text() == whole[1].read_text()


def test_damaged_results_stay(whole, tmp_path):
    path = tmp_path / "results.csv"
    for text in ("a,b\n1,2\n", whole[1].read_text().replace("0.001", "0.002", 1)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"line [12]\b.* put back a copy"):
            sweep_training.train(tiny(), tmp_path)
        assert path.read_text() == text and len(list(tmp_path.iterdir())) == 1


class Killed(BaseException):
    """What ends a sweep as a kill would: nothing is written after it."""


def killed_after(monkeypatch, n_saves, config, workdir, **how):
    """Trains until so many states are saved."""
    saved = []

    def save(*arguments):
        original(*arguments)
        saved.append(arguments)
        if len(saved) == n_saves:
            raise Killed

    original = checkpoint.save_state
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save)
        with pytest.raises(Killed):
            sweep_training.train(config, workdir, **how)
    return [metadata["runs"] for *_, metadata in saved]


@pytest.fixture
def stretches(monkeypatch):
    """Grows by how many runs went one stretch on."""
    seen, advance = [], Ensemble.advance

    def spy(self):
        lines = advance(self)
        seen.extend(line["step"] for line in lines)
        return lines

    monkeypatch.setattr(Ensemble, "advance", spy)
    return seen


def saving(**base):
    config = tiny(**base)
    config.save_seconds = 0.0
    return config


@pytest.mark.parametrize("shares", [[Share()], [Share(1, 2), Share(0, 2)]])
def test_what_was_in_flight_goes_on(whole, tmp_path, monkeypatch, stretches, caplog, shares):
    (names,) = killed_after(monkeypatch, 1, saving(), tmp_path)
    assert names == [[whole[0][0]["run"]]] and read_results(tmp_path / "results.csv") == []
    stretches.clear()
    with caplog.at_level("INFO", "orderscale_jax.training.sweep_states"):
        for share in shares:
            rows = sweep_training.train(saving(), tmp_path, share=share)
    assert sorted(stretches) == [10] * 3 + [20] * 4  # of eight stretches one was there
    assert f"1 of {4 // len(shares)} runs without a row go on from steps 10 to 10" in caplog.text
    assert without_time(rows) == without_time(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_runs_in_other_groups_go_on(tmp_path, tmp_path_factory, monkeypatch, stretches):
    """Killed with two at once, which leave a third place; in another share; again with two; alone while the
    other waits; and with two of which one ends."""

    def at_once(n):
        monkeypatch.setattr(sweep_training, "runs_at_once", lambda n_runs: n)

    config = saving(max_steps=50)
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    at_once(2)
    whole = sweep_training.train(config, tmp_path_factory.mktemp("undisturbed"))
    names = [row["run"] for row in whole]
    assert killed_after(monkeypatch, 1, config, tmp_path) == [[names[:2]]]
    at_once(1)
    assert killed_after(monkeypatch, 2, config, tmp_path, share=Share(1, 2)) == [[names[1:2]]] * 2
    at_once(2)
    assert killed_after(monkeypatch, 1, config, tmp_path) == [[names[:2]]]
    at_once(1)
    ((waiting,),) = killed_after(monkeypatch, 1, config, tmp_path)
    assert sorted(waiting) == sorted(names[:2])
    at_once(2)
    assert killed_after(monkeypatch, 1, config, tmp_path) == [[names[:1]]]  # the other has its row
    assert [row["run"] for row in read_results(tmp_path / "results.csv")] == names[1:2]
    at_once(1)
    stretches.clear()
    rows = sweep_training.train(config, tmp_path)
    assert stretches[::3] == [50, *(10, 20, 30, 40, 50) * 2]
    assert without_time(rows) == without_time(whole) and all(row["seconds"] > 0 for row in rows)


def flip_a_bit(place):
    file = max((path for path in place.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_damaged_states(whole, tmp_path, monkeypatch, stretches, caplog):
    killed_after(monkeypatch, 3, saving(), tmp_path)
    before, latest = sorted((tmp_path / "states" / "0_of_1").iterdir())
    flip_a_bit(latest)
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    stretches.clear()
    rows = sweep_training.train(saving(), tmp_path)
    assert "is damaged or renamed: going on from step 30" in caplog.text
    assert stretches == [10, 20] * 2 and without_time(rows) == without_time(whole[0])
    flip_a_bit(copy / before.relative_to(tmp_path))
    with pytest.raises(checkpoint.DamagedError, match=r"no state in .* is whole"):
        sweep_training.train(saving(), copy)
    assert len(read_results(copy / "results.csv")) == 2


def test_states_are_read_while_their_process_saves_others(whole, tmp_path, monkeypatch, stretches):
    killed_after(monkeypatch, 1, saving(), tmp_path)
    restore, (state,) = checkpoint.restore_latest, (tmp_path / "states" / "0_of_1").iterdir()

    def overtaken(place, like):
        if state.exists():
            arrays, about = storage.read(state)
            storage.write(state.with_name("step_000000020"), arrays, about | {"step": 20})
            storage.clear(state)
            raise checkpoint.DamagedError("what was being read is no more")
        return restore(place, like)

    monkeypatch.setattr(checkpoint, "restore_latest", overtaken)
    stretches.clear()
    assert without_time(sweep_training.train(saving(), tmp_path)) == without_time(whole[0])
    assert len(stretches) == 7


def test_states_of_another_sweep_stay(tmp_path, monkeypatch):
    killed_after(monkeypatch, 1, saving(), tmp_path)
    with pytest.raises(ValueError, match="runs of another sweep"):
        sweep_training.train(saving(weight_decay=0.5), tmp_path)
    assert list(tmp_path.glob("states/0_of_1/step_*"))


class WantedAt(Interruption):
    """Wants an end when it is asked for the nth time."""

    def __init__(self, n):
        self.left, self.is_deferred = n, False

    @property
    def is_wanted(self):
        assert self.is_deferred
        self.left -= 1
        return self.left <= 0

    @contextlib.contextmanager
    def deferred(self):
        self.is_deferred = True
        yield
        self.is_deferred = False


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (1, "0 of 4 runs are in results.csv, 1 more are saved at their step (up to 10)"),
        (2, "1 of 4 runs are in results.csv"),
    ],
)
def test_an_interruption_keeps_what_there_is(whole, tmp_path, stretches, n, text):
    with pytest.raises(Interrupted, match=re.escape(text)):
        sweep_training.train(tiny(), tmp_path, interruption=WantedAt(n))
    assert len(stretches) == n
    rows = sweep_training.train(tiny(), tmp_path, interruption=WantedAt(8 - n))  # after the last stretch
    assert len(stretches) == 8 and without_time(rows) == without_time(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_a_full_disk_while_a_row_is_written(whole, tmp_path):
    resource = pytest.importorskip("resource")
    path, (soft, hard) = tmp_path / "results.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    header, first, second, *_ = whole[1].read_bytes().splitlines(keepends=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(header) + len(first) + len(second) // 2, hard))
    try:
        with pytest.raises(OSError) as error:
            sweep_training.train(tiny(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(path) and error.value.strerror
    rows = sweep_training.train(tiny(), tmp_path)
    assert without_time(rows) == without_time(whole[0]) and read_results(path) == rows


def test_a_run_that_diverges_has_its_row(whole, tmp_path):
    rows = sweep_training.train(tiny({"train.learning_rate": (0.001, 1e30)}), tmp_path)
    assert without_time(rows[:2]) == without_time(whole[0][:2])
    for row in rows[2:]:
        assert (row["diverged_step"], row["steps"], row["best_step"]) == (10, 10, 0)
        assert {row[name] for name in OUTCOMES if "accuracy" in name} == {None}
    assert all(row["diverged_step"] is None for row in rows[:2])
    assert read_results(tmp_path / "results.csv") == rows
    assert "nan" not in (tmp_path / "results.csv").read_text().lower()
    fine, diverged = summarize(rows, threshold=0.0)
    assert (fine.successes, diverged.successes, diverged.diverged, diverged.n_runs) == (2, 0, 2, 2)
    assert sentence(diverged).endswith(
        "0/2 at 0 or above (95 % interval 0.00 to 0.66), 0 with a transition, 2 diverged"
    )
    assert "diverged" not in sentence(fine)
    for found in (rows, rows[2:]):  # one of two cells, and all there is
        for figure in pictures(found, 0.9).values():
            figure.draw_without_rendering()
    assert texts(pictures(rows, 0.9)["accuracy_strips"]) == ["2 diverged"]


def test_a_median_does_not_flatter_by_what_it_leaves_out():
    def cell(*accuracies):
        return Summary({}, np.array(accuracies, float), np.full(len(accuracies), np.nan), np.full(9, 9))

    assert cell(0.5, 0.7, 0.9).median_accuracy == 0.7
    assert cell(0.5, None, 0.9).median_accuracy == 0.5 and np.isnan(cell(0.5, None).median_accuracy)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_of_the_literature(successes, n, low, high):
    """The last is Newcombe's (Statistics in Medicine 17, 1998, table I)."""
    np.testing.assert_allclose(wilson_interval(successes, n), (low, high), atol=5e-5)


def test_wilson_interval_needs_runs():
    with pytest.raises(ValueError, match="a run"):
        wilson_interval(0, 0)


def test_quantiles_count_runs_without_a_transition():
    summary = Summary({}, np.full(4, 0.95), np.array([300.0, np.nan, 100.0, np.nan]), np.full(4, 1000))
    assert summary.transition_quantile(0.25) == 100 and summary.transition_quantile(0.5) == 300
    assert np.isnan(summary.transition_quantile(0.75))
    assert (summary.transitions, summary.successes, summary.rate) == (2, 4, 1.0)


def waiting(transitions, never=(), **values):
    """A cell of runs with a transition after these steps, and of runs that trained so many without one."""
    steps = np.array([*transitions, *never], int)
    transition_steps = np.where(np.arange(len(steps)) < len(transitions), steps, np.nan)
    return Summary(values, np.full(len(steps), 0.5), transition_steps, steps)


def test_survival_is_compared_as_in_the_literature():
    """Bland and Altman, BMJ 328, 2004: two kinds of glioma, chi squared 7.5, p 0.006."""
    astrocytoma = waiting(
        [6, 13, 21, 30, 37, 38, 49, 50, 63, 79, 86, 98, 202, 219], [31, 47, 80, 82, 82, 149]
    )
    times = "10 10 12 13 14 15 16 17 18 20 24 24 25 28 30 33 35 37 40 40 46 48 76 81 82 91 112 181"
    glioblastoma = waiting([int(time) for time in times.split()], [34, 40, 70])
    p = compare_survival(astrocytoma, glioblastoma)
    assert p == compare_survival(glioblastoma, astrocytoma) and abs(p - 0.00618) < 5e-6


def test_survival_of_cells_that_tell_nothing():
    stuck, one = waiting([], [1000] * 16), waiting([300])
    assert compare_survival(stuck, stuck) == compare_survival(one, one) == 1
    assert compare_survival(stuck, waiting([200] * 16)) < 1e-6
    with pytest.raises(ValueError, match="at least one run"):
        compare_survival(stuck, waiting([]))


def test_summaries_by_what_varies(whole):
    rows, _ = whole
    assert varying_fields(rows) == ("learning_rate",)
    summaries = summarize(rows, threshold=0.0)
    assert [s.values for s in summaries] == [{"learning_rate": 0.001}, {"learning_rate": 0.01}]
    assert [s.accuracies.tolist() for s in summaries] == [
        [row["accuracy"] for row in rows[:2]],
        [row["accuracy"] for row in rows[2:]],
    ]
    assert summaries[0].successes == 2
    assert summarize(rows, by=("n_layers",))[0].n_runs == 4
    with pytest.raises(ValueError, match="no column 'layers'"):
        summarize(rows, by=("layers",))
    with pytest.raises(ValueError, match="no results"):
        summarize([])


def many_summaries():
    generator, found = np.random.default_rng(0), []
    for recipe in ("reshuffle", "sampled"):
        for size in (128, 2048):
            accuracies = generator.random(16)
            steps = np.where(accuracies > 0.75, 1000 * generator.random(16), np.nan)
            values = {"batches": recipe, "batch_size": size, "layer_norm": False}
            found.append(Summary(values, accuracies, steps, np.full(16, 1000)))
    return found


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("color", ["success", "median"])
def test_heatmap_prints_every_count_and_colours_it(color):
    found = many_summaries()
    figure = figures.success_heatmap(found, "batch_size", color)
    assert texts(figure) == [f"{s.successes}/16" for s in found]
    expected = [s.rate if color == "success" else np.median(s.accuracies) for s in found]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array().ravel(), expected)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["128", "2,048"]


def test_heatmap_refuses_cells_on_one_square():
    found = many_summaries()
    with pytest.raises(ValueError, match="two cells are"):
        figures.success_heatmap([*found, found[0]], "batch_size")
    with pytest.raises(ValueError, match="no field 'rows'"):
        figures.success_heatmap(found, "rows")
    with pytest.raises(ValueError, match="coloured by"):
        figures.success_heatmap(found, "batch_size", "red")
    with pytest.raises(ValueError, match="at least one cell"):
        figures.success_rates([])


def test_rates_show_their_intervals():
    found = many_summaries()
    figure = figures.success_rates(found)
    lines = [line for line in figure.axes[0].lines if line.get_gid() == "interval"]
    np.testing.assert_allclose([line.get_xdata() for line in lines], [s.interval for s in found])


@pytest.mark.parametrize("outcome", ["accuracy", "transition"])
def test_strips_show_every_run(outcome):
    found = many_summaries()
    figure = figures.outcome_strips(found, outcome)
    dots = {
        gid: [line for line in figure.axes[0].lines if line.get_gid() == gid] for gid in ("runs", "never")
    }
    assert sum(len(line.get_xdata()) for lines in dots.values() for line in lines) == 4 * 16
    for i, (summary, line) in enumerate(zip(found, dots["runs"], strict=True)):
        values = summary.accuracies
        if outcome == "transition":
            values = summary.transition_steps[np.isfinite(summary.transition_steps)]
        np.testing.assert_allclose(line.get_xdata(), values)
        assert np.all(np.abs(line.get_ydata() - i) < 0.3)
    with pytest.raises(ValueError, match="a strip shows"):
        figures.outcome_strips(found, "loss")


LAST = "blocks.-1.attn.W_[QK]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (overrides_text(as_drawn(LAST_SCORES)), "last W_QK as drawn"),
        (f"{LAST} epsilon 0.0001", "epsilon 1e-4 on last W_QK"),
        (
            "blocks.0.attn.W_Q learning_rate 3e-05; .* beta2 0.9",
            "rate 3e-5 on first W_Q, beta2 0.9 on all arrays",
        ),
        ("blocks.1.attn.W_K learning_rate 0", "rate 0 on block 1 W_K"),
        (f"{LAST} learning_rate 0.1; {LAST} epsilon 1", "rate 0.1 and epsilon 1 on last W_QK"),
        (f"{LAST} first_step 300; {LAST} last_step 4000", "last W_QK from step 300 until step 4,000"),
        (
            "w learning_rate 0; w weight_decay 0; w initial_scale 0.3; (embed|blocks.0).* epsilon 1",
            "w as drawn with initial scale 0.3, epsilon 1 on embed + blocks.0",
        ),
        ("blocks.* learning_rate 0; blocks.* weight_decay 0", "blocks as drawn"),
        ("w[ab]{2} epsilon 1", "epsilon 1 on w[ab]{2}"),
        ("something else entirely", "something else entirely"),
    ],
)
def test_overrides_in_words(text, words):
    assert cells.overrides_words(text) == words
    assert cells.words({"overrides": text, "batch_size": 128}) == f"{words}, batch 128"
    assert cells.value_words("overrides", text) == words


PLAIN = {"overrides": "", "scores": "free", "scores_value": 0.0, "scores_until": None}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ""),
        (PLAIN, "unchanged"),
        (
            {"split": "published", "paired_share": 1.0, "batch_size": 128, **PLAIN},
            "published split, batch 128",
        ),
        ({"split": "paired", "paired_share": 0.95}, "95 % paired split"),
        ({"split": "one_order", "train_fraction": 0.5}, "one-order split, train share 0.5"),
        ({"paired_share": 1.0}, "paired share 1"),
        ({"scores": "bounded", "scores_value": 2.0, "scores_until": None}, "scores bounded by 2"),
        (
            {"scores": "shifted", "scores_value": -4.0, "scores_until": 10_000},
            "scores shifted by −4 until step 10,000",
        ),
        ({"scores_value": 2.0, "scores_until": 300}, "scores by 2, scores until step 300"),
        (
            {"patience": None, "learning_rate": 1e-4, "batch_size": 2048},
            "patience none, rate 1e-4, batch 2,048",
        ),
    ],
)
def test_cells_in_words(values, words):
    assert cells.words(values).replace("\u00a0", " ") == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.5, "−0.5"),
        (1e-8, "1e-8"),
        (2.5e-4, "2.5e-4"),
        (12_345.0, "12,345"),
        (2e12, "2e12"),
        (True, "yes"),
    ],
)
def test_numbers_as_short_as_they_can_be(value, text):
    assert cells.entry(value) == text


def test_long_labels_leave_room_for_what_they_name():
    """They are torn at commas, and the figure grows."""
    scales = [
        f"(embed|pos_embed|unembed|blocks.0).* gradient_noise {n}; {LAST} epsilon {n}" for n in range(1, 5)
    ]
    found = [
        waiting([], [1000] * 4, batch_size=128, overrides=text, scores_until=until)
        for text in scales
        for until in (None, 300)
    ]
    by_until = figures.success_heatmap(found, "scores_until")
    shown = [
        figures.success_rates(found),
        figures.outcome_strips(found, "transition"),
        by_until,
        figures.success_heatmap(found, "overrides"),
    ]
    for figure in shown:
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().width * figure.get_figwidth() > 0.8
        assert figure.axes[0].get_position().height * figure.get_figheight() > 0.3
        box = figure.axes[0].get_tightbbox()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
    assert [t.get_text() for t in by_until.axes[0].get_xticklabels()] == ["300", "none"]
    label = shown[0].axes[0].get_yticklabels()[1].get_text()
    assert label.split("\n") == [
        "batch 128, noise 1 on embed + pos_embed + unembed + blocks.0,",
        "epsilon 1 on last W_QK, scores until step 300",
    ]


def test_survival_is_drawn_while_it_can_be_read(whole):
    rows, _ = whole
    assert "survival" in pictures(rows, 0.9)
    rows = [{**rows[0], "learning_rate": rate} for rate in range(1, 10)]
    assert "survival" in pictures(rows[:8], 0.9) and "survival" not in pictures(rows, 0.9)


@pytest.mark.parametrize(
    ("name", "n_cells", "seeds"),
    [
        ("table4", 19, 30),
        ("length_by_layers", 80, 3),
        ("batch_recipe", 118, 16),
        ("batch_recipe_small", 17, 16),
    ],
)
def test_shipped_sweeps_can_be_trained(name, n_cells, seeds, monkeypatch):
    place = ROOT / "configs" / "sweeps" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if name == "length_by_layers":  # a million lists take their time
        config.base.task.n_digits, config.base.train.batch_size = 8, 32
    jobs = sweep.plan(config)
    assert (jobs[-1].cell.index + 1, len(jobs)) == (n_cells, n_cells * seeds)
    assert f"orderscale sweep --config=sweeps/{name} --workdir=" in module.__doc__


def test_estimates_grow_with_what_costs():
    small, large = (job.cell.setup for job in sweep.plan(tiny({"model.n_layers": (1, 3)}, seeds=1)))
    assert 0 < work(small) < work(large) and 0 < run_bytes(small) < run_bytes(large)
    twice = sweep.plan(tiny({"train.batch_size": (8,)}, seeds=1))[0].cell.setup
    once = sweep.plan(tiny({"train.batch_size": (4,)}, seeds=1))[0].cell.setup
    assert work(once) < work(twice)


def test_gradient_noise_has_the_stated_scale():
    (job,) = sweep.plan(tiny({"train.gradient_noise": (3.0,)}, seeds=1))
    setup = job.cell.setup
    gradient = {name: jnp.zeros(7) for name in array_names(setup.model)}
    gradient["embed.W_E"] = jnp.full((300, 300), 0.5)
    noisy = add_noise(setup, hyper_of(setup.train), gradient, jax.random.key(0))
    noise = np.asarray(noisy.pop("embed.W_E") - 0.5)
    assert abs(noise.std() / (3.0 * 0.5) - 1) < 0.02 and abs(noise.mean()) < 0.02
    assert not any(array.any() for array in noisy.values())


def test_gradient_noise_is_another_run(whole, tmp_path):
    rows = sweep_training.train(tiny({"train.gradient_noise": (0.0, 1.0)}, seeds=1), tmp_path)
    assert rows[0]["weights_sha256"] == whole[0][0]["weights_sha256"] != rows[1]["weights_sha256"]
