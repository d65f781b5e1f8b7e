"""Curves as inline SVG: a report must open anywhere, without a plotting library or a network."""

import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 420, 200  # px
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 26, 24  # px around the plot
_MAX_POINTS = 600  # drawn; more than the pixels there are


def curve(title: str, points: Sequence[tuple[float, float | None]], *, unit: str = "") -> str:
    """SVG of one curve over updates.

    Args:
        title: Written above.
        points: (update, value); None where the value was not finite, which leaves a gap.
        unit: Written behind the last value.
    """
    finite = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    if not finite:
        return _frame(title, '<text x="60" y="100">no finite values</text>')
    x_low, x_high = finite[0][0], finite[-1][0]
    y_low, y_high = _limits([y for _, y in finite])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    lines = [
        " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, y) for x, y in piece))
        for piece in _pieces(_thin(points))
    ]
    drawing = "".join(f'<polyline points="{line}"/>' for line in lines)
    if len(finite) <= 2 * len(lines):  # isolated points would be invisible
        drawing += "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in (place(*p) for p in finite)
        )
    labels = [(y_low, _HEIGHT - _BOTTOM), (y_high, _TOP + 8)]
    drawing += "".join(
        f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end">{_number(value)}</text>'
        for value, y in labels
    )
    drawing += (
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{x_low:,.0f}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{x_high:,.0f}</text>'
    )
    return _frame(f"{title}: {_number(finite[-1][1])}{unit}", drawing)


def _frame(title: str, content: str) -> str:
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'role="img" aria-label="{html.escape(title, quote=True)}">'
        f'<text class="title" x="{_LEFT}" y="15">{html.escape(title)}</text>'
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
        f"{content}</svg>"
    )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = 0.5 * abs(high) or 0.5
        return low - pad, high + pad
    return low, high


def _thin(points: Sequence[tuple[float, float | None]]) -> Sequence[tuple[float, float | None]]:
    stride = -(-len(points) // _MAX_POINTS)
    return [*points[:-1:stride], points[-1]] if stride > 1 else points


def _pieces(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The curve cut where a value is missing or not finite."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def _number(value: float) -> str:
    return f"{value:.4g}"
