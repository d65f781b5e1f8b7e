"""Writing .beton files: checked on the way in, verified on disk, renamed when whole.

Threads read, check and encode; one thread lays samples into pages in the order of the source. A
bad sample ends in a list with its reason; a bad disk or a signal leaves the target as it was.
"""

import fcntl
import io
import json
import os
import shutil
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ssl_vision.bounds import MAX_THREADS, check_bounds
from ssl_vision.data.decode import Decoder, exif_orientation, is_jpeg, jpeg_components
from ssl_vision.data.images.beton import BetonSource, index_path, names_path
from ssl_vision.data.images.beton_format import (
    ALLOCATION,
    FIELD,
    HEADER,
    JPG,
    MAX_PAGE,
    MAX_SIDE_PX,
    MIN_PAGE,
    RAW,
    TYPE_IMAGE,
    TYPE_INT,
    VERSION,
    data_start,
    record_type,
)
from ssl_vision.data.levels import Notes
from ssl_vision.data.loader import auto_threads
from ssl_vision.data.source import Source
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.files import fsync_path, write_atomically
from ssl_vision.randomness import derive_key

Progress = Callable[[str, int, int], None]  # stage, done, total
_IN_FLIGHT_PER_THREAD = 4
_VERIFY_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How to pack a data set."""

    # keep: JPEG files as they are, others as jpg; proportion: a share as jpg, the others raw.
    mode: Literal["keep", "jpg", "raw", "proportion"] = "keep"
    jpg_quality: int = 95  # of images that are encoded anew; chroma 4:2:0
    jpg_share: float = 0.5  # proportion mode only
    max_side_px: int | None = None  # larger images are scaled down
    max_bad_fraction: float = 0.01  # above it nothing is written
    page_size: int = 8 << 20  # bytes, grows by itself to hold the largest sample
    verify: bool = True  # decode every image before, compare every byte after writing
    num_threads: int = 0  # 0: the cores this process may use
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.jpg_quality <= 100:
            raise ConfigError(f"jpg_quality={self.jpg_quality} must be from 1 to 100.")
        if not (0 <= self.jpg_share <= 1 and 0 <= self.max_bad_fraction <= 1):
            raise ConfigError(
                f"jpg_share={self.jpg_share} and max_bad_fraction={self.max_bad_fraction} "
                f"must be from 0 to 1."
            )
        check_bounds("num_threads", self.num_threads, least=0, most=MAX_THREADS)
        if self.max_side_px is not None and not 1 <= self.max_side_px <= MAX_SIDE_PX:
            raise ConfigError(f"max_side_px={self.max_side_px} must be from 1 to {MAX_SIDE_PX}.")
        is_power = self.page_size & (self.page_size - 1) == 0
        if not (is_power and MIN_PAGE <= self.page_size <= MAX_PAGE):
            raise ConfigError(
                f"page_size={self.page_size} must be a power of 2 from {MIN_PAGE} to {MAX_PAGE}."
            )


class BadSample(NamedTuple):
    """A sample that was left out."""

    name: str
    reason: str


class PackReport(NamedTuple):
    """What was written.

    Attributes:
        path: The file.
        num_samples: Samples in it.
        num_bytes: Its size.
        num_kept: JPEG files taken over byte by byte.
        num_encoded: Images encoded anew as JPEG.
        num_raw: Images stored as pixels.
        bad: Samples left out.
        notes: Counts of images with transparency and the like, as a sentence.
        num_pairs: Pairs of these samples; `bad` is then of pairs. None where there are no pairs.
    """

    path: Path
    num_samples: int
    num_bytes: int
    num_kept: int
    num_encoded: int
    num_raw: int
    bad: list[BadSample]
    notes: str = ""
    num_pairs: int | None = None


class _Packed(NamedTuple):
    row: int
    kind: Literal["kept", "encoded", "raw"]
    height: int
    width: int
    data: Any  # bytes or a flat uint8 array


def pack(
    source: Source, path: str | Path, config: PackConfig, *, progress: Progress | None = None
) -> PackReport:
    """Write a source as a .beton file with its sidecars.

    Beside the file: `<name>.json` (class names, totals), `<name>.names` (original path of each
    sample) and, if there were bad samples, `<name>.bad` (name, tab, reason).

    Args:
        source: The images.
        path: Target.
        config: Settings.
        progress: Called from this thread with a stage ("pack", "verify"), done and total.

    Raises:
        DataError: If too many samples are bad, the target exists, or writing fails. The target is
            then as it was before.
    """
    target = check_target(path, config)
    notes = Notes()
    report = progress or (lambda stage, done, total: None)
    with on_disk(target), _partial_file(target) as (partial, file):
        writer = _PageWriter(file, num_reserved=len(source), page_size=config.page_size)
        samples, bad = _write_samples(source, writer, config, report, notes)
        check_bad(target, bad, len(source), config)
        labels = _labels_of(source, [sample.row for sample in samples])
        writer.finish(samples, labels)
        if config.verify:
            _verify(partial, samples, writer.checksums, config, report)
        _write_sidecars(source, target, partial, samples, bad, notes)
        os.replace(partial, target)
    fsync_path(target.parent)
    kinds = Counter(sample.kind for sample in samples)
    return PackReport(
        target, len(samples), target.stat().st_size,
        kinds["kept"], kinds["encoded"], kinds["raw"], bad, notes.text().replace(*_AS_TYPED),
    )  # fmt: skip


def check_target(path: str | Path, config: PackConfig) -> Path:
    """Where a packed data set is to be written.

    Raises:
        ConfigError: Its name does not end with .beton.
        DataError: It exists, and is not to be replaced.
    """
    target = Path(path)
    if target.suffix != ".beton":
        raise ConfigError(f"{target}: the name of a packed data set must end with .beton.")
    if target.exists() and not config.overwrite:
        raise DataError(f"{target} exists; use overwrite=true to replace it.")
    return target


@contextmanager
def on_disk(target: Path) -> Iterator[None]:
    """What the disk refuses inside is a DataError that names the target and the room there."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(_existing(target)).free
        raise DataError(
            f"{target} cannot be written: {error.strerror or error} ({free >> 20} MiB free there)."
        ) from error


# Taking samples in -------------------------------------------------------------------------

_local = threading.local()


def thread_decoder() -> Decoder:
    """The decoder of this thread."""
    if not hasattr(_local, "decoder"):
        _local.decoder = Decoder()
    decoder: Decoder = _local.decoder
    return decoder


def _can_keep(data: bytes | None, config: PackConfig) -> bool:
    """Whether JPEG bytes can be stored as they are: gray or YCbCr, upright."""
    if data is None or config.mode != "keep" or not is_jpeg(data):
        return False
    return jpeg_components(data) in (1, 3) and exif_orientation(data) == 1


_AS_TYPED = ("data.decode.", "decode.")  # as a reader of images says it -> as it is here


def _take(source: Source, index: int, config: PackConfig, notes: Notes) -> _Packed:
    """Read, check and encode one sample."""
    decoder = thread_decoder()
    decoder.notes = notes
    data = source.encoded(index)
    keep = _can_keep(data, config)
    if keep and not config.verify and config.max_side_px is None:
        height, width = decoder.size(data or b"")
        _check_sides(height, width)
        return _Packed(index, "kept", height, width, data)
    pixels = source.sample(index, decoder)
    pixels, was_scaled = _scale_down(pixels, config.max_side_px)
    height, width = pixels.shape[:2]
    _check_sides(height, width)
    if keep and not was_scaled:
        return _Packed(index, "kept", height, width, data)
    draw = derive_key("proportion", index) / 2**63
    if config.mode == "raw" or (config.mode == "proportion" and draw >= config.jpg_share):
        return _Packed(index, "raw", height, width, pixels.tobytes())
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=config.jpg_quality, subsampling="4:2:0")
    return _Packed(index, "encoded", height, width, buffer.getvalue())


def _scale_down(pixels: np.ndarray, max_side_px: int | None) -> tuple[np.ndarray, bool]:
    height, width = pixels.shape[:2]
    if max_side_px is None or max(height, width) <= max_side_px:
        return pixels, False
    ratio = max_side_px / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)), True


def _check_sides(height: int, width: int) -> None:
    if max(height, width) > MAX_SIDE_PX:
        raise DataError(
            f"{width}x{height} pixels are more than the format's {MAX_SIDE_PX} a side; "
            f"use max_side_px"
        )


def _write_samples(
    source: Source, writer: "_PageWriter", config: PackConfig, report: Progress, notes: Notes
) -> tuple[list[_Packed], list[BadSample]]:
    """Feed samples to the writer in order; returns them without their data, and the bad ones."""
    samples: list[_Packed] = []
    bad: list[BadSample] = []
    limit = config.max_bad_fraction * len(source)
    threads = config.num_threads or auto_threads()
    with ThreadPoolExecutor(threads, "ssl-vision-pack") as pool:
        pending: deque[Future[_Packed]] = deque()
        following = iter(range(len(source)))
        for index in range(len(source)):
            while len(pending) < _IN_FLIGHT_PER_THREAD * threads:
                upcoming = next(following, None)
                if upcoming is None:
                    break
                pending.append(pool.submit(_take, source, upcoming, config, notes))
            try:
                sample = pending.popleft().result()
                writer.add(sample)
                samples.append(sample._replace(data=None))
            except DataError as error:
                bad.append(BadSample(source.name(index), str(error).replace(*_AS_TYPED)))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            if len(bad) > limit and index >= 1000:  # hopeless: stop before the end
                pool.shutdown(wait=True, cancel_futures=True)
                break
            report("pack", index + 1, len(source))
    return samples, bad


def check_bad(target: Path, bad: list[BadSample], total: int, config: PackConfig) -> None:
    """Write the list of bad samples down, and go no further where they are too many.

    Raises:
        DataError: They are more than the settings allow, or all.
    """
    if bad:
        write_bad(target, bad)
    if total == 0 or len(bad) > config.max_bad_fraction * total:
        first = f" First: {bad[0].name}: {bad[0].reason}." if bad else ""
        raise DataError(
            f"{len(bad)} of {total} samples are bad, more than max_bad_fraction="
            f"{config.max_bad_fraction:g}; all are listed in {_bad_path(target)}.{first} "
            "Mend or remove them, or leave them out with a larger max_bad_fraction."
        )
    if len(bad) == total:
        raise DataError(f"none of {total} samples can be read; see {_bad_path(target)}.")


def _labels_of(source: Source, indices: list[int]) -> np.ndarray:
    """Labels of the written samples; -1 where the source has none."""
    if source.labels is None:
        return np.full(len(indices), -1, np.int64)
    return source.labels[np.array(indices, np.int64)]


# Laying them down --------------------------------------------------------------------------


class _PageWriter:
    """Places samples in pages, none across a boundary.

    A page size that proves too small is doubled: larger pages are unions of small ones, so what
    was placed before crosses no boundary of theirs either.
    """

    def __init__(self, file: IO[bytes], *, num_reserved: int, page_size: int) -> None:
        self._file = file
        self._page_size = page_size
        self._record = record_type([TYPE_IMAGE, TYPE_INT])
        end = data_start(2, num_reserved * self._record.itemsize)
        self._position = -(-end // page_size) * page_size
        self._file.seek(self._position)
        self._pointers: list[int] = []
        self._sizes: list[int] = []
        self.checksums: list[int] = []

    def add(self, sample: _Packed) -> None:
        """Append one sample."""
        size = len(sample.data)
        while size > self._page_size:
            if self._page_size >= MAX_PAGE:
                raise DataError(f"{size} bytes are more than the largest page, {MAX_PAGE}")
            self._page_size *= 2
        left = -self._position % self._page_size or self._page_size
        if size > left:
            self._file.write(bytes(left))
            self._position += left
        self._file.write(sample.data)
        self._pointers.append(self._position)
        self._sizes.append(size)
        self.checksums.append(zlib.crc32(sample.data))
        self._position += size

    def finish(self, samples: list[_Packed], labels: np.ndarray) -> None:
        """Pad the last page, write table and metadata, and the header last of all."""
        left = -self._position % self._page_size
        self._file.write(bytes(left))
        table = np.zeros(len(samples), ALLOCATION)
        table["sample_id"] = np.arange(len(samples))
        table["ptr"], table["size"] = self._pointers, self._sizes
        self._file.write(table.tobytes())
        records = np.zeros(len(samples), self._record)
        images = records["f0"]
        images["mode"] = [RAW if sample.kind == "raw" else JPG for sample in samples]
        images["height"] = [sample.height for sample in samples]
        images["width"] = [sample.width for sample in samples]
        images["data_ptr"] = self._pointers
        records["f1"] = labels
        fields = np.zeros(2, FIELD)
        for entry, type_id, name in zip(
            fields, (TYPE_IMAGE, TYPE_INT), (b"image", b"label"), strict=True
        ):
            entry["type_id"] = type_id
            entry["name"][: len(name)] = np.frombuffer(name, np.uint8)
        self._file.seek(HEADER.itemsize)
        self._file.write(fields.tobytes() + records.tobytes())
        self._flush()
        header = np.zeros((), HEADER)
        header["version"], header["num_fields"] = VERSION, 2
        header["page_size"], header["num_samples"] = self._page_size, len(samples)
        header["alloc_table_ptr"] = self._position + left
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._flush()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def _partial_file(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A file beside the target, removed unless it was renamed; one writer at a time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another process is writing {target}.") from error
        file.truncate(0)  # what a killed process left
        try:
            yield partial, file
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()


# Afterwards --------------------------------------------------------------------------------


def _verify(
    partial: Path,
    samples: list[_Packed],
    checksums: list[int],
    config: PackConfig,
    report: Progress,
) -> None:
    """Read everything back: bytes as written, newly encoded images decode to their size."""
    written = BetonSource(partial)

    def check(rows: range) -> range:
        for row in rows:
            data: Any = written.encoded(row)
            if data is None or samples[row].kind == "encoded":
                pixels = written.sample(row, thread_decoder())
                data = pixels if data is None else data
            if zlib.crc32(data) != checksums[row]:
                raise DataError(f"sample {row} reads back other bytes; is the disk failing?")
        return rows

    total = len(samples)
    pieces = [range(i, min(i + _VERIFY_ROWS, total)) for i in range(0, total, _VERIFY_ROWS)]
    with ThreadPoolExecutor(config.num_threads or auto_threads(), "ssl-vision-verify") as pool:
        for rows in pool.map(check, pieces):
            report("verify", rows.stop, total)


def _write_sidecars(
    source: Source,
    target: Path,
    partial: Path,
    samples: list[_Packed],
    bad: list[BadSample],
    notes: Notes,
) -> None:
    names = "".join(json.dumps(source.name(sample.row)) + "\n" for sample in samples)
    content = {
        "format": 1,
        "fingerprint": BetonSource(partial).former_fingerprint(),
        "source_fingerprint": source.former_fingerprint(),
        "num_samples": len(samples),
        "num_bad": len(bad),
        **_decided(source, notes),
        "class_names": source.class_names if source.labels is not None else [],
    }
    write_atomically(names_path(target), names)
    write_atomically(index_path(target), json.dumps(content, indent=1) + "\n")
    if not bad:
        _bad_path(target).unlink(missing_ok=True)


def _decided(source: Source, notes: Notes) -> dict[str, object]:
    """What the pixels owe to settings, for who asks for others; of a packed source its own."""
    own, counts = source.decided, notes.counts
    if own is None:
        return {}
    deep, transparent = own.deep + counts["deep"], own.transparent + counts["transparent"]
    return {"decided": replace(own, deep=deep, transparent=transparent).to_json()}


def _bad_path(target: Path) -> Path:
    return target.with_name(target.name + ".bad")


def write_bad(target: Path, bad: list[BadSample]) -> None:
    """The list of bad samples beside a target: name, tab, reason."""
    lines = (f"{sample.name}\t{' '.join(sample.reason.split())}\n" for sample in bad)
    write_atomically(_bad_path(target), "".join(lines))


def _existing(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.exists())
