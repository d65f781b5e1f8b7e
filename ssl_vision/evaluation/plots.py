"""Pictures of a report, as SVG text: no plotting library, no files, sharp at any size.

Text and lines are drawn in `currentColor`, so that a picture is legible on light and dark pages.
"""

import colorsys
import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_vision.evaluation.page import image_uri

WIDTH, HEIGHT = 460, 300
PICTURE_PX = 160  # longest side in a `picture_table`
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 44
_LEGEND_LETTERS = 64  # of a line
# Okabe and Ito's colours, told apart with any colour vision; then darker and lighter ones.
COLORS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#7f7f7f",
    "#5b3a8e", "#8c564b", "#17a2a2", "#a83250",
)  # fmt: skip


class Axis(NamedTuple):
    """One axis.

    Attributes:
        label: Written beside it.
        is_log: Logarithmic.
        is_share: Ticks as percentages.
    """

    label: str
    is_log: bool = False
    is_share: bool = False

    def place(self, value: float) -> float:
        """Position before scaling to the picture."""
        return math.log10(value) if self.is_log else value

    def text(self, value: float) -> str:
        """Label of a tick at a value."""
        return f"{100 * value:.4g}" if self.is_share else f"{value:.4g}"


Series = Mapping[str, Sequence[tuple[float, float]]]


def line_chart(
    title: str,
    series: Series,
    *,
    x: Axis,
    y: Axis,
    bars: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    has_markers: bool = True,
) -> str:
    """SVG of one or several curves.

    Args:
        title: Written above.
        series: Name -> points (x, y); points that are not finite (or not positive on a
            logarithmic axis) are left out.
        x: Horizontal axis.
        y: Vertical axis.
        bars: Name -> (low, high) of each point of that curve.
        has_markers: Whether points are drawn.
    """
    drawn = {name: _drawable(points, x, y) for name, points in series.items()}
    xs = [x.place(a) for points in drawn.values() for a, _ in points]
    ys = [y.place(b) for points in drawn.values() for _, b in points]
    for ends in (bars or {}).values():
        ys += [y.place(end) for pair in ends for end in pair]
    if not xs:
        return _frame(title, _text(WIDTH / 2, HEIGHT / 2, "no data", anchor="middle"))
    frame = _Frame(_limits(xs, 0.02), _limits(ys, 0.06))
    parts = [_axes(frame, x, y)]
    for number, (name, points) in enumerate(drawn.items()):
        color = COLORS[number % len(COLORS)]
        places = [frame.at(x.place(a), y.place(b)) for a, b in points]
        if not places:
            continue  # its name stays in the legend, its colour its own
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>')
        for (a, _), (low, high) in zip(points, (bars or {}).get(name, ()), strict=False):
            column, bottom = frame.at(x.place(a), y.place(low))
            parts.append(
                f'<path d="M{column:.1f} {bottom:.1f}V{frame.at(0, y.place(high))[1]:.1f}" '
                f'stroke="{color}" stroke-width="1.2"/>'
            )
        if has_markers:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in places
            ]
    legend, below = _legend(list(drawn)) if len(drawn) > 1 else ("", 0)
    return _frame(title, "".join([*parts, legend]), height=HEIGHT + below)


def heat_map(
    title: str,
    values: Sequence[Sequence[float]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    marked: tuple[int, int] | None = None,
    x_label: str = "",
) -> str:
    """SVG table of shares, darker for larger; NaN is hatched with a cross.

    Args:
        title: Written above.
        values: Row by row, from 0 to 1.
        rows: Names.
        columns: Names.
        marked: Row and column of the cell to outline.
        x_label: What the columns are.
    """
    finite = [value for row in values for value in row if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    margin = 12 + 6.4 * max(len(row) for row in rows)
    cell_x = max(38.0, (WIDTH - margin - 10) / len(columns))
    width, height = margin + cell_x * len(columns) + 10, _TOP + 24 * len(rows) + 40
    parts = []
    for i, row in enumerate(values):
        top = _TOP + 24 * i
        parts.append(_text(margin - 6, top + 16, rows[i], anchor="end"))
        for j, value in enumerate(row):
            left = margin + cell_x * j
            shade = 0.0 if high == low else (value - low) / (high - low)
            is_bad = not math.isfinite(value)
            fill = "#f3d9d9" if is_bad else _mix_color(shade)
            edge = ' stroke="#d55e00" stroke-width="2.5"' if marked == (i, j) else ""
            parts.append(
                f'<rect x="{left + 1:.1f}" y="{top + 1}" width="{cell_x - 2:.1f}" height="22" '
                f'fill="{fill}"{edge}/>'
            )
            ink = "#fff" if shade > 0.55 and not is_bad else "#222"
            label = "×" if is_bad else f"{100 * value:.1f}"
            parts.append(
                f'<text x="{left + cell_x / 2:.1f}" y="{top + 16}" text-anchor="middle" '
                f'fill="{ink}" font-size="10">{label}</text>'
            )
    bottom = _TOP + 24 * len(rows) + 14
    for j, name in enumerate(columns):
        parts.append(_text(margin + cell_x * (j + 0.5), bottom, name, anchor="middle"))
    parts.append(_text(margin + cell_x * len(columns) / 2, bottom + 17, x_label, anchor="middle"))
    return _frame(title, "".join(parts), width=width, height=height)


def picture_map(
    title: str,
    points: NDArray[np.float64],
    *,
    groups: Sequence[int] | None = None,
    group_names: Sequence[str] = (),
    pictures: Mapping[int, NDArray[np.uint8]] | None = None,
    side_px: int = 22,
) -> str:
    """SVG of points in the plane, coloured by group, some with their picture.

    Args:
        title: Written above.
        points: (N, 2).
        groups: Group of each point; None for one colour.
        group_names: Name of each group.
        pictures: Point -> uint8 image, (H, W, 3).
        side_px: Side of a picture in the map.
    """
    size = WIDTH
    low, high = points.min(axis=0), points.max(axis=0)
    places = 16 + (size - 32) * (points - low) / np.where(high > low, high - low, 1)
    places[:, 1] = size - places[:, 1]
    parts = []
    for i, (left, top) in enumerate(places):
        color = COLORS[0] if groups is None else COLORS[groups[i] % len(COLORS)]
        if pictures is None or i not in pictures:
            parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="1.8" fill="{color}"/>')
    for i, picture in (pictures or {}).items():
        color = COLORS[0] if groups is None else COLORS[groups[i] % len(COLORS)]
        left, top = places[i] - side_px / 2
        parts.append(
            f'<image x="{left:.1f}" y="{top:.1f}" width="{side_px}" height="{side_px}" '
            f'href="{image_uri(Image.fromarray(picture), quality=80)}"/>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{side_px}" height="{side_px}" '
            f'fill="none" stroke="{color}" stroke-width="1.5"/>'
        )
    is_named = groups is not None and 1 < len(group_names) <= len(COLORS)
    top = size + _TOP - 10
    legend, below = _legend(list(group_names), top=top) if is_named else ("", 0)
    body = f'<g transform="translate(0 {_TOP - 10})">{"".join(parts)}</g>{legend}'
    return _frame(title, body, width=size, height=top + below, kind="plot map")


def picture_table(
    title: str,
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    *,
    columns: Sequence[str],
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> str:
    """SVG of pictures side by side, a row for each image.

    Args:
        title: Written above.
        rows: Pictures (H, W, 3) of each row, whose sides are at most `PICTURE_PX`.
        columns: What they show.
        legend: Name -> colour of what is painted in them.
    """
    step, parts, top = PICTURE_PX + 8, [], _TOP + 18.0
    for i, name in enumerate(columns):
        parts.append(_text(8 + i * step, _TOP + 8, name))
    for row in rows:
        for i, picture in enumerate(row):
            height, width = picture.shape[:2]
            parts.append(
                f'<image x="{8 + i * step}" y="{top:.0f}" width="{width}" height="{height}" '
                f'href="{image_uri(Image.fromarray(picture), quality=0 if i else 80)}"/>'
            )
        top += max(picture.shape[0] for picture in row) + 8
    left = 8 + step * len(columns)
    for i, (name, color) in enumerate((legend or {}).items()):
        y = _TOP + 18 + 15 * i
        box = f'y="{y}" width="10" height="10" fill="rgb{color}" stroke="#888"'
        parts.append(f'<rect x="{left}" {box}/>' + _text(left + 15, y + 9, name))
    height = max(top, _TOP + 26 + 15 * len(legend or {}))
    return _frame(title, "".join(parts), width=left + (140 if legend else 0), height=height)


def distinct_colors(num: int) -> NDArray[np.uint8]:
    """Colours that tell classes apart, (num, 3): the palette of all plots, then turning hues."""
    first = [tuple(bytes.fromhex(color[1:])) for color in COLORS]
    turns = [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.85 - i % 3 * 0.25, 0.9) for i in range(num)]
    rest = [tuple(round(255 * level) for level in rgb) for rgb in turns]
    return np.array((first if num <= len(first) else rest)[:num], np.uint8).reshape(num, 3)


_RAMP = np.array([(40, 20, 90), (35, 90, 150), (30, 160, 140), (130, 205, 90), (250, 230, 50)])


def ramp_colors(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours of shares in 0..1 from dark blue to yellow, (H, W) -> (H, W, 3); NaN is black."""
    known = np.nan_to_num(shares).clip(0, 1)
    ends = np.linspace(0, 1, len(_RAMP))
    levels = np.stack([np.interp(known, ends, band) for band in _RAMP.T], axis=-1)
    return np.where(np.isnan(shares)[..., None], 0, levels.round()).astype(np.uint8)


# Parts -----------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM),
        )


def _drawable(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    def is_good(value: float, axis: Axis) -> bool:
        return math.isfinite(value) and (value > 0 or not axis.is_log)

    return [(a, b) for a, b in points if is_good(a, x) and is_good(b, y)]


def _limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    span = (high - low) or max(abs(high) * 0.1, 1e-3)
    return low - margin * span, high + margin * span


def _ticks(limits: tuple[float, float], axis: Axis) -> list[tuple[float, str]]:
    """Positions (before scaling) and labels of about five round ticks."""
    low, high = limits
    if axis.is_log:
        if high - low >= 1.5:
            stride = max(1, round((high - low) / 6))
            powers = range(math.ceil(low), math.floor(high) + 1, stride)
            return [(float(power), f"1e{power}") for power in powers]
        values = [
            m * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)
        ]
        return [(math.log10(v), axis.text(v)) for v in values if low <= math.log10(v) <= high]
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    while (high - low) / step > 6:
        step *= 2.5 if round(step / 10 ** math.floor(math.log10(step))) == 2 else 2
    first = math.ceil(low / step)
    return [(i * step, axis.text(i * step)) for i in range(first, math.floor(high / step) + 1)]


def _axes(frame: _Frame, x: Axis, y: Axis) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="currentColor" '
        'stroke-opacity=".5"/>'
    ]
    for place, label in _ticks(frame.x, x):
        left = frame.at(place, frame.y[0])[0]
        parts.append(f'<path d="M{left:.1f} {bottom}v4" stroke="currentColor"/>')
        parts.append(_text(left, bottom + 16, label, anchor="middle"))
    for place, label in _ticks(frame.y, y):
        top = frame.at(frame.x[0], place)[1]
        parts.append(
            f'<path d="M{_LEFT} {top:.1f}H{right}" stroke="currentColor" stroke-opacity=".12"/>'
        )
        parts.append(_text(_LEFT - 6, top + 4, label, anchor="end"))
    parts.append(_text((_LEFT + right) / 2, HEIGHT - 8, x.label, anchor="middle"))
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" font-size="12" fill="currentColor" '
        f'transform="rotate(-90 14 {middle})">{html.escape(y.label)}</text>'
    )
    return "".join(parts)


def _legend(names: Sequence[str], *, top: float = HEIGHT) -> tuple[str, float]:
    """Names below what ends at `top`, long ones on several lines, and the height they take."""
    parts, start = [], top
    for number, name in enumerate(names):
        color = COLORS[number % len(COLORS)]
        parts.append(f'<rect x="8" y="{top}" width="10" height="10" fill="{color}"/>')
        for line in textwrap.wrap(name, _LEGEND_LETTERS) or [""]:
            parts.append(_text(24, top + 9, line))
            top += 16
    return "".join(parts), top + 4 - start


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="currentColor">'
        f"{html.escape(text)}</text>"
    )


def _mix_color(share: float) -> str:
    """Colour of a share in [0, 1], from pale to dark blue."""
    ends = ((232, 240, 247), (8, 72, 118))
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _frame(
    title: str,
    content: str,
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    kind: str = "plot",
) -> str:
    name = html.escape(title, quote=True)
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{name}" '
        f'font-family="system-ui, sans-serif"><text x="8" y="17" font-size="13" '
        f'font-weight="600" fill="currentColor">{name}</text>{content}</svg>'
    )
