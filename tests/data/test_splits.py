"""Which part of a folder is which split."""

from pathlib import Path

import pytest

from ssl_vision.data.clouds.find import build_point_source
from ssl_vision.data.images.find import build_source
from ssl_vision.data.splits import NotSplitError, NoValSplitError
from ssl_vision.errors import DataError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0 0 0\n1 1 1\n" if name.endswith(".txt") else "")
    return root


def of(root: Path, split: str, kind: str) -> list[str]:
    """Paths of a split below the root, in order."""
    build = build_source if kind == "png" else build_point_source
    source = build(str(root), split=split)
    return [Path(source.name(i)).relative_to(root).as_posix() for i in range(len(source))]


@pytest.mark.parametrize("kind", ["png", "txt"])
@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("val", ["Val", "valid", "VALIDATION", "test", "Testing"])
def test_splits_have_their_usual_names_in_any_case(tmp_path, train, val, kind) -> None:
    make(tmp_path, f"{train}/cat/1.{kind}", f"{val}/cat/2.{kind}")
    assert of(tmp_path, "train", kind) == [f"{train}/cat/1.{kind}"]
    assert of(tmp_path, "val", kind) == [f"{val}/cat/2.{kind}"]


@pytest.mark.parametrize("kind", ["png", "txt"])
def test_validation_is_scored_before_test_and_what_is_left_out_is_said(tmp_path, kind) -> None:
    make(tmp_path, *(f"{name}/cat/1.{kind}" for name in ("train", "valid", "test", "more")))
    assert of(tmp_path, "val", kind) == [f"valid/cat/1.{kind}"]
    build = build_source if kind == "png" else build_point_source
    (note,) = build(str(tmp_path)).notes
    assert "test, more not read" in note


@pytest.mark.parametrize("kind", ["png", "txt"])
@pytest.mark.parametrize("name", ["train", "Test", "val", "training"])
def test_a_lone_split_name_among_folders_is_a_class(tmp_path, name, kind) -> None:
    make(tmp_path, f"bus/1.{kind}", f"{name}/2.{kind}", f"bicycle/3.{kind}")
    build = build_source if kind == "png" else build_point_source
    source = build(str(tmp_path))
    assert source.class_names == sorted(["bicycle", "bus", name])
    assert len(source) == 3
    assert f"{name} is read as a class" in source.notes[0]
    with pytest.raises(NotSplitError):
        build(str(tmp_path), split="val")


def test_a_lone_train_folder_is_a_split_beside_folders_without_images(tmp_path) -> None:
    make(tmp_path, "train/cat/1.png", "docs/readme.md")
    assert of(tmp_path, "train", "png") == ["train/cat/1.png"]
    with pytest.raises(NoValSplitError) as caught:
        build_source(str(tmp_path), split="val")
    assert not isinstance(caught.value, NotSplitError)


def test_packed_splits_are_never_classes(tmp_path) -> None:
    make(tmp_path, "Train.beton", "Val.beton", "raw/1.png")
    with pytest.raises(DataError, match=r"Train\.beton"):  # opened, and found to be empty
        build_source(str(tmp_path))
    with pytest.raises(DataError, match=r"Val\.beton"):
        build_source(str(tmp_path), split="val")


@pytest.mark.parametrize("kind", ["png", "txt"])
@pytest.mark.parametrize("names", [("test",), ("val", "test"), ("val", "test", "cat")])
def test_test_samples_are_no_training_samples(tmp_path, names, kind) -> None:
    make(tmp_path, *(f"{name}/cat/1.{kind}" for name in names))
    build = build_source if kind == "png" else build_point_source
    with pytest.raises(DataError, match="no training samples"):
        build(str(tmp_path))
