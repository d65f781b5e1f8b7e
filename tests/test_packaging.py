"""Wheel and sdist hold what an installed package needs: recipes, zoo, types, examples."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ssl_vision
from ssl_vision.recipes import recipe_names

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("hatchling"), reason="hatchling is not installed"
)


def _build(folder: Path, target: str, out: Path) -> Path:
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    (made,) = out.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_a_wheel_has_recipes_zoo_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = Parser().parsestr(archive.read(metadata).decode())
    assert {f"ssl_vision/configs/{name}.yaml" for name in recipe_names()} <= names
    assert {"ssl_vision/py.typed", "ssl_vision/model_zoo/index.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "docs/"))]
    assert about["Version"] == ssl_vision.__version__
    extras = set(about.get_all("Provides-Extra"))
    assert {"gpu", "xformers", "onnx", "notebook", "docs", "dev"} <= extras


def test_a_wheel_works_outside_of_a_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "ssl_vision", "recipes"],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(name in done.stdout for name in recipe_names())


def test_an_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = _build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (folder,) = (tmp_path / "source").iterdir()
    for name in ("examples/first_steps.ipynb", "docs/_hook.py", "tests/runs.py", "Makefile"):
        assert (folder / name).exists(), name
    again = _build(folder, "wheel", tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        kept = {i.filename: i.CRC for i in one.infolist() if "RECORD" not in i.filename}
        found = {i.filename: i.CRC for i in other.infolist() if "RECORD" not in i.filename}
    assert kept == found
