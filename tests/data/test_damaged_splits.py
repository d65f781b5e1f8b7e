"""A test split that is there and damaged is an error, never replaced by training samples."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssl_vision.data.clouds.config import CloudData
from ssl_vision.data.images.beton import index_path
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.data.module import DataModule
from ssl_vision.errors import DataError
from ssl_vision.points.views import PointViewConfig
from ssl_vision.views import ViewConfig


def images_of(path: Path, val_path: Path | None = None) -> DataModule:
    views = {"view": ViewConfig(size_px=16)}
    val = None if val_path is None else str(val_path)
    config = ImageData(path=str(path), val_path=val, views=views, global_batch_size=4)
    return DataModule(config, seed=0)


def clouds_of(path: Path) -> DataModule:
    views = {"cloud": PointViewConfig(num_points=16)}
    return DataModule(CloudData(path=str(path), views=views, global_batch_size=2), seed=0)


@pytest.fixture
def packed(tmp_path, image_folder) -> Path:
    """A folder of train.beton and val.beton."""
    for name in ("train", "val"):
        pack(FolderSource(image_folder), tmp_path / "set" / f"{name}.beton", PackConfig())
    assert images_of(tmp_path / "set").has_val_split
    return tmp_path / "set"


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def other_sidecar(path: Path) -> None:
    content = json.loads(index_path(path).read_text())
    index_path(path).write_text(json.dumps({**content, "fingerprint": "0" * 16}))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: cut(path, 0.5),
    "cut in its table": lambda path: cut(path, 0.99999),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "sidecar of another": other_sidecar,
    "sidecar of no JSON": lambda path: index_path(path).write_text("{"),
    "a folder of that name": as_folder,
    "a dangling link": dangling,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_packed_test_split_is_an_error(packed, name) -> None:
    DAMAGE[name](packed / "val.beton")
    with pytest.raises(DataError):
        images_of(packed)
    with pytest.raises(DataError):
        images_of(packed / "train.beton", packed / "val.beton")


@pytest.mark.parametrize("content", ["nothing", "no images", "a file"])
def test_a_test_folder_without_images_is_an_error(tmp_path, image_folder, content) -> None:
    shutil.copytree(image_folder, tmp_path / "set" / "train")
    val = tmp_path / "set" / "val"
    val.mkdir()
    if content == "no images":
        (val / "cat").mkdir()
        (val / "cat" / "notes.txt").write_text("moved")
    if content == "a file":
        (val / "a.beton").write_bytes(b"")
    with pytest.raises(DataError, match="holds no image files"):
        images_of(tmp_path / "set")


@pytest.mark.parametrize("content", ["nothing", "no clouds"])
def test_a_test_folder_without_clouds_is_an_error(tmp_path, content) -> None:
    for name in "ab":
        folder = tmp_path / "set" / "train" / name
        folder.mkdir(parents=True)
        for i in range(4):
            np.save(folder / f"{i}.npy", np.random.default_rng(i).normal(size=(20, 3)))
    assert not clouds_of(tmp_path / "set").has_val_split  # held out, as there is none
    (tmp_path / "set" / "val" / "a").mkdir(parents=True)
    if content == "no clouds":
        (tmp_path / "set" / "val" / "a" / "0.dat").write_bytes(b"x")
    with pytest.raises(DataError, match="holds no clouds"):
        clouds_of(tmp_path / "set")
