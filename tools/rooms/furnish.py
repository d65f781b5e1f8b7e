"""Where furniture stands in a room: against walls and free, on the floor, on tables, on walls."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from rooms.catalogue import SURFACES, Piece

from ssl_vision.data.pairs.scenes import Boxes, turned

_TRIES = 30  # for a place
_MAX_SIDE = 2.6  # of a piece, metres
_SMALL = 0.45  # longest side of what stands on tables
_GAP = 0.02


class Furnished(NamedTuple):
    """A room and its furniture.

    Attributes:
        boxes: The room, and the box of each piece.
        kinds: Of each box; the room's is empty.
        pieces: Number of each piece in the catalogue, in the order of the boxes behind the room.
    """

    boxes: Boxes
    kinds: list[str]
    pieces: list[int]


class _Placed(NamedTuple):
    """A piece at its place: centre and half sides, metres, and its turn."""

    piece: int
    center: np.ndarray
    half: np.ndarray
    angle: float

    @property
    def reach(self) -> np.ndarray:
        """Half sides of the upright box around it whose sides are the room's."""
        around: np.ndarray = np.abs(turned(self.angle)).T @ self.half
        return around


def furnish(
    pieces: Sequence[Piece], random: Generator, *, can_use: Callable[[Piece], bool]
) -> Furnished:
    """A room of 4 to 6 m with up to 20 pieces, as many as find a place, and small things on them.

    Args:
        pieces: What there is.
        random: Draws all.
        can_use: Whether a piece may be taken; asked of those that are drawn alone.
    """
    room = np.array([random.uniform(4, 6), random.uniform(2.4, 3), random.uniform(4, 6)]) / 2
    large, small = _by_kind(pieces)
    placed: list[_Placed] = []
    for _ in range(int(random.integers(14, 21))):
        number = _one_of(large, random, lambda each: can_use(pieces[each]))
        _place(number, pieces[number], room, placed, random)
    for below in list(placed):
        piece = pieces[below.piece]
        if piece.kind in ("table", "cabinet") and piece.top and piece.size[1] < 1.5:
            for _ in range(int(random.integers(1, 4))):
                number = _one_of(small, random, lambda each: can_use(pieces[each]))
                _put_on(number, pieces, below, placed, random)
    turns = [turned(0.0), *(turned(each.angle) for each in placed)]
    boxes = Boxes(
        np.stack([np.array([0, room[1], 0]), *(each.center for each in placed)]),
        np.stack([room, *(each.half for each in placed)]),
        np.stack(turns),
    )
    numbers = [each.piece for each in placed]
    return Furnished(boxes, ["", *(pieces[number].kind for number in numbers)], numbers)


def _by_kind(pieces: Sequence[Piece]) -> tuple[list[list[int]], list[list[int]]]:
    """Numbers of what is large enough to furnish with, kind by kind; and of small things."""
    large: dict[str, list[int]] = {}
    small: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        longest = max(piece.size)
        if 0.08 < longest <= _SMALL and piece.elevation == 0:
            small.setdefault(piece.kind, []).append(number)
        elif 0.5 < longest <= _MAX_SIDE and piece.kind not in SURFACES:
            large.setdefault(piece.kind, []).append(number)
    return list(large.values()), list(small.values())


def _one_of(groups: list[list[int]], random: Generator, can_use: Callable[[int], bool]) -> int:
    """Any kind as likely as another, so that few kinds do not fill all rooms."""
    while True:
        group = groups[int(random.integers(len(groups)))]
        number = group[int(random.integers(len(group)))]
        if can_use(number):
            return number


def _place(
    number: int, piece: Piece, room: np.ndarray, placed: list[_Placed], random: Generator
) -> None:
    """Add a piece where it overlaps no other; leave it out where no place is found."""
    half = np.array(piece.size) / 2
    is_on_wall = piece.kind in ("door", "window") or piece.elevation > 0
    for _ in range(_TRIES):
        height = piece.elevation + half[1]
        if piece.kind == "lamp" and piece.elevation > 1.5:  # hangs from the ceiling
            height = 2 * room[1] - half[1]
        if is_on_wall or random.random() < 0.6:
            center, angle = _at_wall(half, room, random)
        else:
            angle = float(random.uniform(0, 2 * math.pi))
            center = np.array([*random.uniform(-1, 1, 2) * room[::2], 0.0])[[0, 2, 1]]
        center[1] = height
        found = _Placed(number, center, half, angle)
        if _fits(found, room, placed):
            placed.append(found)
            return


def _at_wall(half: np.ndarray, room: np.ndarray, random: Generator) -> tuple[np.ndarray, float]:
    """Centre and turn with the back to a wall; a piece looks along z unless it is turned."""
    wall = int(random.integers(4))
    angle = wall * math.pi / 2
    front, along = turned(angle)[2], turned(angle)[0]
    away = abs(front @ room) - half[2] - _GAP
    return -front * away + along * random.uniform(-1, 1) * abs(along @ room), angle


def _fits(found: _Placed, room: np.ndarray, placed: Sequence[_Placed]) -> bool:
    low, high = found.center - found.reach, found.center + found.reach
    is_inside = (low >= [-room[0], -1e-6, -room[2]]).all() and (
        high <= [room[0], 2 * room[1], room[2]]
    ).all()
    return bool(is_inside) and all(
        (np.abs(found.center - each.center) >= found.reach + each.reach - _GAP / 2).any()
        for each in placed
    )


def _put_on(
    number: int, pieces: Sequence[Piece], below: _Placed, placed: list[_Placed], random: Generator
) -> None:
    """Add a small thing on top of a piece, within its middle."""
    half, base = np.array(pieces[number].size) / 2, pieces[below.piece]
    across = np.array([*random.uniform(-0.7, 0.7, 2) * below.half[::2], 0.0])[[0, 2, 1]]
    center = below.center + turned(below.angle).T @ across
    center[1] = below.center[1] - below.half[1] + float(base.top or 0) + half[1]
    found = _Placed(number, center, half, float(random.uniform(0, 2 * math.pi)))
    others = [each for each in placed if each is not below]
    if all((np.abs(center - each.center) >= found.reach + each.reach).any() for each in others):
        placed.append(found)
