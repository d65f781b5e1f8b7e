"""One door to data: equal images give equal batches, whatever they come as."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ssl_vision.data.clouds.config import CloudData
from ssl_vision.data.find import describe, find_source, given
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.beton import BetonSource
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.hub import HubSource
from ssl_vision.data.images.layout import layout_of
from ssl_vision.data.images.map_style import MapStyleSource
from ssl_vision.data.images.objects import source_of
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.data.images.table import read_table
from ssl_vision.data.module import DataModule
from ssl_vision.data.splits import NoValSplitError
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.types import Batch
from ssl_vision.views import JitterConfig, ViewConfig

_NUM, _SIDE = 200, 20


class Photos:
    """200 PNG files in two class folders, and the same as all else."""

    def __init__(self, root: Path) -> None:
        self.root = root / "photos"
        generator = np.random.default_rng(0)
        self.array = generator.integers(0, 256, (_NUM, _SIDE, _SIDE + 3, 3), dtype=np.uint8)
        self.labels = np.repeat([0, 1], _NUM // 2)
        self.paths = [self.root / ("cat", "dog")[i * 2 // _NUM] / f"{i:03d}.png"
                      for i in range(_NUM)]  # fmt: skip
        for path, pixels in zip(self.paths, self.array, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        self.table = root / "photos.csv"
        with self.table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "file", "class"])
            writer.writerows(
                [i, p.relative_to(root), p.parent.name] for i, p in enumerate(self.paths)
            )

    def names(self) -> list[str]:
        return [path.parent.name for path in self.paths]


class Tensors(Dataset):
    """What torchvision's data sets with ToTensor give: floats of 0..1, channels first."""

    classes = ("cat", "dog")

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return _NUM

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= _NUM:
            raise IndexError
        pixels = torch.from_numpy(self.photos.array[index]).permute(2, 0, 1)
        return pixels.float() / 255, int(self.photos.labels[index])


class Dicts(Dataset):
    """PIL images in dictionaries, classes as texts."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return _NUM

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "id": index,
            "image": Image.open(self.photos.paths[index]),
            "label": self.name(index),
        }

    def name(self, index: int) -> str:
        return ("cat", "dog")[self.photos.labels[index]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return Photos(tmp_path_factory.mktemp("photos"))


def _hub(photos: Photos) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"image": [str(p) for p in photos.paths], "label": photos.labels.tolist()},
        features=datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
        ),
    )


def _packed(photos: Photos) -> str:
    path = photos.root.parent / "photos.beton"
    if not path.exists():
        pack(build_source(str(photos.root)), path, PackConfig(mode="raw", verify=False))
    return str(path)


_KINDS: dict[str, Callable[[Photos], Any]] = {
    "folder": lambda p: p.root,
    "list": lambda p: p.paths,
    "list with labels": lambda p: ([str(path) for path in p.paths], p.names()),
    "csv": lambda p: str(p.table),
    "frame": lambda p: pd.DataFrame({"path": p.paths, "label": p.names()}),
    "columns": lambda p: {"path": p.paths, "label": p.names()},
    "array": lambda p: p.array,
    "array with labels": lambda p: (p.array, p.labels),
    "tensor": lambda p: torch.from_numpy(p.array).permute(0, 3, 1, 2),
    "tensor dataset": lambda p: TensorDataset(
        torch.from_numpy(p.array).permute(0, 3, 1, 2), torch.from_numpy(p.labels)
    ),
    "own dataset": Tensors,
    "own dataset of dictionaries": Dicts,
    "subset": lambda p: Subset(Tensors(p), range(_NUM)),
    "list of pictures": lambda p: [Image.fromarray(a) for a in p.array],
    "hugging face": _hub,
    "beton": _packed,
}
_WITHOUT_LABELS = ("list", "array", "tensor", "list of pictures")


_SOURCES = {
    "folder": FolderSource, "list": FilesSource, "csv": FilesSource, "frame": FilesSource,
    "array": ArraySource, "own dataset": MapStyleSource, "hugging face": HubSource,
    "beton": BetonSource,
}  # fmt: skip


def _config(path: object = "x", **settings: Any) -> ImageData:
    view = ViewConfig(size_px=16, crop_area=(0.3, 1.0), jitter=JitterConfig())
    settings = {"num_threads": 2, "global_batch_size": 40, "views": {"a": view}} | settings
    return ImageData(path=str(path), **settings)


def _module(data: Any, **settings: Any) -> DataModule:
    handed = given(data)
    return DataModule(_config(handed.path, **settings), seed=3, data=handed.data)


def _same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.views["a"], b.views["a"]) and torch.equal(a.index, b.index)


@pytest.mark.parametrize("kind", _KINDS)
def test_equal_images_give_equal_batches_and_resume_in_the_middle(
    photos: Photos, kind: str
) -> None:
    expected = list(_module(photos.root).train_loader())
    data = _module(_KINDS[kind](photos))
    loader, found = data.train_loader(), []
    for batch in loader:
        found.append(batch)
        if len(found) == 2:
            break
    state = loader.state_dict()
    resumed = _module(_KINDS[kind](photos)).train_loader()
    resumed.load_state_dict(state)
    found += list(resumed)
    assert len(found) == len(expected) == _NUM // 40
    assert all(map(_same, found, expected))
    if kind in _WITHOUT_LABELS:
        assert all(batch.label is None for batch in found)
        return
    assert all(torch.equal(a.label, b.label) for a, b in zip(found, expected, strict=True))
    named = kind not in ("array with labels", "tensor dataset")
    assert data.train_source.class_names == (["cat", "dog"] if named else ["0", "1"])


@pytest.mark.parametrize("kind", _SOURCES)
def test_each_kind_has_its_source(photos: Photos, kind: str) -> None:
    source = find_source(_KINDS[kind](photos), split="train", config=_config())
    assert type(source) is _SOURCES[kind]
    assert find_source(source, split="train", config=_config()) is source


@pytest.mark.parametrize("kind", [kind for kind in _KINDS if kind not in ("folder", "beton")])
def test_fingerprints_stay_and_change_with_a_label_or_a_pixel(photos: Photos, kind: str) -> None:
    make = _KINDS[kind]
    first = find_source(make(photos), split="train", config=_config())
    again = find_source(make(photos), split="train", config=_config())
    assert first.fingerprint() == again.fingerprint()
    other = Photos.__new__(Photos)
    other.__dict__ |= photos.__dict__
    other.array, other.paths = photos.array.copy(), [photos.paths[1], *photos.paths[1:]]
    other.array[0] = photos.array[1]
    if kind != "csv":
        changed = find_source(make(other), split="train", config=_config())
        assert changed.fingerprint() != first.fingerprint()


class Large(Dataset):
    """Two pictures of more than 255 pixels a side."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(np.full((*self.shape, 3), index, np.uint8))


def test_fingerprints_are_of_pictures_of_any_size() -> None:
    found = [
        find_source(Large(shape), split="train", config=_config()).fingerprint()
        for shape in ((300, 400), (400, 300), (44, 400), (300, 144))  # 44: 300 modulo 256
    ]
    assert len(set(found)) == 4


def test_fingerprint_of_a_data_set_is_what_it_states_where_it_states_one(photos: Photos) -> None:
    class Stated(Tensors):
        fingerprint = "v1"

    source = find_source(Stated(photos), split="train", config=_config())
    assert source.is_identified
    before = source.fingerprint()
    Stated.fingerprint = "v2"
    assert find_source(Stated(photos), split="train", config=_config()).fingerprint() != before
    assert not find_source(Tensors(photos), split="train", config=_config()).is_identified


# What was understood is said -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("csv", ["paths are column 'file'", "labels column 'class' (2 classes)", "id not read"]),
        ("array", ["(N, H, W, C)"]),
        ("tensor", ["(N, C, H, W)"]),
        ("own dataset", ["part 0", "(C, H, W)", "labels are read from all 200"]),
        ("own dataset of dictionaries", ["entry 'image'", "entry 'label'"]),
        ("hugging face", ["column 'image'", "labels column 'label' (2 classes)"]),
    ],
)
def test_what_was_understood_is_a_note(photos: Photos, kind: str, words: list[str]) -> None:
    notes = " ".join(_module(_KINDS[kind](photos)).notes)
    for word in words:
        assert word in notes


@pytest.mark.parametrize(
    ("shape", "is_tensor", "expected"),
    [
        ((5, 8, 9), False, (8, 9)),
        ((5, 8, 9, 1), False, (8, 9)),
        ((5, 8, 9, 4), False, (8, 9)),
        ((5, 2, 8, 9), False, (8, 9)),
        ((5, 3, 7, 3), True, (7, 3)),
        ((5, 3, 7, 3), False, (3, 7)),
    ],
)
def test_axes_of_arrays(shape: tuple[int, ...], is_tensor: bool, expected: tuple[int, int]) -> None:
    values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % 251
    array: Any = values.astype(np.uint8)
    source = find_source(
        torch.from_numpy(array) if is_tensor else array, split="train", config=_config()
    )
    assert source.sample(4).shape == (*expected, 3)


@pytest.mark.parametrize(
    ("value", "level"), [(0.0, 0), (1.0, 255), (100 / 255, 100), (np.float16(0.5), 128)]
)
def test_floats_of_0_to_1_are_levels(value: float, level: int) -> None:
    array = np.full((4, 9, 8, 3), value)
    assert find_source(array, split="train", config=_config()).sample(0).max() == level


# Refusals -----------------------------------------------------------------------------------


class _Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(3))


class _Empty(Dataset):
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_Stream(), "map-style Dataset"),
        ((i for i in range(3)), "map-style Dataset"),
        (DataLoader([1, 2, 3]), "LOADER.dataset"),
        (datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(), "without streaming"),
        (datasets.Dataset.from_dict({"a": [1]}), "no column of images, but a (Value)"),
        (_Empty(), "no samples"),
        ([], "no image files"),
        (["nowhere.png", "never.png"], "relative paths start from"),
        (["a.png", 3], "entry 1"),
        ([1, 2, 3], "has no image"),
        (3, "list of image files"),
        (Tensors, "list of image files"),  # the class, not one of it
        (None.__class__, "list of image files"),
        ({"a": 1}, "list of image files"),
        ({"validation": ["a.png"]}, "no 'train'"),
        (np.zeros((480, 640, 3), np.uint8), "images[None]"),
        (np.zeros((5, 8, 8, 3), np.int64), "uint8"),
        (np.full((5, 8, 8, 3), 2.5), "not normalised"),
        (np.full((5, 8, 8, 3), np.nan), "not normalised"),
        (np.zeros((5, 8, 8, 7), np.uint8), "1 to 4 channels"),
        (np.zeros((0, 8, 8, 3), np.uint8), "shape"),
        ((np.zeros((5, 8, 8, 3), np.uint8), [1, 2]), "5 images and 2 labels"),
        ((np.zeros((2, 8, 8, 3), np.uint8), [1, 0.5]), "0.5"),
        (pd.DataFrame({"a": [1, 2]}), "columns a"),
        (pd.DataFrame({"path": ["x.png", None]}), "first row 1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line_with_the_way_out(data: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        find_source(data, split="train", config=_config())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layout_needs_channels() -> None:
    with pytest.raises(DataError, match="1 to 4 channels"):
        layout_of((8, 8, 9), is_tensor=False, what="it")
    with pytest.raises(NoValSplitError):
        source_of([str(Path(__file__))], split="val")


def test_clouds_and_objects_of_another_program_are_refused() -> None:
    with pytest.raises(ConfigError, match="clouds are given as a path"):
        find_source([1], split="train", config=CloudData(path="x"))
    with pytest.raises(DataError, match=r"ssl_vision.train\(..., data=OBJECT\)"):
        find_source("object:ndarray[3]", split="train", config=_config())


# Splits -------------------------------------------------------------------------------------


def test_splits_of_a_column_of_a_dictionary_and_of_a_hub(photos: Photos, tmp_path: Path) -> None:
    parts = ["train"] * 150 + ["test"] * 20 + ["Validation"] * 30
    frame = pd.DataFrame({"path": photos.paths, "label": photos.names(), "split": parts})
    data = _module(frame)
    assert (len(data.train_source), len(data.val_source)) == (150, 30)
    assert data.has_val_split
    assert "test not read" in " ".join(data.notes)
    hub = datasets.DatasetDict(train=_hub(photos), test=_hub(photos).select(range(7)))
    assert len(_module(hub).val_source) == 7
    both = _module({"train": photos.root, "val": photos.paths[:5]})
    assert len(both.val_source) == 5
    alone = _module(pd.DataFrame({"path": photos.paths, "label": photos.names()}))
    assert not alone.has_val_split
    assert len(alone.val_source) == _NUM // 5
    frame["split"] = "train"
    with pytest.raises(NoValSplitError):
        find_source(frame, split="val", config=_config())
    path = tmp_path / "all.parquet"
    frame.assign(path=frame["path"].map(str)).to_parquet(path)
    assert len(_module(path).train_source) == _NUM


# Unreadable samples -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "frame", "own dataset of dictionaries", "hugging face"])
def test_unreadable_samples_are_named_or_replaced(tmp_path: Path, kind: str) -> None:
    photos = Photos(tmp_path)
    photos.paths[7].write_bytes(photos.paths[7].read_bytes()[:60])
    with pytest.raises(DataError, match="sample 7"):
        list(_module(_KINDS[kind](photos)).train_loader())
    loader = _module(_KINDS[kind](photos), on_error="substitute").train_loader()
    folder = _module(photos.root, on_error="substitute").train_loader()
    assert all(map(_same, loader, folder))
    assert set(loader.bad_samples) == {7}


class _Busy(Tensors):
    """Says whether two threads were inside at once."""

    inside, met = 0, False

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.inside += 1
        self.met |= self.inside > 1
        sample = super().__getitem__(index)
        self.inside -= 1
        return sample


def test_a_data_set_is_asked_by_one_thread_at_a_time(photos: Photos) -> None:
    data = _Busy(photos)
    list(_module(data, num_threads=4).train_loader())
    assert not data.met


class _Restless(Tensors):
    readings = 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = super().__getitem__(index)
        self.readings += 1
        return image.roll(self.readings % _SIDE, 1), label


def test_targets_that_are_no_classes_and_columns_of_paths(photos: Photos) -> None:
    class Boxes(Dataset):
        def __len__(self) -> int:
            return _NUM

        def __getitem__(self, index: int) -> Any:
            return photos.array[index], {"boxes": [[0, 0, 1, 1]]}

    source = find_source(Boxes(), split="train", config=_config())
    assert source.labels is None
    assert "no part of them is a label" in source.notes[0]
    for column in (np.array(photos.paths, object), pd.Series(list(map(str, photos.paths)))):
        source = find_source(column, split="train", config=_config())
        assert source.name(3) == str(photos.paths[3])


def test_random_transforms_of_a_data_set_are_told(photos: Photos) -> None:
    source = find_source(_Restless(photos), split="train", config=_config())
    assert "take random transforms out" in " ".join(source.notes)
    again = find_source(_Restless(photos), split="train", config=_config())
    assert source.fingerprint() == again.fingerprint()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a.png,cat\nb.png,dog\n", "put a line path,label above it"),
        ("path,path\na,b\n", "two columns are named 'path'"),
        ("path,label\na.png,x,y\n", "row 2 has 3 values"),
        ("path,label\n", "none that holds paths"),
        ('path,label\n"a.png,x\n', "cannot be read as a table"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        build_source(str(path))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_marks_of_columns_and_paths_beside_the_table(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a b.png").write_bytes(b"x")
    path = tmp_path / ("t.tsv" if mark == "\t" else "t.csv")
    path.write_bytes(("\ufeff" + mark.join(["Image", "Y"]) + "\r\n" + mark.join(["a b.png", "3"])
                      + "\r\n").encode())  # fmt: skip
    assert read_table(path) == {"Image": ["a b.png"], "Y": ["3"]}
    source = build_source(str(path))
    assert source.name(0) == str(tmp_path / "a b.png")
    assert source.class_names == ["3"]


def test_objects_are_described_in_a_word() -> None:
    assert describe(np.zeros((2, 3, 4))) == "ndarray[2,3,4]"
    assert describe(["a", "b"]) == "list[2]"
    assert describe({"train": ["a"], "val": "photos"}) == "{train:list[1],val:photos}"
    assert given(Path("a/b")).path == "a/b"
    assert given((["a"], [1])).path == "object:list[1]+labels"


@pytest.mark.parametrize("config", [ImageData(path="???"), CloudData(path="???")])
def test_a_path_that_a_recipe_left_open_is_asked_for(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not given.*add data\.path=DIR"):
        find_source("???", split="train", config=config)
