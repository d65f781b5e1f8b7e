from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.find import find_source
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.pairs.config import PairData
from ssl_vision.data.pairs.source import PairSource, warped_pairs
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import ConfigError, DataError


def save(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    return str(path)


def pair(*paths: str) -> PairSource:
    return PairSource(FilesSource(paths), np.array([[0, 1]]))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_sample_is_both_images(tmp_path: Path, suffix: str) -> None:
    """The decoder's memory is used again for the second: the first must have been kept."""
    source = pair(*(save(tmp_path / f"{i}.{suffix}", seed=i) for i in range(2)))
    sample = source.sample(0)
    assert sample.shape == (2, 16, 20, 3)
    assert sample.flags.c_contiguous
    for row in range(2):
        np.testing.assert_array_equal(sample[row], source.images.sample(row))
    assert source.name(0) == f"{tmp_path}/0.{suffix} and {tmp_path}/1.{suffix}"


def test_unequal_sizes_are_a_line_with_both(tmp_path: Path) -> None:
    source = pair(save(tmp_path / "a.png", 0), save(tmp_path / "b.png", 1, size=(16, 20)))
    with pytest.raises(DataError, match=r"images are of 20 x 16 and 16 x 20 px"):
        source.sample(0)


def test_the_same_picture_under_two_names_is_a_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 0)
    (tmp_path / "link.png").symlink_to(path)
    (tmp_path / "copy.png").write_bytes(Path(path).read_bytes())
    for other in ("link.png", "copy.png"):
        with pytest.raises(DataError, match="same picture twice"):
            pair(path, str(tmp_path / other)).sample(0)


@pytest.mark.parametrize("broken", ["gone", "empty", "cut"])
def test_which_of_the_two_cannot_be_read_is_said(tmp_path: Path, broken: str) -> None:
    good, bad = save(tmp_path / "a.png", 0), tmp_path / "b.png"
    if broken == "empty":
        bad.touch()
    elif broken == "cut":
        bad.write_bytes(Path(good).read_bytes()[:200])
    with pytest.raises(DataError, match=r"b\.png: "):
        pair(good, str(bad)).sample(0)


def test_the_fingerprint_tells_images_and_pairing(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    pairs = np.array([[0, 1], [2, 3]])
    found = {PairSource(ArraySource(images), pairs).fingerprint()}
    found.add(PairSource(ArraySource(images), pairs[:, ::-1]).fingerprint())
    found.add(PairSource(ArraySource(images[::-1]), pairs).fingerprint())
    assert len(found) == 3
    again = PairSource(ArraySource(images.copy()), pairs.copy())
    assert again.fingerprint() in found


def test_some_pairs_are_pairs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 6, 6, 3), dtype=np.uint8)
    whole = PairSource(ArraySource(images), np.arange(6).reshape(3, 2))
    some = SubsetSource(whole, np.array([2, 0]))
    assert some.modality == "pairs"
    np.testing.assert_array_equal(some.sample(0), images[4:])
    assert some.raw_block(np.array([0])) is None


def test_one_image_twice_is_warped_by_a_homography_of_its_own() -> None:
    """A ramp of columns and rows says in the second view where each pixel is from."""
    rows, columns = np.mgrid[:60, :80]
    ramp = np.stack([columns * 3, rows * 4, rows * 0], axis=2).astype(np.uint8)
    source = warped_pairs(ArraySource(np.stack([ramp, ramp])), warp=0.2)
    assert len(source) == 2
    first, second = source.sample(1)
    np.testing.assert_array_equal(first, ramp)
    corners = second[[0, 0, -1, -1], [0, -1, 0, -1], :2] / [3, 4]
    ends = np.array([[0, 0], [79, 0], [0, 59], [79, 59]])
    moved = np.abs(corners - ends) / [80, 60]
    assert (moved <= 0.2 + 0.02).all()
    assert moved.max() > 0.05
    assert (second != source.sample(0)[1]).any()  # another homography
    np.testing.assert_array_equal(source.sample(1)[1], second)
    assert "teaches no geometry" in source.notes[-1]


def test_the_smoke_test_takes_what_images_are_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(3):
        save(tmp_path / "a" / f"{i}.png", seed=i)
    config = PairData(path=str(tmp_path / "a"), smoke_test_warp=0.3)
    source = find_source(config.path, split="train", config=config)
    assert source.modality == "pairs"
    assert len(source) == 3
    val = PairData(path="digits", smoke_test_warp=0.3)
    assert len(find_source("digits", split="val", config=val)) == 297 + 3
    for warp in (0.0, 0.5, -1.0):
        with pytest.raises(ConfigError, match=r"data\.smoke_test_warp"):
            PairData(path="digits", smoke_test_warp=warp)
    with pytest.raises(ConfigError, match="set one of them to null"):
        PairData(path="digits", smoke_test_warp=0.2, frame_distance=3)
