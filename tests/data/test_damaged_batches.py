"""Batches of damaged and sound files in any mix: bits and substitutes owe nothing to threads."""

import io

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.folder import FolderSource
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.errors import DataError
from ssl_vision.randomness import derive_key
from ssl_vision.views import ViewConfig, evaluation_view

KINDS = ("JPEG", "PNG", "TIFF")
NUM = 96


def damaged(random: np.random.Generator, data: bytes) -> bytes:
    """One of: cut anywhere, bytes overwritten, a run of zeros, all of it gone."""
    out, way = bytearray(data), int(random.integers(4))
    if way == 0:
        return bytes(out[: int(random.integers(1, len(out)))])
    if way == 1:
        for place in random.integers(0, len(out), 12).tolist():
            out[place] = int(random.integers(256))
    if way == 2:
        start = int(random.integers(len(out)))
        out[start : start + 200] = bytes(len(out[start : start + 200]))
    return bytes(out) if way < 3 else b""


@pytest.fixture
def mixed(tmp_path):
    """Files of three formats and many sizes, of which half are damaged in some way."""
    random = np.random.default_rng(7)
    for i in range(NUM):
        side = tuple(random.integers(8, 70, 2).tolist())
        small = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        buffer, kind = io.BytesIO(), KINDS[i % 3]
        options = {"quality": int(random.integers(30, 96)), "progressive": bool(i % 2)}
        small.resize(side, Image.Resampling.BICUBIC).save(
            buffer, kind, **(options if kind == "JPEG" else {})
        )
        data = buffer.getvalue()
        path = tmp_path / f"{i:03d}.{kind.lower()}"
        path.write_bytes(damaged(random, data) if random.random() < 0.5 else data)
    return FolderSource(tmp_path)


def alone(source: FolderSource) -> list[np.ndarray | None]:
    """Each file by a decoder of its own, so that nothing comes before it."""
    found: list[np.ndarray | None] = []
    for index in range(len(source)):
        try:
            found.append(Decoder().decode(source.encoded(index)).copy())
        except DataError:
            found.append(None)
    return found


def substitute(index: int, pixels: list[np.ndarray | None], *, seed: int, epoch: int) -> int:
    """The sample that takes a row, by the rule of the keys."""
    row, attempt = index, 0
    while pixels[row] is None:
        row = derive_key(seed, "substitute", epoch, index, attempt) % len(pixels)
        attempt += 1
    return row


def epoch_of(source, num_threads: int, *, on_error="substitute", batch_size=13):
    loader = MultiViewLoader(
        source,
        {"a": evaluation_view(size_px=16), "b": ViewConfig(size_px=24, count=2)},
        batch_size=batch_size,
        seed=3,
        num_threads=num_threads,
        shuffle=False,
        drop_last=False,
        on_error=on_error,
    )
    batches = [(b.index.tolist(), {n: v.clone() for n, v in b.views.items()}) for b in loader]
    return loader, batches


def test_bits_and_substitutes_do_not_depend_on_threads(mixed) -> None:
    pixels = alone(mixed)
    bad = {index for index, image in enumerate(pixels) if image is None}
    assert len(bad) > NUM // 5
    first = epoch_of(mixed, 1)[1]
    expected = [substitute(i, pixels, seed=3, epoch=0) for i in range(NUM)]
    assert [index for indices, _ in first for index in indices][:NUM] == expected
    for num_threads in (2, 5, 16):
        loader, found = epoch_of(mixed, num_threads)
        assert set(loader.bad_samples) == bad
        for (indices, views), (wanted, sound) in zip(found, first, strict=True):
            assert indices == wanted
            assert all(bool((views[name] == sound[name]).all()) for name in views)


def test_each_row_is_what_its_file_gives_alone(mixed, tmp_path_factory) -> None:
    """The un-augmented view of every row is that of a set of the one sound picture."""
    pixels = alone(mixed)
    _, batches = epoch_of(mixed, 8, on_error="leave_out")
    rows = [
        (i, row) for indices, views in batches for i, row in zip(indices, views["a"], strict=True)
    ]
    sound = [index for index, image in enumerate(pixels) if image is not None]
    assert sorted({index for index, _ in rows}) == sound
    for index, row in rows:
        root = tmp_path_factory.mktemp("one")
        Image.fromarray(pixels[index]).save(root / "0.png")
        _, ((_, views),) = epoch_of(FolderSource(root), 1, batch_size=1)
        assert bool((views["a"][0] == row).all())
