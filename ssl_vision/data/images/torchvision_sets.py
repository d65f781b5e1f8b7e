"""Data sets that torchvision fetches by name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.levels import DEFAULT, DecodeConfig
from ssl_vision.data.source import Source, Split
from ssl_vision.errors import DataError
from ssl_vision.files import cache_home
from ssl_vision.network import is_offline

_Load = Callable[[Path, Split, bool, DecodeConfig], Source]


def data_root() -> Path:
    """Where named data sets are kept: SSL_VISION_DATA for them alone, else with all caches."""
    root = os.environ.get("SSL_VISION_DATA")
    return Path(root).expanduser() if root else cache_home() / "data"


def _cifar(name: str) -> _Load:
    def load(root: Path, split: Split, download: bool, decode: DecodeConfig) -> Source:
        from torchvision import datasets

        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        data = kind(root, train=split == "train", download=download)
        labels = np.array(data.targets)
        return ArraySource(data.data, labels, class_names=data.classes, name=f"{name}/{split}")

    return load


def _stl10(root: Path, split: Split, download: bool, decode: DecodeConfig) -> Source:
    from torchvision import datasets

    # Pretraining uses labelled and unlabelled training images: 105,000; the latter have label -1.
    part = "train+unlabeled" if split == "train" else "test"
    data = datasets.STL10(root, split=part, download=download)
    images = np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
    return ArraySource(images, data.labels, class_names=data.classes, name=f"stl10/{split}")


def _imagenette(root: Path, split: Split, download: bool, decode: DecodeConfig) -> Source:
    from torchvision import datasets

    folder = root / "imagenette2"
    data = datasets.Imagenette(root, split=split, download=download and not folder.exists())
    source = FolderSource(folder / split, decode=decode)
    source.class_names = [names[0] for names in data.classes]
    return source


def _flowers(root: Path, split: Split, download: bool, decode: DecodeConfig) -> Source:
    from torchvision import datasets

    data: Any = datasets.Flowers102(root, split=split, download=download)
    source = FolderSource(root / "flowers-102" / "jpg", decode=decode)
    number = {path: row for row, path in enumerate(source.paths)}
    source.paths = [Path(path).name for path in data._image_files]
    if not all(path in number for path in source.paths):
        raise DataError(f"flowers102 in {root} is incomplete; use data.download=true.")
    source.labels = np.array(data._labels, np.int64)
    source.class_names = [str(label) for label in range(102)]
    return source


_LOADERS: dict[str, _Load] = {
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "stl10": _stl10,
    "imagenette": _imagenette,
    "flowers102": _flowers,
}
NAMES = tuple(_LOADERS)


def load_torchvision(
    name: str, *, split: Split, download: bool, decode: DecodeConfig = DEFAULT
) -> Source:
    """A named data set.

    Raises:
        DataError: If it is not there and may not, or cannot, be fetched.
    """
    root, may_fetch = data_root(), download and not is_offline()
    try:
        return _LOADERS[name](root, split, may_fetch, decode)
    except (RuntimeError, OSError) as error:
        # What torchvision says names its own argument, and nothing else unless a download failed.
        advice = "use data.download=true to fetch it"
        if may_fetch:
            advice = f"the download failed ({error})"
        if download and not may_fetch:
            advice = "SSL_VISION_OFFLINE is set, so it is not fetched"
        raise DataError(f"data set {name} was not found in {root}: {advice}.") from error
