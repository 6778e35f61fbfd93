"""Work directories and checkpoints in an object store, of which a stand-in has the manners.

It keeps whole objects by their names: no directories, nothing that grows, no renaming.
"""

import contextlib
import fnmatch
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from etils.epath import backend as epath_backend
from etils.epath import gpath

from orderscale_jax import figures, files, report, storage
from orderscale_jax.checkpoint import (
    load_checkpoint,
    named_arrays,
    restore_latest,
    save_checkpoint,
    save_state,
)
from orderscale_jax.cli import machine
from orderscale_jax.config import default_config
from orderscale_jax.errors import UserError
from orderscale_jax.training import sweep_training
from orderscale_jax.training.shares import Share
from orderscale_jax.training.sweep import sweep_config
from orderscale_jax.training.sweep_rows import ResultsFile, read_results
from orderscale_jax.training.workdir import train

HOME = "gs://bucket/deep/run"


class Upload(io.BytesIO):
    """An object is there when its writer is closed, and not before."""

    def __init__(self, store, name):
        super().__init__()
        self.store, self.name = store, name

    def close(self):
        if not self.closed:
            self.store.put(self.name, self.getvalue())
        super().close()


class Store(epath_backend.Backend):
    """What etils asks of a place, answered from `objects`; `writes` has the names in order."""

    def __init__(self):
        self.objects, self.writes = {}, []

    def put(self, name, content):
        self.objects[name] = content
        self.writes.append(name)

    def open(self, path, mode):
        assert mode in ("rb", "wb"), f"{path} is opened with {mode!r}"
        if mode == "wb":
            return Upload(self, path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return io.BytesIO(self.objects[path])

    def isdir(self, path):
        return any(name.startswith(f"{path}/") for name in self.objects)

    def exists(self, path):
        return path in self.objects or self.isdir(path)

    def listdir(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        below = (name[len(path) + 1 :] for name in self.objects if name.startswith(f"{path}/"))
        return sorted({name.partition("/")[0] for name in below})

    def glob(self, path):
        return sorted(fnmatch.filter(self.objects, path))

    def remove(self, path):
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)

    def rmtree(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        for name in [name for name in self.objects if name.startswith(f"{path}/")]:
            del self.objects[name]

    def refuse(self, *arguments, **options):
        raise AssertionError(f"an object store cannot do this to {arguments}")

    walk = makedirs = mkdir = rename = replace = copy = stat = refuse


@pytest.fixture
def store(monkeypatch):
    found = Store()
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", found)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    return found


def small_config(**changes):
    """Two runs of 23 steps with a state after 10 and 20."""
    config = default_config()
    given = {
        "runs": 2,
        "save_seconds": 0,
        "task.n_digits": 8,
        "model.d_model": 8,
        "train.batch_size": 16,
        "train.max_steps": 23,
        "train.eval_every": 10,
        "train.max_attempts": 1,
    }
    config.update_from_flattened_dict(given | changes)
    return config


def without_time(summary):
    return {
        name: value
        for name, value in summary.items()
        if name not in ("seconds", "steps_per_second", "checkpoint", "placement")
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """(work directory, summary) of two runs on the local disk."""
    workdir = tmp_path_factory.mktemp("local")
    return workdir, train(small_config(), workdir)


def assert_same(store, local):
    """The store holds what the local directory does."""
    workdir, summary = local
    names = {file.relative_to(workdir).as_posix() for file in workdir.rglob("*") if file.is_file()}
    there = {name.removeprefix(f"{HOME}/") for name in store.objects}
    assert {name for name in there if "/arrays/" not in name} == {n for n in names if "/arrays/" not in n}
    for name in ("metrics.jsonl", "config.json"):
        assert store.objects[f"{HOME}/{name}"] == (workdir / name).read_bytes()
    found = files.read_note(files.place(f"{HOME}/summary.json"))
    assert without_time(found) == without_time(summary)
    assert found["checkpoint"] == f"{HOME}/checkpoint"
    model, _ = load_checkpoint(found["checkpoint"])
    assert storage.weight_digest(named_arrays(model)) == summary["weights_sha256"]


class Killed(BaseException):
    pass


def kill_at(monkeypatch, store, number, ending):
    """The process dies as it starts the `number`th write (from 1) of a name that ends so."""
    put, count = store.put, 0

    def put_or_die(name, content):
        nonlocal count
        count += name.endswith(ending)
        if count >= number:
            raise Killed
        put(name, content)

    monkeypatch.setattr(store, "put", put_or_die)


@pytest.mark.parametrize(
    ("number", "ending", "steps"),
    [
        (1, "step_000000010/SHA256SUMS", 0),  # the first state is not whole
        (1, "step_000000020/arrays/_METADATA", 10),
        (1, "step_000000020/config/metadata", 10),
        (1, "seed_1/config/metadata", 20),  # the second run's weights are not whole
        (1, "/run/summary.json", 20),
    ],
)
def test_a_killed_run_goes_on_and_ends_as_on_a_disk(store, local, monkeypatch, number, ending, steps):
    with monkeypatch.context() as patch:
        kill_at(patch, store, number, ending)
        with pytest.raises(Killed):
            train(small_config(), HOME)
    assert f"{HOME}/summary.json" not in store.objects
    logged = store.objects[f"{HOME}/metrics.jsonl"].decode()
    assert max([0, *(json.loads(line)["total_steps"] for line in logged.splitlines())]) >= steps
    store.writes.clear()
    summary = train(small_config(), HOME)
    assert without_time(summary) == without_time(local[1])
    states = {re.search(r"step_\d+", name)[0] for name in store.writes if "/states/" in name}
    assert states == {f"step_{step:09d}" for step in (10, 20) if step > steps}  # it began where it was
    assert_same(store, local)
    before = dict(store.objects)
    assert train(small_config(), HOME) == summary and store.objects == before


def test_lines_are_in_the_log_before_the_state_that_follows_them(store):
    train(small_config(), HOME)
    names = [name.removeprefix(f"{HOME}/") for name in store.writes]
    first = next(i for i, name in enumerate(names) if name.startswith("states/"))
    assert "metrics.jsonl" in names[:first]
    assert names.count("metrics.jsonl") == 3  # with both states, and at the end


def test_shares_leave_there_what_one_process_would_have(store, local):
    assert train(small_config(), HOME, Share(1, 2)) is None
    with pytest.raises(UserError, match="begun with 2 process"):
        train(small_config(), HOME)
    summary = train(small_config(), HOME, Share(0, 2))
    assert without_time(summary) == without_time(local[1])
    assert_same(store, local)
    with pytest.raises(UserError, match="holds a run of another configuration"):
        train(small_config(seed=5), HOME)
    with pytest.raises(UserError, match="holds a run and not a sweep"):
        config = sweep_config(small_config(runs=1), {"train.learning_rate": (0.01,)}, seeds=1)
        sweep_training.train(config, HOME)


def test_a_sweep_goes_on_there(store, tmp_path, monkeypatch):
    config = sweep_config(small_config(runs=1), {"train.learning_rate": (0.01, 0.02)}, seeds=2)
    expected = sweep_training.train(config, tmp_path)
    with monkeypatch.context() as patch:
        kill_at(patch, store, 4, "results.share_0_of_2.csv")  # the header, a row, a row and no more
        assert sweep_training.train(config, HOME, share=Share(0, 2)) is None
        kill_at(patch, store, 3, "results.share_1_of_2.csv")
        with pytest.raises(Killed):
            sweep_training.train(config, HOME, share=Share(1, 2))
    assert len(read_results(f"{HOME}/results.share_1_of_2.csv")) == 1
    trained = []
    rows = sweep_training.train(config, HOME, lambda job, row: trained.append(row["run"]))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in expected]
    assert [name.removeprefix(f"{HOME}/") for name in store.objects] == ["results.csv"]
    assert read_results(f"{HOME}/results.csv") == rows and sorted(trained) == sorted(r["run"] for r in rows)
    with pytest.raises(UserError, match="holds a sweep"):
        train(small_config(), HOME)
    store.writes.clear()  # rows that come together are written together
    file = ResultsFile(f"{HOME}/again.csv")
    for row in rows:
        file.append(row)
    file.keep()
    assert len(store.writes) == 2 and read_results(f"{HOME}/again.csv") == rows


def config_of(model):
    config = default_config()
    config.task.n_digits, config.model.d_model = model.config.n_digits, model.config.d_model
    return config


def test_a_replaced_checkpoint_is_the_old_one_until_it_is_the_new_one(
    store, small_model, tmp_path, monkeypatch
):
    """Killed before every single write and removal."""
    save_checkpoint(HOME, small_model, config_of(small_model))
    before, old = dict(store.objects), np.asarray(small_model.embed.W_E[...])
    small_model.embed.W_E.set_value(small_model.embed.W_E[...] + 1)
    save_checkpoint(tmp_path / "new", small_model, config_of(small_model))
    left, seen, kept = 0, [], []

    def dying(method):
        def call(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return method(*arguments)

        return call

    while len(kept) < 2 or kept[-1] != kept[-2]:  # until it dies no more
        store.objects = dict(before)
        with monkeypatch.context() as patch:
            for name in ("put", "remove", "rmtree"):
                patch.setattr(store, name, dying(getattr(store, name)))
            left = len(seen)
            with contextlib.suppress(Killed):
                storage._replace(tmp_path / "new", files.place(HOME))
        kept.append(dict(store.objects))
        seen.append(round(float(load_checkpoint(HOME)[0].embed.W_E[...][0, 0] - old[0, 0])))
        storage.refuse_foreign(files.place(HOME))  # nor does it stop the next
    assert seen == sorted(seen) and set(seen) == {0, 1} and len(seen) > 30
    names = {file.relative_to(tmp_path / "new").as_posix() for file in files.files_in(tmp_path / "new")}
    assert {name.removeprefix(f"{HOME}/") for name in store.objects} == names


def test_what_is_wrong_there_is_said(store, small_model):
    with pytest.raises(FileNotFoundError, match=f"there is no checkpoint at {HOME}"):
        load_checkpoint(HOME)
    store.put(f"{HOME}/thesis.tex", b"text")
    with pytest.raises(UserError, match="is not a checkpoint of orderscale-jax"):
        load_checkpoint(HOME)
    for path in (HOME, f"{HOME}/thesis.tex"):
        with pytest.raises(FileExistsError, match="is not a checkpoint"):
            save_checkpoint(path, small_model, config_of(small_model))
    assert list(store.objects) == [f"{HOME}/thesis.tex"]
    place = f"{HOME}/model"
    save_checkpoint(place, small_model, config_of(small_model))
    name = next(name for name in store.objects if "/arrays/" in name)
    store.objects[name] = store.objects[name][:-1]
    with pytest.raises(UserError, match=f"the checkpoint {place} is damaged"):
        load_checkpoint(place)


def test_a_damaged_state_is_passed_over_and_replaced(store):
    for step in (1, 2, 3):
        save_state(HOME, step, {"step": np.int32(step)}, {"said": step})
    assert {re.search(r"step_\d+", name)[0] for name in store.objects} == {"step_000000002", "step_000000003"}
    for name in [name for name in store.objects if "3/arrays/" in name]:
        del store.objects[name]
    step, state, metadata = restore_latest(HOME, {"step": np.int32(0)})
    assert (step, state["step"], metadata) == (2, 2, {"said": 2})
    del store.objects[f"{HOME}/step_000000003/SHA256SUMS"]
    save_state(HOME, 3, {"step": np.int32(3)}, {})
    assert restore_latest(HOME, {"step": np.int32(0)})[0] == 3


def test_figures_histories_and_the_place_of_a_report(store, local, small_model):
    train(small_config(), HOME)
    (curve,) = report.read_history(f"{HOME}/checkpoint", seed=0)
    assert list(curve.steps) == [10, 20, 23]
    written = figures.save(figures.training_curves(curve), f"{HOME}/figures/curve", ("png",))
    assert [str(path) for path in written] == [f"{HOME}/figures/curve.png"]
    assert store.objects[f"{HOME}/figures/curve.png"].startswith(b"\x89PNG")
    before = dict(store.objects)
    with machine.output_directory(HOME) as directory:
        assert isinstance(directory, epath.Path) and store.objects == before
    with pytest.raises(OSError, match="cannot be written: it is a file"):
        with machine.output_directory(f"{HOME}/summary.json"):
            pass

    def denied(name, content):
        raise RuntimeError("403 Forbidden")

    store.put = denied
    with pytest.raises(OSError, match=f"the output directory {HOME} cannot be written: 403 Forbidden"):
        with machine.output_directory(HOME):
            pass


def test_places(store, monkeypatch, tmp_path):
    assert files.place("runs/two:layer") == Path("runs/two:layer")
    assert files.place(epath.Path(tmp_path)) == tmp_path and not files.is_remote(files.place(tmp_path))
    assert isinstance(files.place("odd:/folder"), Path)
    there = files.place("gs://bucket/x")
    assert (str(there), files.is_remote(there), files.place(there)) == ("gs://bucket/x", True, there)
    with pytest.raises(
        UserError, match="ftp://host/x cannot be reached: give a local path, or one with gs://"
    ):
        files.place("ftp://host/x")
    with pytest.raises(UserError, match="give gs://bucket/x as text, pathlib makes gs:/ of gs://"):
        files.place(Path("gs://bucket/x"))

    def offline(path):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(store, "exists", offline)
    with pytest.raises(OSError, match="gs://bucket/x cannot be reached: no route to host"):
        files.place("gs://bucket/x")


@pytest.mark.parametrize("command", ["train --config=two_layer --workdir", "analyze --output=x --checkpoint"])
@pytest.mark.parametrize(
    ("place", "said"), [("ftp://host/x", "cannot be reached"), ("gs://bucket/x", "pip install gcsfs")]
)
def test_a_place_nobody_can_reach_is_refused_before_anything_is_made(tmp_path, command, place, said, forks):
    blocked = "import sys; sys.modules.update(gcsfs=None, tensorflow=None); main.main()"
    code, out, err = forks.run(*f"{command}={place}".split(), place=tmp_path, code=blocked)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir()), shutil.rmtree(tmp_path)
