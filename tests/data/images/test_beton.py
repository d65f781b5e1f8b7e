"""Packed data sets: same views as the folder, both ways with ffcv, loud on damaged files."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.beton import BetonSource, multi_view_decoder
from ssl_vision.data.images.beton_format import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE,
    data_start,
    record_type,
)
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.views import (
    BlurConfig,
    EraseConfig,
    JitterConfig,
    RandAugmentConfig,
    SolarizeConfig,
    ViewConfig,
)

VIEWS = {
    "a": ViewConfig(size_px=24, jitter=JitterConfig(), blur=BlurConfig(), gray_prob=0.2),
    "b": ViewConfig(size_px=16, count=2, interpolation="bilinear", solarize=SolarizeConfig()),
}


def packed(folder: Path, mode: str) -> Path:
    path = folder.parent / f"{mode}.beton"
    pack(build_source(str(folder)), path, PackConfig(mode=mode))
    return path


def batches(source, **changes) -> list:
    settings = {"batch_size": 8, "seed": 1, "num_threads": 2} | changes
    return list(MultiViewLoader(source, VIEWS, **settings))


def test_views_of_folder_and_beton_are_equal_bit_for_bit(image_folder) -> None:
    folder, beton = build_source(str(image_folder)), BetonSource(packed(image_folder, "keep"))
    for a, b in zip(batches(folder), batches(beton, num_threads=1), strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.label, b.label)
        assert all(torch.equal(a.views[name], b.views[name]) for name in VIEWS)
    assert beton.class_names == folder.class_names == ["cat", "dog"]
    assert folder.name(3) in beton.name(3)


def test_raw_beton_holds_the_decoded_pixels_and_skips_decoding(image_folder) -> None:
    folder, raw = build_source(str(image_folder)), BetonSource(packed(image_folder, "raw"))
    assert raw.raw_block(np.arange(4)) is not None
    for a, b in zip(batches(folder), batches(raw), strict=True):
        assert all(torch.equal(a.views[name], b.views[name]) for name in VIEWS)


def test_modes_can_be_mixed(image_folder) -> None:
    mixed = BetonSource(packed(image_folder, "proportion"))
    kinds = [mixed.encoded(i) is None for i in range(len(mixed))]
    assert 0 < sum(kinds) < len(kinds)
    folder = build_source(str(image_folder))
    for i, is_raw in enumerate(kinds):
        difference = mixed.sample(i, Decoder()).astype(int) - folder.sample(i, Decoder())
        assert np.abs(difference).mean() < (0.01 if is_raw else 8)  # lossy: the same picture


def test_a_million_samples_open_in_a_second(tmp_path) -> None:
    import time

    num = 1_281_167
    record = record_type([2, 1])
    start = -(-data_start(2, num * record.itemsize) // (1 << 23)) << 23
    records, table = np.zeros(num, record), np.zeros(num, ALLOCATION)
    table["sample_id"] = np.arange(num)
    table["ptr"] = start + np.arange(num) * 12
    table["size"] = 12
    records["f0"]["mode"], records["f0"]["width"], records["f0"]["height"] = 1, 2, 2
    records["f0"]["data_ptr"] = table["ptr"]
    fields = np.zeros(2, FIELD)
    fields["type_id"] = [2, 1]
    header = np.zeros((), HEADER)
    header["version"], header["num_fields"], header["page_size"] = 2, 2, 1 << 23
    header["num_samples"], header["alloc_table_ptr"] = num, start + num * 12
    path = tmp_path / "large.beton"
    with open(path, "wb") as file:
        file.write(header.tobytes() + fields.tobytes() + records.tobytes())
        file.seek(start + num * 12)
        file.write(table.tobytes())
    begin = time.process_time()
    source = BetonSource(path)
    loader = MultiViewLoader(source, {"a": ViewConfig(size_px=2)}, batch_size=64, seed=0)
    opened = time.process_time() - begin
    assert next(iter(loader)).num_samples == 64
    assert len(source) == num
    assert opened < 1.5  # 0.4 s on a quiet core; the machine may be busy


def damage(path: Path, how: str) -> str:
    """Damage a file; words its error must have."""
    data = bytearray(path.read_bytes())
    if how == "empty":
        data = bytearray()
    elif how == "not a beton":
        data = bytearray(b"PK\x03\x04" * 1000)
    elif how == "cut off":
        del data[len(data) // 2 :]
    elif how == "table cut off":
        del data[-40:]
    elif how == "old version":
        data[0] = 1
    elif how == "points outside":
        record = np.frombuffer(data, IMAGE, 1, offset=data_start(2, 0)).copy()
        record["data_ptr"] = 1 << 60
        data[data_start(2, 0) : data_start(2, 0) + IMAGE.itemsize] = record.tobytes()
    path.write_bytes(data)
    return {
        "empty": "shorter than the header", "not a beton": "no .beton file", "cut off": "cut off",
        "table cut off": "write it again", "old version": "version 2",
        "points outside": "no entry in its table",
    }[how]  # fmt: skip


@pytest.mark.parametrize(
    "how", ["empty", "not a beton", "cut off", "table cut off", "old version", "points outside"]
)
def test_damaged_files_are_refused_by_name(image_folder, how) -> None:
    path = packed(image_folder, "keep")
    words = damage(path, how)
    with pytest.raises(DataError, match=words) as caught:
        BetonSource(path)
    assert str(path) in str(caught.value)


def test_a_foreign_sidecar_is_refused(image_folder) -> None:
    path = packed(image_folder, "keep")
    other = packed(image_folder, "raw")
    Path(f"{path}.json").write_bytes(Path(f"{other}.json").read_bytes())
    with pytest.raises(DataError, match="belongs to another"):
        BetonSource(path)
    Path(f"{path}.json").write_text("{")
    with pytest.raises(DataError, match="no usable JSON"):
        BetonSource(path)


@pytest.mark.parametrize(
    "content",
    [b"[1]", b'"x"', b"null", b'{"class_names": 5}', b'{"class_names": [1, 2]}', b"\xff\xfe",
     b"[" * 100_000, b'{"class_names": NaN}', b"9" * 5000],
)  # fmt: skip
def test_a_sidecar_of_any_other_shape_is_refused_by_name(image_folder, content) -> None:
    path = packed(image_folder, "keep")
    Path(f"{path}.json").write_bytes(content)
    with pytest.raises(DataError, match=r"keep\.beton\.json"):
        BetonSource(path)


def change(path: Path, field: str, value: int, *, row: int = 1) -> None:
    """Overwrite one number of one sample, in its record and, of places, in the table."""
    data = bytearray(path.read_bytes())
    header = np.frombuffer(data, HEADER, 1)[0]
    num, table_start = int(header["num_samples"]), int(header["alloc_table_ptr"])
    records = np.frombuffer(data, record_type([2, 1]), num, offset=data_start(2, 0))
    table = np.frombuffer(data, ALLOCATION, offset=table_start)
    if field == "label":
        records["f1"][row] = value
    elif field in ("ptr", "size"):
        table[field][row] = value
    else:
        records["f0"][field][row] = value
    if field == "ptr":
        records["f0"]["data_ptr"][row] = value
    path.write_bytes(data)


@pytest.mark.parametrize("mode", ["raw", "keep"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("ptr", 2**64 - 2**k) for k in (0, 8, 12, 31, 40, 62, 63)],
        *[("ptr", 2**k) for k in (0, 4, 11, 40, 62, 63)],
        *[("size", value) for value in (0, 2**31 + 1, 2**62, 2**63, 2**64 - 1, 2**64 - 5)],
        *[("mode", value) for value in (2, 7, 255)],
        *[(side, 0) for side in ("height", "width")],
        *[("label", value) for value in (-(2**63), -5, -1, 2, 2**40, 2**63 - 1)],
    ],
)
def test_numbers_that_point_elsewhere_are_refused_by_name(image_folder, mode, field, value) -> None:
    path = packed(image_folder, mode)
    change(path, field, value)
    Path(f"{path}.json").unlink() if field != "label" else None
    with pytest.raises(DataError, match=rf"{mode}\.beton"):
        BetonSource(path)


def test_labels_without_names_are_refused_only_beyond_a_million(image_folder) -> None:
    path = packed(image_folder, "raw")
    Path(f"{path}.json").unlink()
    change(path, "label", (1 << 20) - 1)
    assert len(BetonSource(path).class_names) == 1 << 20
    change(path, "label", 1 << 20)
    with pytest.raises(DataError, match="1 of 24 labels"):
        BetonSource(path)


@pytest.mark.parametrize("mode", ["raw", "keep"])
@pytest.mark.parametrize("when", ["before the pass", "during the pass"])
def test_a_file_cut_short_while_it_is_open_is_an_error(image_folder, mode, when) -> None:
    path = packed(image_folder, mode)
    source = BetonSource(path)
    pointers = np.sort(source._pointers)
    loader = MultiViewLoader(source, VIEWS, batch_size=2, seed=1, num_threads=1)
    if when == "during the pass":
        next(iter(loader))
        block = source.raw_block(np.arange(len(source)))  # addresses handed out before the cut
    os.truncate(path, int(pointers[5]) // 4096 * 4096)
    with pytest.raises(DataError, match=r"bytes are left in the file"):
        list(loader)
    if when == "during the pass" and block is not None:
        last = ctypes.string_at(int(block.addresses.max()), 8)  # would end the process unguarded
        assert last == bytes(8)
        assert not source.is_intact()


def test_substitutes_take_over_where_the_file_was_cut(image_folder) -> None:
    path = packed(image_folder, "raw")
    source = BetonSource(path)
    cut = int(np.sort(source._pointers)[12])
    whole = {int(i) for i in np.flatnonzero(source._pointers + source._sizes <= cut)}
    os.truncate(path, cut)
    for batch in batches(source, on_error="substitute", drop_last=False):
        assert set(batch.index.tolist()) <= whole
        assert all(view.float().mean() > 0 for view in batch.views.values())


def test_a_sparse_file_of_endless_samples_is_refused_at_once(tmp_path) -> None:
    header = np.zeros((), HEADER)
    header["version"], header["num_fields"], header["page_size"] = 2, 2, 1 << 21
    header["num_samples"], header["alloc_table_ptr"] = 1 << 33, 1 << 39
    fields = np.zeros(2, FIELD)
    fields["type_id"] = 2, 1
    path = tmp_path / "x.beton"
    path.write_bytes(header.tobytes() + fields.tobytes())
    os.truncate(path, (1 << 39) + 24 * (1 << 33))
    with pytest.raises(DataError, match="a side of 0 pixels"):
        BetonSource(path)


def test_a_flipped_byte_in_a_sample_names_the_sample(image_folder) -> None:
    path = packed(image_folder, "keep")
    place = int(BetonSource(path)._pointers[5])
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\x00\x00\x00")
    with pytest.raises(DataError, match=r"sample 5 .*keep\.beton\[5\]"):
        batches(BetonSource(path), shuffle=False)


def test_reading_leaves_no_file_open(image_folder) -> None:
    path = packed(image_folder, "keep")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        source = BetonSource(path)
        source.sample(0, Decoder())
        del source
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("extra", [{"erase": EraseConfig()}, {"rand_augment": RandAugmentConfig()}])
def test_the_ffcv_decoder_refuses_what_it_would_not_draw(extra) -> None:
    (name,) = extra
    with pytest.raises(
        ConfigError, match=rf"data\.views\.a\.{name} is not drawn by the ffcv decoder"
    ):
        multi_view_decoder({"a": ViewConfig(**extra)}, seed=0)


@pytest.mark.ffcv
@pytest.mark.slow
def test_ffcv_reads_ours_and_we_read_ffcvs(image_folder) -> None:
    pytest.importorskip("ffcv", reason="ffcv is not installed")
    # In a process of its own: ffcv changes thread counts for good, and where one of its threads
    # dies its loader waits for ever.
    script = Path(__file__).with_name("ffcv_both_ways.py")
    done = subprocess.run(
        [sys.executable, str(script), str(image_folder)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
