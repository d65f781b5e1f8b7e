"""Matches of photos: crops and turned views of one picture, against what was cut; strangers."""

from pathlib import Path

import numpy as np
import pytest
from known_pairs.photos import count, cut_view, true_overlap, write_views
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_images

from ssl_vision.data.decode import Decoder
from ssl_vision.data.pairs import matched
from ssl_vision.data.pairs.make import PairsConfig
from ssl_vision.data.pairs.matched import Described, describe, match
from ssl_vision.errors import ConfigError

pytest.importorskip("cv2")


def photo(seed: int, size: int = 400) -> Image.Image:
    """Blobs of many sizes: what local features are found in."""
    random, sum_ = np.random.default_rng(seed), np.zeros((size, size, 3))
    for cells in (8, 20, 50, 120):
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        sum_ += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
    return Image.fromarray((sum_ / 4).astype(np.uint8))


def described(image: Image.Image, path: Path) -> Described:
    image.save(path)
    return describe(path, Decoder())


def test_crops_overlap_by_what_they_share(tmp_path: Path) -> None:
    whole = photo(0)
    left = described(whole.crop((0, 0, 300, 300)), tmp_path / "a.png")
    for shift in (30, 60, 100):
        right = described(whole.crop((shift, 0, shift + 300, 300)), tmp_path / "b.png")
        found = match(left, right)
        assert found.num > 50
        assert found.share == pytest.approx(1 - shift / 300, abs=0.12)


def test_a_turned_and_smaller_view_is_matched(tmp_path: Path) -> None:
    image = photo(1)
    first = described(image, tmp_path / "a.png")
    second = described(image.rotate(35).resize((280, 280)), tmp_path / "b.png")
    assert match(first, second).num > 50


@pytest.mark.parametrize("seed", range(3))
def test_strangers_share_next_to_nothing(tmp_path: Path, seed: int) -> None:
    first = described(photo(10 + seed), tmp_path / "a.png")
    second = described(photo(20 + seed), tmp_path / "b.png")
    assert match(first, second).num < 30


def test_pictures_without_features_match_nothing(tmp_path: Path) -> None:
    flat = described(Image.new("RGB", (90, 60), "gray"), tmp_path / "a.png")
    assert len(flat.points) == 0
    assert match(flat, described(photo(0), tmp_path / "b.png")).num == 0
    assert match(flat, flat).share == 0


def test_large_photos_are_matched_smaller(tmp_path: Path) -> None:
    found = described(photo(3).resize((1280, 800)), tmp_path / "a.png")
    assert found.shape == (800, 1280)
    assert found.size == (400, 640)
    assert found.points.max() <= 640


def test_the_same_photos_give_the_same_matches(tmp_path: Path) -> None:
    image = photo(4)
    first, second = (
        described(image.crop((x, 0, x + 320, 320)), tmp_path / "a.png") for x in (0, 60)
    )
    assert match(first, second) == match(first, second)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"ssl-vision\[pairs\]"):
        matched.opencv()


# Photos of which the truth is known ---------------------------------------------------------


def test_the_overlap_of_shifted_and_scaled_views_is_that_of_rectangles() -> None:
    first, second, wider = np.eye(3), np.eye(3), np.diag([2.0, 2.0, 1.0])
    second[:2, 2] = 80, 160  # of 320 px
    assert true_overlap(first, second) == pytest.approx(0.75 * 0.5)
    assert true_overlap(second, first) == pytest.approx(0.75 * 0.5)
    assert true_overlap(first, wider) == pytest.approx(0.25)  # all of it, a quarter of the other
    second[0, 2] = 320
    assert true_overlap(first, second) == 0


def test_views_show_the_parts_of_a_photo_that_are_said() -> None:
    for axis in (0, 1):  # pictures whose values are columns, and rows
        ramp = np.indices((500, 600), np.float32)[1 - axis]
        random = np.random.default_rng(0)
        view, matrix = cut_view(Image.fromarray(ramp), random, is_recolored=False)
        pixels = np.asarray(view)
        for x, y in ((1, 0), (319, 0), (1, 319), (319, 319), (100, 250)):
            place = matrix @ [x + 0.5, y + 0.5, 1]
            assert pixels[y, x] == pytest.approx(place[axis] / place[2] - 0.5, abs=0.2)


def test_pairs_that_are_kept_of_real_photos_are_of_one_photo(tmp_path: Path) -> None:
    """Four views each of three photos that come with libraries."""
    photos = [*map(Path, load_sample_images().filenames), Path(str(get_sample_data(
        "grace_hopper.jpg", asfileobj=False)))]  # fmt: skip
    views = write_views(photos, tmp_path, seed=0)
    found = count(tmp_path, views, PairsConfig(min_overlap=0.1))
    assert found.tried == 12 * 11 // 2
    assert found.touching == found.kept
    assert found.right >= found.overlapping / 3
    assert found.right >= 5
