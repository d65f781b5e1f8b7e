"""Which images take part, and whose file is which."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.masks import MASKS
from ssl_vision.data.images.paired import Images, pair_up
from ssl_vision.data.images.partners import PartnerConfig
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import ConfigError, DataError


def images(root: Path, names: list[str], *, has_val: bool = False, keep=None) -> Images:
    for name in names:
        for folder in ("images", "masks"):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (3, 2)).save(path)
    train = FolderSource(root / "images" / ("train" if has_val else ""))
    return Images(
        path=str(root / "images"),
        val_path=None,
        train=train,
        whole=train,
        val=FolderSource(root / "images/val") if has_val else None,
        has_val_split=has_val,
        keep=keep or (lambda source, _: source),
    )


def names_of(source) -> list[str]:
    return [Path(source.name(row)).stem for row in range(len(source))]


def config(root: Path, **lists: str) -> PartnerConfig:
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(text)
    paths = {f"{name}_list": str(root / f"{name}.txt") for name in lists}
    return PartnerConfig(path=str(root / "masks"), **paths)


def test_splits_stay_as_they_are(tmp_path):
    given = images(tmp_path, ["train/a", "train/b", "val/a"], has_val=True)
    found = pair_up(given, config(tmp_path), MASKS)
    assert (found.train, found.val) == (given.train, given.val)
    assert found.of(found.train) == [tmp_path / f"masks/train/{n}.png" for n in "ab"]
    assert found.of(SubsetSource(found.val, np.array([0]))) == [tmp_path / "masks/val/a.png"]
    assert found.notes == found.warnings == ()


def test_a_fixed_fifth_is_held_out_and_said(tmp_path):
    given = images(tmp_path, [f"{i:02d}" for i in range(20)])
    first, again = (pair_up(given, config(tmp_path), MASKS) for _ in range(2))
    assert sorted(names_of(first.train) + names_of(first.val)) == [f"{i:02d}" for i in range(20)]
    assert len(first.val) == 4
    assert names_of(first.val) == names_of(again.val)
    assert "4 of 20 images, a fixed fifth" in first.notes[0]
    with pytest.raises(DataError, match="has one image"):
        pair_up(images(tmp_path / "one", ["a"]), config(tmp_path / "one"), MASKS)


def test_lists_choose_from_all_and_what_they_share_is_warned_of(tmp_path):
    given = images(tmp_path, list("abcdef"), keep=lambda s, split: SubsetSource(s, np.arange(2)))
    found = pair_up(given, config(tmp_path, train="a\nb\nc\n", val="b\nf\n"), MASKS)
    assert (names_of(found.train), names_of(found.val)) == (["a", "b"], ["b", "f"])
    assert found.warnings[0].startswith("1 test images are training images")
    with pytest.raises(ConfigError, match=r"train_list=.*give masks\.val_list, too"):
        pair_up(given, config(tmp_path, train="a\n"), MASKS)


def test_vocs_lists_beside_the_masks_are_followed_where_nothing_else_is_said(tmp_path):
    given = images(tmp_path, list("abcd"))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("d\na\n")
    (lists / "val.txt").write_text("c\n")
    found = pair_up(given, config(tmp_path), MASKS)
    assert (names_of(found.train), names_of(found.val)) == (["a", "d"], ["c"])
    assert "are those of" in found.notes[0]
    other = pair_up(given, config(tmp_path, train="a\n", val="b\n"), MASKS)
    assert (names_of(other.train), names_of(other.val)) == (["a"], ["b"])
