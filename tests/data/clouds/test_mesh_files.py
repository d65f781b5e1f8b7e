"""Readers against files written by hand, byte by byte."""

import io
import os
import struct
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from ssl_vision.data.clouds.geometry import fans
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


# Files that mean harm ------------------------------------------------------------------------


def npy_header(shape: str, kind: str = "<f4", version: bytes = b"\x01\x00") -> bytes:
    """Head of an .npy file that claims a shape."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def zipped_arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros((4, 3)))
    return buffer.getvalue()


def ply(elements: str, data: str | bytes, style: str = "ascii") -> bytes:
    head = f"ply\nformat {style} 1.0\n{elements}end_header\n".encode()
    return head + (data.encode() if isinstance(data, str) else data)


POINTS = "element vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
PLACES = "0 0 0 1 0 0 0 1 0 "
LIST = "property list {} {} vertex_indices\n"
SMALL = struct.pack("<9f", *map(float, PLACES.split()))
LITTLE = "binary_little_endian"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty.npy": (b"", "malformed"),
    "zip.npy": (zipped_arrays(), "malformed"),
    "far.npy": (npy_header("(100000000000, 3)") + bytes(99), "ends too early"),
    "one_row_short.npy": (npy_header("(9, 3)") + bytes(8 * 12), "ends too early"),
    "product.npy": (npy_header("(4294967296, 4294967296)") + bytes(99), "transposed|too early"),
    "negative.npy": (npy_header("(-4, 3)") + bytes(99), "no cloud"),
    "negatives.npy": (npy_header("(-3, -4)") + bytes(144), "no cloud"),
    "version.npy": (npy_header("(4, 3)", version=b"\x03\x00") + bytes(48), "version"),
    "nested.npy": (npy_header("(" * 4000), "malformed"),
    "no_tuple.npy": (npy_header("'x'") + bytes(48), "malformed"),
    "objects.npy": (npy_header("(4, 3)", kind="|O") + bytes(96), "no cloud"),
    "times.npy": (npy_header("(4, 3)", kind="<M8[s]") + bytes(96), "no cloud"),
    "large.npy": (npy_header("(1, 3)", kind="<f8") + struct.pack("<3d", 0, 1e300, 0), "beyond"),
    "squares.npy": (npy_header("(1, 3)") + struct.pack("<3f", 0, 3e38, 0), "beyond 1e"),
    "pairs.off": (b"OFF\n3 0 0\n0 0\n1 0\n0 1\n", "2 coordinates instead of 3"),
    "minus.off": (b"OFF\n-1 -1 0\n", "'-1' instead of a whole number"),
    "digits.off": (b"OFF\n" + b"9" * 5000 + b" 1 0\n", "instead of a whole number"),
    "one.off": (b"OFF\n3\n", "lacks the numbers"),
    "corners.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n-5 0 1 2\n", "corners of a face is '-5'"),
    "vertex.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 99999999999999999999\n", "malformed"),
    "four.off": (b"4OFF\n1 0 0\n0 0 0 1\n", "other than three coordinates"),
    "vertex.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99999999999999999999\n", "malformed"),
    "before.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "outside 0..2"),
    "pairs.obj": (b"v 0 0\nv 1 0\nv 0 1\n", "2 coordinates instead of 3"),
    "none.obj": (b"v\nv\nf 1 2 1\n", "0 coordinates instead of 3"),
    "wide.txt": (b"1 " * 600_000, "a line of more than 1 MiB|transposed"),
    "very_wide.xyz": (b"1 " * 2_000_000, "a line of more than 1 MiB"),
    "bytes.txt": (bytes(range(256)) * 10, "malformed"),
    "utf16.txt": ("1 2 3\n".encode("utf-16"), "malformed"),
    "large.txt": (b"1e400 1 1\n1 1 1\n", "1 of 2 points"),
    "minus.ply": (ply(POINTS.replace("3", "-1"), PLACES), "'-1' instead of a whole number"),
    "count.ply": (ply(POINTS.replace("3", "99999999999"), PLACES), "ends too early"),
    "count_b.ply": (ply(POINTS.replace("3", "99999999999"), SMALL, LITTLE), "ends too early"),
    "no_property.ply": (ply("element v 10\n" + POINTS.replace("3", "4"), PLACES), "too early"),
    "list_minus.ply": (ply(POINTS + "element face 2\n" + LIST.format("int", "int"),
                           PLACES + "3 0 1 2 -1 0"), "a list has the length -1"),
    "list_minus_b.ply": (ply(POINTS + "element face 2\n" + LIST.format("int", "int"),
                             SMALL + struct.pack("<7i", 3, 0, 1, 2, -1, 5, 5), LITTLE),
                         "a list has the length -1"),
    "list_first_minus_b.ply": (ply(POINTS + "element face 1\n" + LIST.format("int", "int"),
                                   SMALL + struct.pack("<4i", -1, 0, 1, 2), LITTLE),
                               "a list has the length -1"),
    "list_far_b.ply": (ply(POINTS + "element face 1\n" + LIST.format("int", "int"),
                           SMALL + struct.pack("<4i", 2**31 - 1, 0, 1, 2), LITTLE),
                       "ends too early"),
    "list_half.ply": (ply(POINTS + "element face 1\n" + LIST.format("int", "int"),
                          PLACES + "2.5 0 1 2"), "a list has the length 2.5"),
    "list_float.ply": (ply(POINTS + "element face 1\n" + LIST.format("float", "int"),
                           PLACES + "3 0 1 2"), "lengths that are no whole numbers"),
    "vertex_float.ply": (ply(POINTS + "element face 1\n" + LIST.format("int", "float"),
                             PLACES + "3 0 1 1.5"), "no whole number"),
    "vertex_nan.ply": (ply(POINTS + "element face 1\n" + LIST.format("int", "float"),
                           PLACES + "3 0 1 nan"), "no whole number"),
    "scalar.ply": (ply(POINTS + "element face 3\nproperty int vertex_indices\n",
                       PLACES + "0 1 2"), "no lists"),
    "scalar_strip.ply": (ply(POINTS + "element tristrips 1\nproperty int vertex_indices\n",
                             PLACES + "4"), "no lists"),
    "strip.ply": (ply(POINTS + "element tristrips 1\n" + LIST.format("int", "int"),
                      PLACES + "4 0 1 2 -7"), "uses vertex -7"),
    "strip_far.ply": (ply(POINTS + "element tristrips 1\n" + LIST.format("int", "int"),
                          PLACES + "4 0 1 99 2"), "outside 0..2"),
    "axes.ply": (ply("element vertex 1\n" + "".join(
        f"property list uchar float {axis}\n" for axis in "xyz"), "1 0 1 0 1 0"),
        "no vertices with x, y and z"),
    "twice.ply": (ply(POINTS + "property float x\n", PLACES), "declared twice"),
    "elements.ply": (ply(POINTS + POINTS, PLACES * 2), "declared twice"),
    "first.ply": (ply("property float x\n" + POINTS, PLACES), "before any element"),
    "half.ply": (ply(POINTS + "property list uchar x\n", PLACES), "is none"),
    "open.ply": (b"ply\nformat ascii 1.0\nelement vertex 1\n", "no PLY header"),
    "endless.ply": (b"ply\n" + b"comment x\n" * 2000, "more than 1000 lines"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_files_are_one_line_with_the_name(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            read_geometry(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    (tmp_path / "b.txt").symlink_to("/dev/zero")
    (tmp_path / "c.off").symlink_to("c.off")
    (tmp_path / "d.ply").mkdir()
    reasons = {
        "a.npy": "named pipe",
        "b.txt": "device",
        "c.off": "symbolic link",
        "d.ply": "folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=rf"{name} cannot be read: .*{reason}"):
            read_geometry(tmp_path / name)


def test_a_sparse_file_of_text_is_refused_by_its_size(tmp_path: Path) -> None:
    for suffix in (".txt", ".off", ".obj"):
        with (tmp_path / f"a{suffix}").open("wb") as file:
            file.write(b"OFF\n")
            file.truncate(1 << 30)
        with pytest.raises(DataError, match="bytes of text are more than"):
            read_geometry(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i8", "|u1"])
def test_arrays_of_every_kind_and_order(tmp_path: Path, order: str, kind: str) -> None:
    values = np.arange(20).reshape(5, 4).astype(kind)
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    found = read_geometry(tmp_path / "a.npy").vertices
    assert found.tolist() == np.arange(20).reshape(5, 4)[:, :3].tolist()


def test_polygons_of_any_lengths_become_fans() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        polygons = [generator.integers(0, 99, n).tolist() for n in generator.integers(0, 7, 12)]
        expected = [[p[0], p[i], p[i + 1]] for p in polygons for i in range(1, len(p) - 1)]
        flat = np.array([corner for p in polygons for corner in p], np.int64)
        lengths = np.array([len(p) for p in polygons])
        assert fans(flat, lengths).tolist() == expected


def test_a_small_file_cannot_claim_more_triangles_than_are_allowed() -> None:
    with pytest.raises(ValueError, match="triangles are more than"):
        fans(np.zeros(0, np.int64), np.array([1 << 40]))


def test_strips_end_at_their_own_end(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(
        ply(POINTS + "element tristrips 3\n" + LIST.format("int", "int"),
            PLACES + "3 0 1 2 2 0 1 4 2 1 0 2")
    )  # fmt: skip
    assert read_geometry(tmp_path / "a.ply").faces.tolist() == [[0, 1, 2], [2, 1, 0], [1, 0, 2]]


@pytest.mark.parametrize("start", ["", "\ufeff", "# made, by\n", "2\n", "\n2\n", "// two\n"])
def test_what_programs_put_before_points_is_no_point(tmp_path: Path, start: str) -> None:
    """A byte order mark, comments, and the number of points."""
    for separator in " ,":
        (tmp_path / "a.pts").write_text(start + "1 2 3\n4 5 6\n".replace(" ", separator))
        found = read_geometry(tmp_path / "a.pts").vertices
        assert found.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"malformed: it holds no points\.$"),
        ("# nothing\n\n", r"malformed: it holds no points\.$"),
        ("3\n", r"malformed: it holds no points\.$"),
        ("3\n1 2 3\n4 5 6\n", "its first line is 3, but 2 points follow"),
        ("1 2 3\n4 5\n", r"columns changed from 3 to 2 at row 2\.$"),
    ],
)
def test_tables_that_are_no_clouds_are_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(DataError, match=words):
            read_geometry(tmp_path / "a.txt")
