"""The wheel holds what it needs, and works in a folder that is not the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import orderscale_jax

ROOT = Path(__file__).parents[1]
NEEDED = (
    "py.typed",
    "__main__.py",
    "configs/two_layer.py",
    "configs/sweeps/table4.py",
    "pretrained/two_layer/SHA256SUMS",
    "pretrained/three_layer/config/metadata",
    "report/published_checkpoints.json",
    "report/published_figures.json",
    "report/published_grids.csv",
    "report/templates/report.html.jinja",
    "explorer/explorer.html",
    "explorer/film.npz",
    "explorer/explorer.js",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_all_files_and_no_others(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "orderscale = orderscale_jax.cli.main:main" in archive.read(entry_points).decode()
    ours = {name.removeprefix("orderscale_jax/") for name in names if not name.startswith("orderscale_jax-")}
    assert set(NEEDED) <= ours
    package = ROOT / "orderscale_jax"
    there_are = {
        path.relative_to(root).as_posix()
        for root, folder in ((package, package), (ROOT, ROOT / "configs"))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours == there_are


def test_the_wheel_works_elsewhere(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "JAX_PLATFORMS": "cpu"}

    def python(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    def orderscale(*arguments):
        return python("-m", "orderscale_jax", *arguments)

    where = python("-c", "import orderscale_jax as package; print(package.__file__, package.__version__)")
    assert where.stdout.split()[0] == str(tmp_path / "installed" / "orderscale_jax" / "__init__.py")
    assert f"orderscale_jax-{where.stdout.split()[1]}-" in wheel.name
    listed = orderscale()
    assert (listed.returncode, listed.stderr) == (0, "") and "  train " in listed.stdout
    found = orderscale("train", "--config=two_layer", "--workdir=run", "--config.model.n_layers=0")
    assert found.stderr == "error: model.n_layers must be at least 1, got 0\n"
    missing = orderscale("train", "--config=four_layer", "--workdir=run")
    assert "none of that name is shipped: there are three_layer, two_layer" in missing.stderr
    assert not (tmp_path / "run").exists()


def test_all_that_the_package_offers_is_there():
    offered = {name for names in orderscale_jax._ROOMS.values() for name in names}
    assert offered == set(orderscale_jax.__all__) and offered < set(dir(orderscale_jax))
    assert all(getattr(orderscale_jax, name) is not None for name in dir(orderscale_jax))
    assert orderscale_jax.model.cut is orderscale_jax.cut
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        orderscale_jax.nothing  # noqa: B018
