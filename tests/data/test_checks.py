"""Classes that do not meet, and leaks, in a line with the count."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.checks import class_warnings, leak_warnings, pair_warnings
from ssl_vision.data.clouds.config import CloudData
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.data.module import DataModule
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import DataError
from ssl_vision.points.views import PointViewConfig
from ssl_vision.views import ViewConfig


def pictures(root: Path, seed: int = 0, **classes: int) -> Path:
    random = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 255, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def module(path: Path, **changes) -> DataModule:
    settings = {"path": str(path), "global_batch_size": 1, "views": {"a": ViewConfig(size_px=8)}}
    return DataModule(ImageData(**settings | changes), seed=0)


def counts(source) -> list[int]:
    return np.bincount(source.labels, minlength=len(source.class_names)).tolist()


# The held-out split ------------------------------------------------------------------------


def test_a_fifth_of_each_class_is_held_out(tmp_path) -> None:
    data = module(pictures(tmp_path / "set", good=60, bad=5, odd=2, rare=1))
    assert data.val_source.class_names == ["bad", "good", "odd", "rare"]
    assert counts(data.val_source) == [1, 12, 1, 0]
    assert counts(data.bank_source) == [4, 48, 1, 1]
    (note,) = data.notes
    assert "14 of 68 samples" in note
    assert "1 class of one sample stays whole" in note


def test_classes_of_one_leave_nothing_to_hold_out(tmp_path) -> None:
    data = module(pictures(tmp_path / "set", a=1, b=1, c=1))
    assert data.val_source is None
    assert len(data.bank_source) == 3
    assert "none are held out" in data.notes[0]


def test_a_damaged_packed_split_is_no_reason_to_hold_out(tmp_path) -> None:
    pictures(tmp_path / "images", a=10, b=10)
    (tmp_path / "set").mkdir()
    source = build_source(str(tmp_path / "images"))
    for name in ("train", "val"):
        pack(source, tmp_path / "set" / f"{name}.beton", PackConfig())
    val = tmp_path / "set" / "val.beton"
    assert len(module(tmp_path / "set").val_source) == 20
    val.write_bytes(val.read_bytes()[:100])
    with pytest.raises(DataError, match=r"val\.beton"):
        module(tmp_path / "set")
    val.unlink()
    assert counts(module(tmp_path / "set").val_source) == [2, 2]  # there is none: held out


# Classes -----------------------------------------------------------------------------------


def test_classes_meet_by_name_after_unicode_normalisation(tmp_path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != apart
    pictures(tmp_path / "train", **{composed: 2, "bar": 2, "zoo": 2})
    pictures(tmp_path / "val", seed=1, **{apart: 3, "zoo": 1})
    data = module(tmp_path)
    assert data.train_source.class_names == ["bar", composed, "zoo"]
    assert data.val_source.labels.tolist() == [1, 1, 1, 2]
    assert data.warnings() == []
    both = FolderSource(pictures(tmp_path / "both", **{composed: 1, apart: 1, "bar": 1}))
    assert counts(both) == [1, 2]


def test_classes_without_training_samples_are_counted_and_named(tmp_path) -> None:
    pictures(tmp_path / "train", bird=3, cat=3)
    pictures(tmp_path / "val", seed=1, ant=2, bird=1, cat=1)
    data = module(tmp_path)
    assert data.val_source.labels.tolist() == [2, 2, 0, 1]  # the unknown one comes last
    (line,) = data.warnings()
    assert "2 of 4 test samples are of 1 classes without training samples (ant)" in line


def test_a_class_that_the_choice_of_training_images_leaves_out_is_named() -> None:
    source = ArraySource(np.arange(6 * 48, dtype=np.uint8).reshape(6, 4, 4, 3), [0, 0, 1, 1, 2, 2])
    bank = SubsetSource(source, np.array([0, 2]))
    (line,) = class_warnings(bank, SubsetSource(source, np.array([1, 3, 5])))
    assert "1 of 3 test samples are of 1 classes without training samples (2)" in line


def test_classes_that_do_not_meet_are_said(tmp_path) -> None:
    pictures(tmp_path / "train", cat=2, dog=2)
    pictures(tmp_path / "val", seed=1, n01=2, n02=2)
    (line,) = module(tmp_path).warnings()
    assert "(n01, n02)" in line
    assert "(cat, dog)" in line
    assert "says nothing" in line


def test_test_samples_of_one_class_have_its_label(tmp_path) -> None:
    pictures(tmp_path / "train", bird=2, cat=2)
    pictures(tmp_path / "val", seed=1, cat=3)
    data = module(tmp_path)
    assert data.val_source.labels.tolist() == [1, 1, 1]
    (line,) = data.warnings()
    assert "one class, cat, of 2" in line


def test_a_lone_folder_that_is_no_class_gives_no_labels(tmp_path) -> None:
    pictures(tmp_path / "train", bird=2, cat=2)
    pictures(tmp_path / "val", seed=1, images=3)
    data = module(tmp_path)
    assert data.val_source.labels is None
    (line,) = data.warnings()
    assert "the training samples have labels, the test samples have none" in line
    assert "images/" in line


def test_vanished_labels_are_explained(tmp_path) -> None:
    stray = pictures(tmp_path / "stray", cat=2, dog=2)
    shutil.copy(stray / "cat" / "0.png", stray / "preview.png")
    deeper = pictures(tmp_path / "deeper" / "images", cat=2, dog=2).parent
    plain = pictures(tmp_path / "plain", images=3)
    flat = pictures(tmp_path / "flat", **{".": 3})
    for path, word in ((stray, "preview.png"), (deeper, "cat, dog")):
        data = module(path)
        assert data.train_source.labels is None
        (line,) = data.warnings()
        assert word in line
    assert module(plain).warnings() == module(flat).warnings() == []


def test_classes_with_the_same_folders_in_them_are_said(tmp_path) -> None:
    for site in ("north", "south"):
        pictures(tmp_path / site, cat=1, dog=1)
    source = FolderSource(tmp_path)
    assert source.class_names == ["north", "south"]
    assert "cat, dog" in source.notes[0]


# Leaks -------------------------------------------------------------------------------------


def test_shared_samples_are_counted_whatever_they_are_called(tmp_path) -> None:
    train = pictures(tmp_path / "train", cat=5, dog=5)
    val = pictures(tmp_path / "val", seed=1, cat=5, dog=5)
    assert module(tmp_path).warnings() == []
    shutil.copy(train / "cat" / "1.png", val / "dog" / "other.png")  # the same bytes
    (val / "cat" / "link.png").symlink_to(train / "dog" / "2.png")  # the same file
    (line,) = module(tmp_path).warnings()
    assert line.startswith("2 of 12 test samples are training samples too")
    assert "val/cat/link.png" in line


def test_a_path_held_against_itself_leaks_whole(tmp_path) -> None:
    path = pictures(tmp_path / "set", cat=4, dog=3)
    (line,) = module(path, val_path=str(path)).warnings()
    assert line.startswith("7 of 7 test samples")


def test_copies_that_the_hold_out_parts_are_found(tmp_path) -> None:
    path = pictures(tmp_path / "set", cat=10, dog=10)
    for file in sorted((path / "cat").iterdir()):
        shutil.copy(file, file.with_name(f"copy_{file.name}"))
    data = module(path)
    bank = {Path(data.bank_source.name(i)).read_bytes() for i in range(len(data.bank_source))}
    held = [Path(data.val_source.name(i)).read_bytes() for i in range(len(data.val_source))]
    expected = sum(content in bank for content in held)
    assert expected > 0
    assert data.warnings()[0].startswith(f"{expected} of {len(held)} test samples")


def test_equal_sizes_and_equal_ends_are_no_leak(tmp_path) -> None:
    for name, middle in (("train", b"a"), ("val", b"b")):
        for kind in ("cat", "dog"):
            (tmp_path / name / kind).mkdir(parents=True)
            content = b"x" * 5000 + middle * 300 + b"x" * 5000
            (tmp_path / name / kind / "1.png").write_bytes(content)
    train, val = FolderSource(tmp_path / "train"), FolderSource(tmp_path / "val")
    assert leak_warnings(train, val) == []
    (tmp_path / "val" / "cat" / "2.png").write_bytes((tmp_path / "train/cat/1.png").read_bytes())
    assert len(leak_warnings(train, FolderSource(tmp_path / "val"))) == 1


def test_leaks_are_the_same_after_fingerprints_have_read_the_files(tmp_path) -> None:
    """With copies, an empty file on both sides, a link to nothing, and rows left out."""
    sides = [pictures(tmp_path / name, seed, a=8, b=5) for seed, name in enumerate("xy")]
    for number, name in ((2, "copy"), (4, "other")):
        shutil.copy(sides[0] / "a" / f"{number}.png", sides[1] / "b" / f"{name}.png")
    for side in sides:
        (side / "a" / "empty.png").touch()
        (side / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    bank, val = (FolderSource(side) for side in sides)
    bank = SubsetSource(bank, np.array([row for row in range(len(bank)) if row != 4]))
    before = leak_warnings(bank, val)
    assert bank.content_keys() is None
    for source in (bank, val):
        source.fingerprint()
    assert bank.content_keys() is not None
    assert leak_warnings(bank, val) == before
    assert len(before) == 1
    assert before[0].startswith("1 of 17 test samples are training samples too")


def test_empty_files_are_no_leak(tmp_path) -> None:
    for name in ("train", "val"):
        pictures(tmp_path / name, seed=len(name), cat=2, dog=2)
        (tmp_path / name / "cat" / "empty.png").write_bytes(b"")
    assert module(tmp_path).warnings() == []


@pytest.mark.parametrize("mode", ["raw", "keep"])
def test_packed_and_in_memory_samples_are_compared(tmp_path, mode) -> None:
    source = build_source(str(pictures(tmp_path / "set", cat=4, dog=3)))
    for name, rows in (("train", [0, 1, 2, 4, 5]), ("val", [3, 5, 6])):
        part = SubsetSource(source, np.array(rows))
        (tmp_path / "packed").mkdir(exist_ok=True)
        pack(part, tmp_path / "packed" / f"{name}.beton", PackConfig(mode=mode))
    (line,) = module(tmp_path / "packed").warnings()
    assert line.startswith("1 of 3 test samples")
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 4, 3), np.uint8)
    (line,) = pair_warnings(ArraySource(images, np.arange(5) % 2), ArraySource(images[3:], [1, 0]))
    assert line.startswith("2 of 2 test samples")


def test_shared_clouds_are_counted(tmp_path) -> None:
    random = np.random.default_rng(0)
    for name, num in (("train", 4), ("test", 3)):
        for kind in ("box", "cup"):
            (tmp_path / name / kind).mkdir(parents=True)
            for i in range(num):
                np.save(tmp_path / name / kind / f"{i}.npy", random.normal(size=(20, 3)))
    views = {"points": PointViewConfig(num_points=16)}
    config = CloudData(path=str(tmp_path), global_batch_size=1, views=views)
    assert DataModule(config, seed=0).warnings() == []
    shutil.copy(tmp_path / "train/box/1.npy", tmp_path / "test/cup/9.npy")
    (line,) = DataModule(config, seed=0).warnings()
    assert line.startswith("1 of 7 test samples")
