"""The fuzz tool: what it finds in planted faults, and a short slice of it on the real readers."""

import io
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.errors import DataError
from tests.fuzz import (
    Kind,
    Settings,
    Tally,
    fuzz,
    load_kinds,
    make_case,
    mutate_bytes,
    mutate_json,
    png_chunks,
    png_of,
)


def _numbered(seeds: Sequence[bytes], generator: np.random.Generator) -> bytes:
    """One of five things, evenly."""
    return bytes([generator.integers(5)])


def _fault(data: bytes, folder: Path) -> None:
    """Each kind of failure, as the first byte says."""
    if data == b"\x01":
        raise DataError("a reason")
    if data == b"\x02":
        raise KeyError("x")
    if data == b"\x03":
        os.abort()
    if data == b"\x04":
        bytearray(3 << 30)


PLANTED = {
    "planted": Kind(lambda folder: [b"\x00"], _fault, _numbered),
    "endless": Kind(
        lambda folder: [b""], lambda data, folder: time.sleep(9.0 * len(data)), lambda s, g: b"x"
    ),
}


def test_every_kind_of_failure_is_seen_and_counted() -> None:
    settings = Settings(count=40, mib=1024, table="tests.test_fuzz:PLANTED")
    tally = fuzz(["planted"], settings)["planted"]
    kind = PLANTED["planted"]
    cases = [make_case(kind, "planted", [b"\x00"], 0, number)[0] for number in range(40)]
    words = ("read", "refused", "KeyError", "crash", "MemoryError")
    assert tally.outcomes == {word: cases.count(code) for code, word in enumerate(words)}
    assert [number for number, _ in tally.failures] == [i for i, c in enumerate(cases) if c > 1]


def test_a_slow_case_is_a_failure() -> None:
    settings = Settings(count=1, seconds=0.05, table="tests.test_fuzz:PLANTED")
    assert fuzz(["endless"], settings)["endless"].outcomes == {"slow": 1}


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_json])
def test_a_case_is_a_number_and_cases_differ(mutate) -> None:
    seeds = [b'{"a": [1, 2, {"b": "c"}], "d": null}']
    kind = Kind(lambda folder: seeds, lambda data, folder: None, mutate)
    made = [make_case(kind, "x", seeds, 0, number) for number in range(200)]
    assert made == [make_case(kind, "x", seeds, 0, number) for number in range(200)]
    assert len(set(made)) > 120
    assert made != [make_case(kind, "x", seeds, 1, number) for number in range(200)]
    assert seeds == [b'{"a": [1, 2, {"b": "c"}], "d": null}']


def test_a_png_is_the_same_taken_apart_and_put_together() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 5), (9, 8, 7)).save(buffer, "PNG")
    chunks = png_chunks(buffer.getvalue())
    assert [name for name, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert png_of(chunks) == buffer.getvalue()


def test_a_short_slice_of_every_kind() -> None:
    """Twenty thousand of each run by hand: `python tests/fuzz.py all count=20000`."""
    tallies = fuzz(list(load_kinds(Settings.table)), Settings(count=100, seed=1))
    assert {name: tally.failures for name, tally in tallies.items()} == {
        name: [] for name in tallies
    }
    for name, tally in tallies.items():
        assert isinstance(tally, Tally)
        assert tally.outcomes["refused"] > 0, f"{name}: no case was refused; is it read at all?"
