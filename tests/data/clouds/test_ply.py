"""The same square pyramid as text and as bytes of either order."""

import io
import struct

import numpy as np
import pytest

from ssl_vision.data.clouds.geometry import Geometry
from ssl_vision.data.clouds.ply import read_ply

POINTS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0.5, 0.5, 2)]
FACES = [(3, 2, 1, 0), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]


def header(kind: str) -> bytes:
    return (
        f"ply\nformat {kind} 1.0\ncomment made by hand\nelement vertex 5\n"
        "property float x\nproperty float y\nproperty float z\nproperty uchar red\n"
        "element face 5\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()


def as_text() -> bytes:
    rows = [f"{x} {y} {z} 7" for x, y, z in POINTS]
    rows += [" ".join(map(str, (len(face), *face))) for face in FACES]
    return header("ascii") + ("\n".join(rows) + "\n").encode()


def as_bytes(kind: str, order: str) -> bytes:
    body = b"".join(struct.pack(f"{order}3fB", *point, 7) for point in POINTS)
    body += b"".join(struct.pack(f"{order}B{len(f)}i", len(f), *f) for f in FACES)
    return header(kind) + body


def area(geometry: Geometry) -> float:
    a, b, c = (geometry.vertices[geometry.faces[:, i]] for i in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


@pytest.mark.parametrize(
    "content",
    [as_text(), as_bytes("binary_little_endian", "<"), as_bytes("binary_big_endian", ">")],
    ids=["text", "little", "big"],
)
def test_every_format_gives_the_same_surface(content: bytes) -> None:
    geometry = read_ply(io.BytesIO(content))
    np.testing.assert_array_equal(geometry.vertices, np.array(POINTS, np.float32))
    # The base is one; each side has height sqrt(2^2 + 0.5^2) over a base of one.
    assert area(geometry) == pytest.approx(1 + 4 * np.sqrt(4.25) / 2)
