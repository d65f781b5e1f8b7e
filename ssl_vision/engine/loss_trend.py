"""The loss in words: falling, flat or rising, beyond its noise."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from ssl_vision.methods import METHODS

Direction = Literal["falling", "flat", "rising"]

_FEWEST = 6  # points of a curve that may be judged
_STDEVS = 3.0  # of the difference of two means, beyond which it is no noise


class Trend(NamedTuple):
    """What the loss does in the second half of what was logged.

    Attributes:
        direction: Of the last quarter against the one before it.
        start: Mean of the first tenth.
        now: Mean of the last tenth.
    """

    direction: Direction
    start: float
    now: float


def loss_trend(losses: Sequence[float]) -> Trend | None:
    """Where the loss goes; None where there are too few finite values to say.

    The last quarter of the values is compared with the quarter before: they differ where their
    means are three standard errors apart, by the spread of neighbouring values, which a slope does
    not widen.

    Args:
        losses: At equal distances, oldest first.
    """
    values = [value for value in losses if math.isfinite(value)]
    if len(values) < _FEWEST:
        return None
    quarter, tenth = max(3, len(values) // 4), max(1, len(values) // 10)
    last, before = values[-quarter:], values[-2 * quarter : -quarter]
    steps = [
        b - a for a, b in zip(values[-2 * quarter :], values[-2 * quarter + 1 :], strict=False)
    ]
    noise = stdev(steps) / math.sqrt(2) if len(steps) > 1 else 0.0
    margin = _STDEVS * noise * math.sqrt(1 / len(last) + 1 / len(before))
    change = fmean(last) - fmean(before)
    tiny = 1e-6 * max(abs(fmean(last)), 1e-12)
    direction: Direction = "flat"
    if abs(change) > max(margin, tiny):
        direction = "falling" if change < 0 else "rising"
    return Trend(direction, fmean(values[:tenth]), fmean(values[-tenth:]))


def logged_losses(records: Iterable[Mapping[str, object]]) -> list[float]:
    """The losses among the records of a run's metrics.jsonl."""
    return [v for line in records if isinstance(v := line.get("train/loss"), int | float)]


def loss_sentence(losses: Sequence[float], *, method: str) -> str | None:
    """The trend as a sentence that says what it means for a method; None as of `loss_trend`."""
    trend = loss_trend(losses)
    if trend is None:
        return None
    text = f"loss {trend.direction} ({trend.start:.4g} at first, {trend.now:.4g} now)"
    if METHODS[method].module.has_moving_targets:
        return f"{text}; its targets move, so judge by kNN and rank"
    return (
        text
        + {
            "falling": ", as in healthy runs",
            "flat": "; more epochs will change little, unless the learning rate is too low",
            "rising": "; healthy runs of this method do not: lower optim.base_lr",
        }[trend.direction]
    )
