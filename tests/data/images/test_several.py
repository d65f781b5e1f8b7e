"""Files, folders and sets joined into one source give each sample as its own source does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.several import images_at
from ssl_vision.data.source import JoinedSource
from ssl_vision.errors import DataError


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("c.png", "train/a.png", "val/b.png", "train/x y.png")]
    for shade, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4 + shade, 5), (shade, 0, 0)).save(path)
    return paths


def test_every_image_of_a_folder_counts_whatever_its_folders_are_called(
    tmp_path: Path, pictures: list[Path]
) -> None:
    assert len(build_source(str(tmp_path))) == 2  # a training set: train/ alone
    assert len(images_at([tmp_path])) == 4


def test_order_and_pixels_are_those_that_were_given(pictures: list[Path], tmp_path: Path) -> None:
    words = [pictures[2], "digits", pictures[0], pictures[3], tmp_path / "train"]
    found, digits = images_at(words), build_source("digits")
    assert len(found) == 1 + len(digits) + 2 + 2
    whole = [found.sample(i) for i in range(len(found))]
    reds = [2, 0, 3, 1, 3]
    expected = [np.full((5, 4 + red, 1), red) for red in reds]
    rest = [whole[0], *whole[1 + len(digits) :]]
    assert all((a[..., :1] == b).all() for a, b in zip(rest, expected, strict=True))
    assert all((whole[1 + i] == digits.sample(i)).all() for i in (0, 5, len(digits) - 1))
    assert found.name(0) == str(pictures[2])
    assert found.name(len(digits)) == digits.name(len(digits) - 1)
    assert found.file(len(found) - 1) == str(pictures[3])


def test_fingerprint_follows_contents(pictures: list[Path]) -> None:
    before = images_at(pictures[:2]).fingerprint()
    assert images_at(pictures[:2]).fingerprint() == before
    assert images_at(pictures[1::-1]).fingerprint() != before
    Image.new("RGB", (4, 5), (9, 9, 9)).save(pictures[0])
    assert images_at(pictures[:2]).fingerprint() != before
    joined = [JoinedSource([FilesSource(part)]) for part in (pictures[:1], pictures[1:2])]
    assert joined[0].fingerprint() != joined[1].fingerprint()


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images are given"):
        images_at([])
    with pytest.raises(DataError, match="holds no image files"):
        images_at([tmp_path])
    with pytest.raises(DataError, match="No such file"):
        FilesSource([tmp_path / "gone.png"]).sample(0)


def test_objects_and_tables_are_images_too(pictures: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text(f"path\n{pictures[1]}\n{pictures[0]}\n")
    loose = [Image.open(path) for path in (pictures[1], pictures[0])]
    for given in (table, [table], loose, {"path": [pictures[1], pictures[0]]}):
        found = images_at(given)
        assert [int(found.sample(i)[0, 0, 0]) for i in range(len(found))] == [1, 0]
    assert len(images_at(np.zeros((7, 5, 6), np.uint8))) == 7
