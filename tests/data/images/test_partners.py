"""A file for each image in another folder, by the image's name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.masks import MASKS
from ssl_vision.data.images.partners import check_sizes, find_partners
from ssl_vision.errors import DataError


def images(root: Path, *names: str, size: tuple[int, int] = (6, 4)) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if name.endswith(".png") else "RGB", size).save(root / name)
    return [str(root / name) for name in names]


@pytest.mark.parametrize(
    ("image", "mask", "others"),
    [
        ("train/x.jpg", "train/x.png", ["val/x.png"]),  # the same path comes first
        ("JPEGImages/2007_01.jpg", "2007_01.png", []),  # VOC: all masks in one folder
        ("train/x.jpg", "training/x.png", []),
        (
            "val/ulm/ulm_1_leftImg8bit.png",
            "val/ulm/ulm_1_gtFine_labelIds.png",
            ["val/ulm/ulm_1_gtFine_color.png", "val/ulm/ulm_1_gtFine_instanceIds.png"],
        ),
        ("a/0001.jpg", "a/0001_mask.png", []),
        ("0001.jpg", "deep/0001_L.png", []),
        ("x.y.jpg", "x.y.png", ["x.png"]),
    ],
)
def test_the_usual_layouts_meet_by_path_or_name(tmp_path, image, mask, others):
    (path,) = images(tmp_path / "images", image)
    images(tmp_path / "masks", mask, *others)
    found = find_partners([path], root=tmp_path / "images", folder=tmp_path / "masks", kind=MASKS)
    assert found == {path: tmp_path / "masks" / mask}


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (["a.png"], r"b\.jpg has no mask in .*masks \(nor have 1 others of 3\): looked for b\.png"),
        (["1/a.png", "1/b.png", "1/c.png", "2/c.png"], r"c\.jpg has several masks by its name"),
        ([], r"masks\.path=.* holds no mask \(\.png"),
    ],
)
def test_what_cannot_be_matched_is_said(tmp_path, masks, words):
    paths = images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "masks").mkdir()
    images(tmp_path / "masks", *masks)
    with pytest.raises(DataError, match=words):
        find_partners(paths, root=tmp_path / "images", folder=tmp_path / "masks", kind=MASKS)


def test_a_mask_of_another_split_or_folder_is_not_taken(tmp_path):
    train, val, other = images(tmp_path / "images", "train/1.jpg", "val/1.jpg", "val/2.jpg")
    images(tmp_path / "masks", "train/1.png", "train/2.png")
    folder = {"root": tmp_path / "images", "folder": tmp_path / "masks", "kind": MASKS}
    assert find_partners([train], **folder) == {train: tmp_path / "masks/train/1.png"}
    with pytest.raises(DataError, match=r"val/1\.jpg has no mask .*\(nor have 1 others of 2\)"):
        find_partners([val, other], **folder)
    images(tmp_path / "masks", "val/1.png")
    with pytest.raises(DataError, match=r"val/2\.jpg has no mask"):  # that of train/2 is another's
        find_partners([val, other], **folder)


def test_a_folder_that_is_none_is_said(tmp_path):
    with pytest.raises(DataError, match=r"masks\.path=.*gone is not a folder"):
        find_partners([], root=tmp_path, folder=tmp_path / "gone", kind=MASKS)


def test_sizes_meet_after_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 6 x 4 as stored is shown as 4 x 6
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, exif=exif)
    (upright,) = images(tmp_path, "upright.png", size=(4, 6))
    (lying,) = images(tmp_path, "lying.png", size=(6, 4))
    check_sizes({str(path): Path(upright)}, MASKS)
    with pytest.raises(DataError, match=r"lying\.png has 6x4 pixels, its image .*a\.jpg 4x6"):
        check_sizes({str(path): Path(lying)}, MASKS)


def test_images_that_cannot_be_read_are_left_to_the_pass_over_them(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    (mask,) = images(tmp_path, "a.png")
    check_sizes({str(tmp_path / "a.jpg"): Path(mask)}, MASKS)
    with pytest.raises(DataError, match=r"a\.jpg cannot be read"):
        check_sizes({mask: tmp_path / "a.jpg"}, MASKS)
