"""Broken files by the thousand: `python tests/fuzz.py jpeg png count=20000 seed=0`.

A case is a valid file of a kind, mutated by numbers keyed with (seed, kind, number), so any case
can be made again. A child process reads the cases one after another under a limit of memory; the
parent gives each a limit of time and starts a new child after a crash. What reading may do: return,
or raise DataError or CheckpointError. All else is a failure; its file is kept.

Kinds are rows of `KINDS` in `fuzz_kinds.py`. Settings, as name=value:
    count     cases of each kind (1000)
    seed      of the mutations (0)
    seconds   a case may take (20)
    mib       memory a case may take beyond what the child had before it (4096)
    first     number of the first case (0)
    keep      folder for files that failed (a new one under the system's for temporary files)
    table     module:name of the kinds (tests.fuzz_kinds:KINDS)
"""

import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

Generator = np.random.Generator
Mutate = Callable[[Sequence[bytes], Generator], bytes]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        seeds: Valid files, made the same each time. Gets a folder that stays for all cases, for
            what must lie beside the file.
        read: Reads one case as the package would, all of it. Gets the same folder.
        mutate: Makes a case of the seeds.
    """

    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    mutate: Mutate


@dataclass(frozen=True)
class Settings:
    """See the top of the file."""

    count: int = 1000
    seed: int = 0
    seconds: float = 20.0
    mib: int = 4096
    first: int = 0
    keep: str = ""
    table: str = "tests.fuzz_kinds:KINDS"


@dataclass
class Tally:
    """What became of the cases of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)  # read, refused, or a failure
    failures: list[tuple[int, str]] = field(default_factory=list)  # case, what happened
    slowest_s: float = 0.0
    peak_mib: int = 0  # beyond what the child had before its first case

    def add(self, case: int, outcome: str, seconds: float = 0.0, mib: int = 0) -> None:
        """Count one case."""
        self.outcomes[outcome.split(":")[0]] += 1
        if outcome not in ("read", "refused"):
            self.failures.append((case, outcome))
        self.slowest_s, self.peak_mib = max(self.slowest_s, seconds), max(self.peak_mib, mib)


# Mutations ---------------------------------------------------------------------------------

_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 20, (1 << 31) - 1,
            1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, -4096,
            -(1 << 40))  # fmt: skip


def mutate_bytes(seeds: Sequence[bytes], generator: Generator) -> bytes:
    """A seed with one to eight local damages; half of them in its first 512 bytes, the headers."""
    data = bytearray(seeds[generator.integers(len(seeds))])
    for _ in range(1 + int(generator.geometric(0.4)) % 8):
        if not data:
            break
        reach = len(data) if generator.random() < 0.5 else min(len(data), 512)
        _DAMAGES[generator.integers(len(_DAMAGES))](data, int(generator.integers(reach)), generator)
    if generator.random() < 0.1:  # the head of one, the tail of another
        other = seeds[generator.integers(len(seeds))]
        cut = int(generator.integers(len(data) + 1))
        data[cut:] = other[int(generator.integers(len(other) + 1)) :]
    return bytes(data)


def _flip(data: bytearray, at: int, generator: Generator) -> None:
    data[at] ^= 1 << int(generator.integers(8))


def _byte(data: bytearray, at: int, generator: Generator) -> None:
    data[at] = int(generator.integers(256))


def _number(data: bytearray, at: int, generator: Generator) -> None:
    size = int(2 ** generator.integers(4))
    value = _NUMBERS[generator.integers(len(_NUMBERS))] % (1 << (8 * size))
    data[at : at + size] = value.to_bytes(size, "little" if generator.random() < 0.5 else "big")


def _delete(data: bytearray, at: int, generator: Generator) -> None:
    del data[at : at + int(generator.integers(1, 65))]


def _repeat(data: bytearray, at: int, generator: Generator) -> None:
    piece = data[at : at + int(generator.integers(1, 257))]
    data[at:at] = piece * int(generator.integers(1, 5))


def _insert(data: bytearray, at: int, generator: Generator) -> None:
    data[at:at] = generator.bytes(int(generator.integers(1, 33)))


def _truncate(data: bytearray, at: int, generator: Generator) -> None:
    del data[at:]


def _blank(data: bytearray, at: int, generator: Generator) -> None:
    piece = data[at : at + int(generator.integers(1, 129))]
    data[at : at + len(piece)] = bytes([255 * int(generator.integers(2))]) * len(piece)


def _move(data: bytearray, at: int, generator: Generator) -> None:
    piece = data[at : at + int(generator.integers(1, 129))]
    del data[at : at + len(piece)]
    to = int(generator.integers(len(data) + 1))
    data[to:to] = piece


_DAMAGES = (_flip, _flip, _byte, _number, _number, _delete, _repeat, _insert, _truncate, _blank,
            _move)  # fmt: skip


def mutate_png(seeds: Sequence[bytes], generator: Generator) -> bytes:
    """A PNG whose chunks are damaged, lost, doubled or moved; lengths and checksums fit again.

    A fifth is damaged as bytes, which nearly always ends at the first checksum.
    """
    if generator.random() < 0.2:
        return mutate_bytes(seeds, generator)
    chunks = png_chunks(seeds[generator.integers(len(seeds))])
    for _ in range(int(generator.integers(1, 4))):
        place = int(generator.integers(len(chunks)))
        name, content = chunks[place]
        draw = generator.random()
        if draw < 0.7:
            chunks[place] = name, _damaged_chunk(name, content, generator)
        elif draw < 0.8 and len(chunks) > 1:
            del chunks[place]
        else:
            to = int(generator.integers(len(chunks) + 1))
            chunks.insert(to, (name, content) if draw < 0.9 else chunks[-1])
    return png_of(chunks)


def _damaged_chunk(name: bytes, content: bytes, generator: Generator) -> bytes:
    if name == b"IDAT" and generator.random() < 0.7:
        with suppress(zlib.error):  # damaged before
            return zlib.compress(mutate_bytes([zlib.decompress(content)], generator))
    return mutate_bytes([content], generator)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk of a valid PNG."""
    chunks, place = [], 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return chunks


def png_of(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks, with their lengths and checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        checksum = zlib.crc32(name + content).to_bytes(4, "big")
        parts += [len(content).to_bytes(4, "big"), name, content, checksum]
    return b"".join(parts)


_WORDS = (b"-1", b"0", b"1", b"nan", b"inf", b"-0.5", b"1e19", b"1e400", b"2147483648", b"9" * 20,
          b"9" * 5000, b"x", b"", b"#", b"\\", b"1 1 1 1", b"\n", b"\xff", b"3,0,1,2", b"OFF",
          b"uchar", b"int", b"double", b"list", b"end_header")  # fmt: skip


def mutate_words(seeds: Sequence[bytes], generator: Generator) -> bytes:
    """Text with one to four of its words replaced or lines moved about, or its bytes damaged."""
    if generator.random() < 0.4:
        return mutate_bytes(seeds, generator)
    words = re.split(rb"(\s)", seeds[generator.integers(len(seeds))])
    for _ in range(int(generator.integers(1, 5))):
        reach = len(words) if generator.random() < 0.5 else min(len(words), 60)
        at, draw = int(generator.integers(reach)), generator.random()
        if draw < 0.7:
            words[at] = _WORDS[generator.integers(len(_WORDS))]
        elif draw < 0.85:
            del words[at : at + int(generator.integers(1, 30))]
        else:
            words[at:at] = words[at : at + int(generator.integers(1, 30))]
        words = words or [b""]
    return b"".join(words)


_VALUES = (None, True, False, 0, -1, 1, 1.5, 1e308, 1 << 62, -(1 << 70), "", "x", "a\nb", "\ud800",
           "../../etc/passwd", "/dev/zero", "nan", [], {}, [[]], [None], {"": {}}, ["a"] * 1000,
           [0] * 1000, {"a": [1, {"b": None}]})  # fmt: skip


def mutate_json(seeds: Sequence[bytes], generator: Generator) -> bytes:
    """JSON with one to three of its values, names or entries replaced, or its bytes damaged."""
    if generator.random() < 0.25:
        return mutate_bytes(seeds, generator)
    content = json.loads(seeds[generator.integers(len(seeds))])
    for _ in range(int(generator.integers(1, 4))):
        content = _with_damage(content, generator)
    return json.dumps(content).encode()


def _with_damage(node: Any, generator: Generator) -> Any:
    """Go down a random way and damage what lies there."""
    value = json.loads(json.dumps(_VALUES[generator.integers(len(_VALUES))]))
    if not isinstance(node, dict | list) or not node or generator.random() < 0.15:
        return value
    place = (
        list(node)[generator.integers(len(node))]
        if isinstance(node, dict)
        else int(generator.integers(len(node)))
    )
    draw = generator.random()
    if draw < 0.1:
        del node[place]
    elif draw < 0.2 and isinstance(node, dict):
        node[str(value)[:40]] = node.pop(place)
    else:
        node[place] = _with_damage(node[place], generator)
    return node


# The child ---------------------------------------------------------------------------------


def load_kinds(table: str) -> dict[str, Kind]:
    """The table of kinds at `module:name`."""
    module, _, name = table.partition(":")
    kinds: dict[str, Kind] = getattr(import_module(module), name)
    return kinds


def make_case(kind: Kind, name: str, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Bytes of a case."""
    return kind.mutate(seeds, np.random.default_rng((seed, zlib.crc32(name.encode()), number)))


def _memory_mib(field: int) -> int:
    """This process's address space (0) or resident memory (1)."""
    pages = int(Path("/proc/self/statm").read_text().split()[field])
    return pages * resource.getpagesize() >> 20


def _outcome(kind: Kind, data: bytes, folder: Path) -> str:
    from ssl_vision.errors import CheckpointError, DataError

    try:
        kind.read(data, folder)
    except (DataError, CheckpointError) as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "read"


def run_child(table: str, mib: int, folder: Path, answers: TextIO) -> None:
    """Answer each line `name seed number` with a line of JSON: outcome, seconds, MiB."""
    kinds = load_kinds(table)
    seeds: dict[str, Sequence[bytes]] = {}
    for line in sys.stdin:
        name, seed, number = line.split()
        kind, place = kinds[name], folder / name
        if name not in seeds:
            place.mkdir(exist_ok=True)
            seeds[name] = kind.seeds(place)
            for data in seeds[name]:
                kind.read(data, place)  # must be valid; also imports and compiles what it needs
            limit = _memory_mib(0) + mib << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        data = make_case(kind, name, seeds[name], int(seed), int(number))
        before, start = _memory_mib(1), time.perf_counter()
        outcome = _outcome(kind, data, place)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        answers.write(json.dumps([outcome, seconds, max(0, peak - before)]) + "\n")
        answers.flush()


# The parent --------------------------------------------------------------------------------


class Child:
    """A child process, started again when it died."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._process: subprocess.Popen[str] | None = None

    def ask(self, name: str, number: int) -> tuple[str, float, int]:
        """Outcome, seconds and MiB of a case."""
        is_new = self._process is None
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name} {self._settings.seed} {number}\n")
        process.stdin.flush()
        patience = self._settings.seconds + (300 if is_new else 60)  # first cases make the seeds
        began = time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], patience)
        answer = process.stdout.readline() if ready else ""
        if not answer:
            self.close()
            status = "hang" if not ready else f"crash: status {process.returncode}"
            return status, time.monotonic() - began, 0
        outcome, seconds, mib = json.loads(answer)
        is_slow = seconds > self._settings.seconds
        return (f"slow: {seconds:.1f} s" if is_slow else outcome), seconds, mib

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> "subprocess.Popen[str]":
        settings = self._settings
        return subprocess.Popen(
            [sys.executable, __file__, "--child", settings.table, str(settings.mib),
             str(self._folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip


def fuzz(names: Sequence[str], settings: Settings, *, report: bool = False) -> dict[str, Tally]:
    """Run the cases of some kinds; what became of them."""
    tallies = {name: Tally() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        child = Child(settings, Path(folder))
        try:
            for name, tally in tallies.items():
                for number in range(settings.first, settings.first + settings.count):
                    tally.add(number, *child.ask(name, number))
                    if report and (number + 1) % 1000 == 0:
                        _say(f"{name} {number + 1}: {dict(tally.outcomes)}")
        finally:
            child.close()
    return tallies


def _keep(tallies: dict[str, Tally], settings: Settings) -> None:
    """Write the files that failed."""
    folder = Path(settings.keep or tempfile.mkdtemp(prefix="fuzz-"))
    kinds = load_kinds(settings.table)
    for name, tally in tallies.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        seeds = kinds[name].seeds(place)
        for number, outcome in tally.failures[:100]:
            data = make_case(kinds[name], name, seeds, settings.seed, number)
            (place / f"{settings.seed}-{number}").write_bytes(data)
            _say(f"{place / f'{settings.seed}-{number}'}: {outcome}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """The command; status 1 if a case failed."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    settings = Settings()
    kinds = {name: type(getattr(settings, name)) for name in vars(settings)}
    settings = replace(settings, **{name: kinds[name](value) for name, value in given.items()})
    names = [argument for argument in arguments if "=" not in argument]
    known = load_kinds(settings.table)
    names = list(known) if names in ([], ["all"]) else names
    if unknown := [name for name in names if name not in known]:
        _say(f"no kind {', '.join(unknown)}; known: {', '.join(known)}")
        return 2
    tallies = fuzz(names, settings, report=True)
    for name, tally in tallies.items():
        _say(
            f"{name}: {sum(tally.outcomes.values())} cases, {dict(tally.outcomes)}, "
            f"{len(tally.failures)} failures, slowest {tally.slowest_s:.2f} s, "
            f"peak {tally.peak_mib} MiB"
        )
    failed = any(tally.failures for tally in tallies.values())
    if failed:
        _keep(tallies, settings)
    return int(failed)


def start(arguments: Sequence[str]) -> int:
    """Parent or child, as the arguments say."""
    if arguments[:1] != ["--child"]:
        return main(arguments)
    # Answers get the standard output for themselves: what a reader prints must not mix in.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        run_child(arguments[1], int(arguments[2]), Path(arguments[3]), answers)
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of tests/ itself
    from tests import fuzz as this

    sys.exit(this.start(sys.argv[1:]))
