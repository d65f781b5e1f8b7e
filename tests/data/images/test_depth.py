"""Depth from files: metres, units that are stated, and what is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.depth import depth_size, read_depth
from ssl_vision.errors import DataError


def test_floats_are_metres_and_whole_numbers_have_a_scale(tmp_path: Path) -> None:
    metres = np.array([[0.5, 2.0, 3.25]], np.float64)
    np.save(tmp_path / "a.npy", metres)
    np.save(tmp_path / "b.npy", (metres * 256).astype(np.uint16)[..., None])
    Image.fromarray((metres * 1000).astype(np.uint16)).save(tmp_path / "c.png")
    Image.fromarray(metres.astype(np.float32)).save(tmp_path / "d.tiff")
    for name, scale in (("a.npy", 7), ("b.npy", 1 / 256), ("c.png", 0.001), ("d.tiff", 7)):
        found = read_depth(tmp_path / name, scale=scale)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, metres, rtol=1e-6)
        assert depth_size(tmp_path / name) == (1, 3)


def test_what_was_not_measured_is_nan(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0.0, -1.0, np.nan, np.inf, 2.0]]))
    assert np.isnan(read_depth(tmp_path / "a.npy", scale=1)[0]).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.npy", lambda p: np.save(p, np.zeros((2, 2))), "has no depth: all its values are 0"),
        ("a.npy", lambda p: np.save(p, np.ones((2, 2, 3))), r"shape \(2, 2, 3\)"),
        ("a.npy", lambda p: np.save(p, np.array([["x"]])), "depth is numbers"),
        ("a.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read as"),
        ("a.npy", lambda p: p.write_bytes(b""), "cannot be read as depth"),
        ("a.png", lambda p: p.write_bytes(b"x"), "cannot be read as depth"),
        ("a.png", lambda p: Image.new("RGB", (2, 2)).save(p), r"picture of colours \(RGB\)"),
        ("a.png", lambda p: Image.new("I;16", (2, 2)).save(p), "has no depth"),
    ],
)
def test_files_without_depth_are_one_line(tmp_path: Path, name, make, words) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError, match=words) as caught:
        read_depth(tmp_path / name, scale=1)
    assert "\n" not in str(caught.value)
