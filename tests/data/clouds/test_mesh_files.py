"""Readers against files written by hand, byte by byte."""

import struct
from pathlib import Path

import numpy as np
import pytest

from ssl_vision.data.clouds.mesh_files import read_geometry
from ssl_vision.errors import DataError

SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
HEADER = (
    "ply\nformat {style} 1.0\ncomment made by hand\nelement vertex 4\nproperty float x\n"
    "property float y\nproperty float z\nproperty uchar red\nelement face {faces}\n"
    "property list uchar int vertex_indices\nend_header\n"
)
FILES = {
    "plain.off": "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n",
    "modelnet.off": "OFF4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n",
    "colours.off": "COFF # comment\n\n4 1 0\n0 0 0 255 0 0\n1 0 0 1 1 1\n1 1 0 0 0 0\n"
    "0 1 0 9 9 9\n4 0 1 2 3 255 0 0\n",
    "plain.obj": "# cube side\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\nf 1/1/1 2/2/1 3/3/1\n"
    "f 1//1 3//1 4//1\n",
    "negative.obj": "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0 1.0\nf -4 -3 \\\n -2 -1\n",
    "text.ply": HEADER.format(style="ascii", faces=1)
    + "0 0 0 9\n1 0 0 9\n1 1 0 9\n0 1 0 9\n4 0 1 2 3\n",
}
FACES = [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("name", list(FILES))
def test_text_meshes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    vertices, faces = read_geometry(tmp_path / name)
    assert vertices.dtype == np.float32
    assert vertices.tolist() == SQUARE
    assert faces.tolist() == FACES


@pytest.mark.parametrize("style", ["binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("polygons", [[[0, 1, 2], [0, 2, 3]], [[0, 1, 2, 3]], [[0, 1, 2], [2, 3]]])
def test_binary_ply(tmp_path: Path, style: str, polygons: list[list[int]]) -> None:
    order = "<" if style == "binary_little_endian" else ">"
    content = HEADER.format(style=style, faces=len(polygons)).encode()
    content += b"".join(struct.pack(f"{order}fffB", *point, 9) for point in SQUARE)
    for polygon in polygons:
        content += struct.pack(f"{order}B{len(polygon)}i", len(polygon), *polygon)
    (tmp_path / "a.ply").write_bytes(content)
    vertices, faces = read_geometry(tmp_path / "a.ply")
    assert vertices.tolist() == SQUARE
    assert faces.tolist() == (FACES if len(polygons[-1]) != 2 else FACES[:1])


def test_triangle_strips(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
        "property float z\nelement tristrips 1\nproperty list int int vertex_indices\n"
        "end_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n8 0 1 2 3 -1 0 1 3\n"
    )
    assert read_geometry(tmp_path / "a.ply").faces.tolist() == [[0, 1, 2], [1, 2, 3], [0, 1, 3]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spaces.txt", "0 0 0 1 1\n1 0 0 1 1\n"),
        ("commas.txt", "0,0,0,1,1\n1,0,0,1,1\n"),
        ("notes.xyz", "# x y z\n0 0 0\n1 0 0\n"),
        ("points.ply", "ply\nformat ascii 1.0\nelement vertex 2\nproperty double x\n"
         "property double y\nproperty double z\nend_header\n0 0 0\n1 0 0\n"),
        ("points.off", "OFF\n2 0 0\n0 0 0\n1 0 0\n"),
    ],
)  # fmt: skip
def test_clouds(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    vertices, faces = read_geometry(tmp_path / name)
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert faces.shape == (0, 3)


def test_arrays(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float64).reshape(2, 6)
    np.save(tmp_path / "a.npy", values)
    assert read_geometry(tmp_path / "a.npy").vertices.tolist() == [[0, 1, 2], [6, 7, 8]]


BROKEN = {
    "wrong.off": ("PLY\n1 0 0\n", "starts with 'PLY' instead of OFF"),
    "short.off": ("OFF\n4 2 0\n0 0 0\n", "ends too early"),
    "face.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "4 corners lists 3"),
    "index.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", r"outside 0\.\.2"),
    "empty.off": ("", "ends too early"),
    "zero.obj": ("v 0 0 0\nf 0 1 1\n", "OBJ counts from 1"),
    "words.obj": ("v a b c\n", "malformed"),
    "empty.obj": ("", "holds no points"),
    "nan.obj": ("v nan 0 0\nv 1 0 0\n", "1 of 2 points have NaN"),
    "header.ply": ("solid", "no PLY header"),
    "type.ply": ("ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n0\n",
                 "'half' is unknown"),
    "axes.ply": ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n",
                 "no vertices with x, y and z"),
    "cut.ply": (HEADER.format(style="binary_little_endian", faces=1) + "abc", "ends too early"),
    "two.txt": ("0 0\n1 1\n", r"shape \(2, 2\) is no cloud"),
    "words.txt": ("a b c\n", "malformed"),
    "a.stl": ("solid", "clouds are read from"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files_are_named_with_the_reason(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_geometry(tmp_path / name)
    assert name in str(caught.value)


def test_unused_vertices_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan nan nan\nf 1 2 3\n")
    assert read_geometry(tmp_path / "a.obj").faces.tolist() == [[0, 1, 2]]


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match="malformed"):
        read_geometry(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(3, 300), (3, 4), (6, 300), (4, 50)])
@pytest.mark.parametrize("suffix", [".npy", ".txt"])
def test_clouds_with_a_column_per_point_are_refused(tmp_path: Path, shape, suffix) -> None:
    file = tmp_path / f"a{suffix}"
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (np.save if suffix == ".npy" else np.savetxt)(file, values)
    with pytest.raises(DataError, match=rf"a\{suffix} is malformed: .*looks transposed"):
        read_geometry(file)


@pytest.mark.parametrize("shape", [(3, 3), (4, 7), (5, 3), (300, 6)])
def test_few_points_with_further_columns_are_clouds(tmp_path: Path, shape) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape, np.float32))
    assert read_geometry(tmp_path / "a.npy").vertices.shape == (shape[0], 3)
