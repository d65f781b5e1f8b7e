"""Homographies, flows and points from files; warped views whose geometry is true."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.two_views import (
    Pair,
    WarpedSource,
    apply_homography,
    homography_of,
    read_geometry,
    read_pairs,
)
from ssl_vision.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> tuple[str, str]:
    names = []
    for name in ("a", "b"):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")
        names.append(str(tmp_path / f"{name}.png"))
    return names[0], names[1]


def geometry(images, file: Path):
    return read_geometry(Pair(images[0], images[1], str(file)))


PLACES = np.array([[0.5, 0.5], [3.5, 2.5], [7.2, 5.9]])


def test_a_homography_counts_from_the_centre_of_the_first_pixel(tmp_path, images):
    # Twice as large: the centre of pixel 0 stays at that of pixel 0, (0.5, 0.5) from the corner.
    (tmp_path / "H").write_text("2 0 0\n0 2 0\n0 0 1\n")
    np.save(tmp_path / "H.npy", np.diag([2.0, 2.0, 1.0]))
    for name in ("H", "H.npy"):
        found = geometry(images, tmp_path / name).at(PLACES)
        np.testing.assert_allclose(found.second, 2 * (PLACES - 0.5) + 0.5)
        assert found.first is PLACES


def test_places_beyond_the_horizon_are_nowhere():
    matrix = np.array([[1.0, 0, 0], [0, 1, 0], [-0.5, 0, 1]])
    found = apply_homography(matrix, np.array([[1.0, 1.0], [4.0, 1.0]]))
    np.testing.assert_allclose(found[0], [2, 2])
    assert np.isnan(found[1]).all()


def test_four_places_fix_a_homography():
    rng = np.random.default_rng(0)
    first = np.array([[0, 0], [10, 0], [10, 8], [0, 8]], float)
    second = first + rng.uniform(-2, 2, (4, 2))
    matrix = homography_of(first, second)
    np.testing.assert_allclose(apply_homography(matrix, first), second)
    assert matrix[2, 2] == 1


@pytest.mark.parametrize("form", ["npy", "png"])
def test_a_disparity_moves_a_place_to_the_left(tmp_path, images, form):
    disparity = np.random.default_rng(0).integers(1, 5 * 256, (6, 8)) / 256
    disparity[2, 3] = 0  # was not measured
    file = tmp_path / f"disparity.{form}"
    if form == "npy":
        np.save(file, disparity)
    else:
        Image.fromarray((disparity * 256).astype(np.uint16)).save(file)
    found = geometry(images, file).at(PLACES).second
    expected = PLACES - np.array([[disparity[0, 0], 0], [np.nan, np.nan], [disparity[5, 7], 0]])
    np.testing.assert_allclose(found[::2], expected[::2])
    assert np.isnan(found[1, 0])


@pytest.mark.parametrize("form", ["npy", "flo"])
def test_a_flow_moves_the_pixel_a_place_lies_in(tmp_path, images, form):
    flow = np.random.default_rng(0).normal(size=(6, 8, 2)).astype(np.float32)
    flow[2, 3] = np.nan if form == "npy" else 2e9
    file = tmp_path / f"flow.{form}"
    if form == "npy":
        np.save(file, flow)
    else:
        head = np.float32(202021.25).tobytes() + np.array([8, 6], np.int32).tobytes()
        file.write_bytes(head + flow.tobytes())
    found = geometry(images, file).at(PLACES).second
    np.testing.assert_allclose(found[0], PLACES[0] + flow[0, 0], rtol=1e-6)
    np.testing.assert_allclose(found[2], PLACES[2] + flow[5, 7], rtol=1e-6)
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_points_are_taken_instead_of_patches(tmp_path, images, form):
    rows = np.array([[0, 0, 3, 4], [1.5, 2, 5, 1]])
    if form == "npy":
        np.save(tmp_path / "p.npy", rows)
    else:
        lines = ["x_first,y_first,x_second,y_second", *(",".join(map(str, r)) for r in rows)]
        (tmp_path / "p.csv").write_text("\n".join(lines))
    found = geometry(images, tmp_path / f"p.{form}").at(PLACES)
    np.testing.assert_allclose(found.first, rows[:, :2] + 0.5)
    np.testing.assert_allclose(found.second, rows[:, 2:] + 0.5)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("H", b"1 2 3", "none of these: a homography"),
        ("H", b"1 2 3 4 5 6 7 8 x", "none of these: a homography"),
        ("H", b"1 0 0 1 0 0 0 0 1", "cannot be inverted"),
        ("p.csv", b"x,y\n1,2\n", "has not the columns x_first, y_first"),
        ("p.csv", b"x_first,y_first,x_second,y_second\n1,2,3,z\n", "holds what is no number"),
        ("f.flo", b"PIEH", "does not begin as a .flo"),
        ("f.npy", b"nothing", "cannot be read"),
        ("f.npy", np.zeros((5, 5, 2)), "is a flow of 5x5 pixels, its image .*a.png has 8x6"),
        ("f.npy", np.zeros((5, 3)), r"has the shape \(5, 3\)"),
        ("f.npy", np.array([["a"]]), "holds no numbers"),
    ],
)
def test_files_that_say_nothing_are_refused(tmp_path, images, name, content, words):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(DataError, match=words):
        geometry(images, tmp_path / name)


def test_pairs_of_a_table_start_from_its_folder(tmp_path, images):
    (tmp_path / "H").write_text("1 0 0 0 1 0 0 0 1")
    (tmp_path / "pairs.csv").write_text("first,second,geometry\na.png,b.png,H\n")
    assert read_pairs(tmp_path / "pairs.csv") == [Pair(images[0], images[1], str(tmp_path / "H"))]


def test_hpatches_layout_pairs_images_by_the_names_of_homographies(tmp_path):
    for folder in ("v_b", "i_a"):
        (tmp_path / folder).mkdir()
        for i in (1, 2, 3):
            Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{i}.ppm")
        for i in (2, 3):
            (tmp_path / folder / f"H_1_{i}").write_text("1 0 0 0 1 0 0 0 1")
    names = [
        tuple(Path(each).relative_to(tmp_path).as_posix() for each in pair)
        for pair in read_pairs(tmp_path)
    ]
    assert names == [
        (f"{folder}/1.ppm", f"{folder}/{i}.ppm", f"{folder}/H_1_{i}")
        for folder in ("i_a", "v_b")
        for i in (2, 3)
    ]
    (tmp_path / "v_b/3.ppm").unlink()
    with pytest.raises(DataError, match="H_1_3 belongs to images that are not beside it"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("first,second\na.png,b.png\n", "has the columns first, second; wanted are first, second"),
        ("first,second,geometry\n", "names no pair"),
        ("first,second,geometry\na.png,c.png,H\n", "c.png is not there"),
        ("first,second,geometry\na.png,b.png,G\n", "G is not there"),
        ("first,second,geometry\na.png,./a.png,H\n", "is paired with itself"),
    ],
)
def test_tables_of_no_pairs_are_refused(tmp_path, images, table, words):
    (tmp_path / "H").write_text("1 0 0 0 1 0 0 0 1")
    (tmp_path / "pairs.csv").write_text(table)
    with pytest.raises(DataError, match=words):
        read_pairs(tmp_path / "pairs.csv")


def test_other_files_and_folders_are_no_pairs(tmp_path, images):
    with pytest.raises(DataError, match="has no folders in HPatches' layout"):
        read_pairs(tmp_path)
    with pytest.raises(DataError, match="neither a table"):
        read_pairs(Path(images[0]))


def test_a_warped_view_shows_what_its_geometry_says(tmp_path):
    height, width = 60, 90
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([2 * x, 3 * y, 100 + 50 * np.sin(x / 9) * np.cos(y / 7)], axis=2)
    names = []
    for i in range(3):
        Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / f"{i}.png")
        names.append(str(tmp_path / f"{i}.png"))
    source = FilesSource(names)
    warped = WarpedSource(source, strength=0.3, key=5)
    assert len({warped.sample(i).tobytes() for i in range(3)}) == 3
    for index in range(3):
        places = rng.uniform([0, 0], [width, height], (400, 2))
        found = warped.geometry(index, (height, width)).at(places).second
        seen = ((found > 2) & (found < [width - 2, height - 2])).all(axis=1)
        assert 30 < seen.sum() < 400
        image = warped.sample(index).astype(float)
        for place, (u, v) in zip(places[seen], found[seen], strict=True):
            wanted = smooth[int(place[1]), int(place[0])]
            # The colour of the nearest pixel: its place is off by half a pixel at most, which
            # the warp, larger than the image by up to 2.5, may enlarge.
            assert np.abs(image[int(v), int(u)] - wanted).max() <= 14
        corners = warped.corners(index, (height, width))
        back = warped.geometry(index, (height, width)).at(corners).second
        np.testing.assert_allclose(back, [[0, 0], [90, 0], [90, 60], [0, 60]], atol=1e-9)
        assert (corners >= 0).all()
        assert (corners <= [width, height]).all()
        assert np.abs(corners - [[0, 0], [90, 0], [90, 60], [0, 60]]).max() <= 0.3 * 90
    same = WarpedSource(source, strength=0.3, key=5)
    assert np.array_equal(same.sample(1), warped.sample(1))
    assert same.fingerprint() == warped.fingerprint()
    other = WarpedSource(source, strength=0.3, key=6)
    assert other.fingerprint() != warped.fingerprint()
    assert warped.name(0).endswith("0.png (warped)")
    assert warped.file(0) is None
