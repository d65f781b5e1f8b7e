"""Which files of a list or folder are pairs.

| layout | recognised by |
|---|---|
| list | a text file, a line `path_a path_b` each (a tab between paths with blanks) |
| stereo | left/ and right/, image_2/ and image_3/ (KITTI) at any depth, or files im0 and im1 |
| stems | STEM_1.EXT beside STEM_2.EXT |
| frames | `data.frame_distance`: each folder of images is a video, in the order of its numbers |
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.folder import EXTENSIONS, list_images
from ssl_vision.data.levels import DecodeConfig
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.errors import DataError
from ssl_vision.files import read_text, shown

LISTS = (".txt", ".tsv", ".lst")
_MAX_LIST_BYTES = 4 << 30
_SIDES = (("left", "right"), ("image_2", "image_3"), ("image_0", "image_1"), ("im0", "im1"))
_NUMBERED = re.compile(r"(.+)_(\d+)", re.DOTALL)  # a name may have line ends
_FEW = 100  # files of a folder that are asked for one by one; of more the folder is read

OnFault = Literal["raise", "substitute"]


class _Found(NamedTuple):
    """Pairs of paths, and the paths whose partner is missing."""

    pairs: list[tuple[str, str]]
    alone: list[str]
    what: str  # the layout, in words


# Lists -----------------------------------------------------------------------------------


def fits_list(path: str) -> bool:
    """Whether a list can name a path: what a reader of it would take it for."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return path == path.strip() and not any(mark in path for mark in "\t\n\r")


def pairs_of_list(path: Path, *, decode: DecodeConfig, on_fault: OnFault) -> PairSource:
    """The pairs that a text file names.

    Args:
        path: The list.
        decode: What files mean where their format leaves it open.
        on_fault: What lines with files that are not there do: `raise`, or `substitute` to leave
            them out.

    Raises:
        DataError: A line has not two paths or the same one twice, or a file is not there.
    """
    text = read_text(path, error=DataError, max_bytes=_MAX_LIST_BYTES)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    folder = str(path.parent.absolute())
    pairs = [_of_line(line, f"{shown(path)} line {n}", folder) for n, line in lines]
    if not pairs:
        raise DataError(f"{shown(path)} names no pairs; it has a line `path_a path_b` for each.")
    twice = len(pairs) - len({*pairs})
    gone = _gone({name for pair in pairs for name in pair}, path.parent)
    bad = {row: name for row, pair in enumerate(pairs) for name in reversed(pair) if name in gone}
    source = _source([p for i, p in enumerate(pairs) if i not in bad], path.parent, decode)
    if twice:
        source.notes = (*source.notes, f"{shown(path)}: {twice} pairs stand there again.")
    if bad:
        row, name = next(iter(bad.items()))
        told = f"{shown(path)} line {lines[row][0]} names {name!r}, no file there{_more(len(bad))}"
        if on_fault == "raise" or len(bad) == len(pairs):
            out = "" if len(bad) == len(pairs) else ", or set data.on_error=substitute"
            raise DataError(f"{told}; relative paths start from {shown(folder)}. Mend it{out}.")
        source.notes = (*source.notes, f"{told}: left out.")
        source.left_out = tuple((" and ".join(pairs[i]), "no such file") for i in bad)
    return source


def _of_line(line: str, where: str, folder: str) -> tuple[str, str]:
    given = [each.strip() for each in line.split("\t")] if "\t" in line else line.split()
    if len(given) != 2 or not all(given):
        raise DataError(
            f"{where} has {len(given)} paths, not two ({line.strip()[:80]!r}); paths with blanks "
            "need a tab between them."
        )
    is_named_alike = os.path.basename(given[0]) == os.path.basename(given[1])
    if is_named_alike and len({os.path.normpath(os.path.join(folder, p)) for p in given}) == 1:
        raise DataError(f"{where} names {given[0]!r} twice; a pair is two images of one scene.")
    return given[0], given[1]


def _gone(paths: set[str], root: Path) -> set[str]:
    """Those of some paths that are no files; of folders with many of them the folder is read."""
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(os.path.dirname(path), []).append(path)
    found = set[str]()
    for folder, inside in by_folder.items():
        if len(inside) < _FEW:
            found |= {path for path in inside if not _is_file(os.path.join(root, path))}
        else:
            files = _files(os.path.join(root, folder))
            found |= {path for path in inside if os.path.basename(path) not in files}
    return found


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a zero byte in the name
        return False


def _files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


# Folders ---------------------------------------------------------------------------------


def pairs_of_folder(
    root: Path, *, frame_distance: int | None, decode: DecodeConfig, on_fault: OnFault
) -> PairSource:
    """The pairs in a folder, by the first layout that fits.

    Args:
        root: The folder.
        frame_distance: Its images are frames of videos; pairs lie so many apart.
        decode: What files mean where their format leaves it open.
        on_fault: What images without a partner do: `raise`, or `substitute` to leave them out.

    Raises:
        DataError: No layout fits, or a partner is missing.
    """
    paths = list_images(root)
    if not paths:
        raise DataError(
            f"{shown(root)} holds no image files ({', '.join(sorted(EXTENSIONS))}); check "
            "data.path."
        )
    found: _Found | None
    if frame_distance is not None:
        found = _frames(paths, frame_distance, root)
    else:
        found = next((f for layout in (_stereo, _stems) if (f := layout(paths, root)).pairs), None)
    if found is None:
        raise DataError(
            f"{shown(root)} has {len(paths)} images and no pairs: neither STEM_1 beside STEM_2 nor "
            "left/ beside right/. Give a list of pairs, or data.frame_distance=5 if these are "
            "frames of videos."
        )
    source = _source(found.pairs, root, decode)
    notes = [f"{shown(root)}: {len(found.pairs)} pairs, {found.what}."]
    if found.alone:
        told = f"{found.alone[0]!r}{_more(len(found.alone))} without partner"
        if on_fault == "raise":
            raise DataError(
                f"{shown(root)} ({found.what}) has {told}; add it, remove the image, or set "
                "data.on_error=substitute to leave such images out."
            )
        notes.append(f"{shown(root)}: {told} left out.")
        source.left_out = tuple((str(root / path), "without partner") for path in found.alone)
    used = {path for pair in found.pairs for path in pair} | set(found.alone)
    unread = [path for path in paths if path not in used]
    if unread:
        notes.append(f"{shown(root)}: {unread[0]!r}{_more(len(unread))} not read: of no pair.")
    source.notes = (*source.notes, *notes)
    return source


def _stereo(paths: Sequence[str], root: Path) -> _Found:
    """Images that differ in one part of their path, left and right."""
    by_name = {path.lower(): path for path in paths}
    for left, right in _SIDES:
        pairs, alone = [], []
        for path in paths:
            other = by_name.get(_with_part(path, left, right))
            if other is not None:
                pairs.append((path, other))
            elif _has_part(path, left):
                alone.append(path)
        if pairs:
            rights = {second for _, second in pairs}
            alone += [path for path in paths if _has_part(path, right) and path not in rights]
            return _Found(pairs, alone, f"{left} and {right} of stereo cameras")
    return _Found([], [], "")


def _has_part(path: str, name: str) -> bool:
    return name in map(_stem, path.lower().split("/"))


def _with_part(path: str, old: str, new: str) -> str:
    """The path in lower case, its last part of a name replaced; empty where it has none."""
    parts = path.lower().split("/")
    for place in reversed(range(len(parts))):
        if _stem(parts[place]) == old:
            parts[place] = new + parts[place].removeprefix(old)
            return "/".join(parts)
    return ""


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix in EXTENSIONS else name


def _stems(paths: Sequence[str], root: Path) -> _Found:
    """Images STEM_1 and STEM_2 of one folder."""
    found: dict[str, dict[str, str]] = {}
    for path in paths:
        match = _NUMBERED.fullmatch(os.path.splitext(path)[0])
        if match is not None:
            stem, number = match.groups()
            if (other := found.setdefault(stem, {}).setdefault(number, path)) != path:
                raise DataError(
                    f"{shown(root)} has {other!r} and {path!r}, and one of them is one too many."
                )
    whole = {stem: by for stem, by in found.items() if by.keys() >= {"1", "2"}}
    for stem, numbers in whole.items():
        if more := sorted(numbers.keys() - {"1", "2"}):
            raise DataError(
                f"{shown(root)} has {numbers[more[0]]!r} beside {stem}_1 and {stem}_2: if these "
                "are frames of a video, set data.frame_distance=5; a pair ends in _1 and _2."
            )
    halves = [by for by in found.values() if len(by) == 1 and by.keys() <= {"1", "2"}]
    alone = sorted(path for by in halves for path in by.values())
    return _Found([(by["1"], by["2"]) for by in whole.values()], alone, "STEM_1 and STEM_2")


def _frames(paths: Sequence[str], distance: int, root: Path) -> _Found:
    """Each folder's images in the order of their numbers, paired at a distance."""
    videos: dict[str, list[str]] = {}
    for path in paths:
        videos.setdefault(os.path.dirname(path), []).append(path)
    pairs: list[tuple[str, str]] = []
    for video in videos.values():
        video.sort(key=_by_numbers)
        pairs += zip(video, video[distance:], strict=False)
    if not pairs:
        longest = max(map(len, videos.values()))
        raise DataError(
            f"data.frame_distance={distance}: the longest video in {shown(root)} has {longest} "
            "frames, so no two lie so far apart; set a smaller one."
        )
    what = "1 video" if len(videos) == 1 else f"{len(videos)} videos"
    return _Found(pairs, [], f"frames of {what}, {distance} apart")


def _by_numbers(path: str) -> list[tuple[int, str]]:
    """Sorts frame_10 behind frame_9."""
    parts = re.split(r"(\d+)", path)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _source(pairs: Sequence[tuple[str, str]], root: Path, decode: DecodeConfig) -> PairSource:
    rows: dict[str, int] = {}
    numbered = [[rows.setdefault(path, len(rows)) for path in pair] for pair in pairs]
    return PairSource(
        FilesSource(list(rows), root=root, decode=decode), np.array(numbered, np.int64)
    )


def _more(num: int) -> str:
    return f" (and {num - 1} more)" if num > 1 else ""
