"""The loss in words: falling, flat or rising, beyond its noise."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Literal, NamedTuple

from ssl_vision.methods import METHODS

Direction = Literal["falling", "flat", "rising"]

_FEWEST = 6  # points of a curve that may be judged
_STDEVS = 3.0  # of the difference of two means, beyond which it is no noise
_SLOW = 0.5  # of the peak rate: what a loss does below it says nothing of more epochs


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
    # By the middle one of the deviations, times what makes a normal distribution's deviation of it:
    # the large steps that a curve begins with are no noise.
    middle = median(steps)
    noise = 1.4826 * median(abs(step - middle) for step in steps) / math.sqrt(2)
    margin = _STDEVS * noise * math.sqrt(1 / len(last) + 1 / len(before))
    change = fmean(last) - fmean(before)
    tiny = 1e-6 * max(abs(fmean(last)), 1e-12)
    direction: Direction = "flat"
    if abs(change) > max(margin, tiny):
        direction = "falling" if change < 0 else "rising"
    return Trend(direction, fmean(values[:tenth]), fmean(values[-tenth:]))


def loss_sentence(records: Iterable[Mapping[str, object]], *, method: str) -> str | None:
    """The trend as a sentence that says what it means for a method; None as of `loss_trend`.

    Args:
        records: Those of a run's metrics.jsonl.
        method: Its name.
    """
    logged = [line for line in records if "train/loss" in line]
    trend = loss_trend(_numbers(logged, "train/loss"))
    if trend is None:
        return None
    overall = "falling" if trend.now < trend.start else "rising"
    lately = " lately" if trend.direction not in ("flat", overall) else ""
    text = f"loss {trend.direction}{lately} ({trend.start:.4g} at first, {trend.now:.4g} now)"
    if METHODS[method].module.has_moving_targets:
        return f"{text}; its targets move, so judge by kNN and rank"
    if trend.direction == "flat":
        return f"{text}; {_what_flat_means(_numbers(logged, 'optim/lr'))}"
    return (
        text
        + {
            "falling": ", as in healthy runs",
            "rising": "; healthy runs of this method do not: lower optim.base_lr",
        }[trend.direction]
    )


def _what_flat_means(rates: Sequence[float]) -> str:
    """By the learning rates of the quarter in which it was flat: 0 flattens any loss."""
    peak, last = max(rates, default=0.0), rates[-max(3, len(rates) // 4) :]
    if peak > 0 and fmean(last) < _SLOW * peak:
        return "the learning rate has run out; whether more epochs help is not said by this"
    return "more epochs will change little, unless the learning rate is too low"


def _numbers(records: Iterable[Mapping[str, object]], name: str) -> list[float]:
    return [v for line in records if isinstance(v := line.get(name), int | float)]
