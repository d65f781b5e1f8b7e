"""Bounds of settings, stated in the dataclass that owns them and refused in one line."""

from collections.abc import Iterable

from ssl_vision.errors import ConfigError

MAX_SEED = 2**32 - 1  # what NumPy, scikit-learn and UMAP take
MAX_THREADS = 1024  # of one process; more are refused by systems in ways of their own
MAX_NEIGHBOURS = 1_000_000
MAX_LAYERS = 1000  # of a head or a decoder; more are a slip, which would take minutes to build


def check_bounds(
    key: str,
    value: float | Iterable[float] | None,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse a number, or a list with a number, that is out of its range.

    Args:
        key: Full name of the setting.
        value: None, of settings that may be left open, is always within.
        least: Smallest value.
        most: Largest value.
        above: What it must be above.
        below: What it must be below.

    Raises:
        ConfigError: One line with the key, the value and the range.
    """
    numbers = [value] if isinstance(value, int | float) else list(value or ())
    if all(_is_within(number, least, most, above, below) for number in numbers):
        return
    shown = value if isinstance(value, int | float) else list(value or ())
    words = [
        f"{word} {_plain(bound)}{end}"
        for word, bound, end in (
            ("above", above, ""),
            ("", least, " or more"),
            ("below", below, ""),
            ("", most, " or less"),
        )
        if bound is not None
    ]
    subject = "" if isinstance(value, int | float) else ": each value"
    raise ConfigError(f"{key}={shown}{subject} must be {' and '.join(words)}.".replace("  ", " "))


def _plain(bound: float) -> str:
    """The bound as it would be typed."""
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _is_within(
    number: float,
    least: float | None,
    most: float | None,
    above: float | None,
    below: float | None,
) -> bool:
    """Whether a number keeps every bound that is given; NaN keeps none."""
    return (
        (least is None or number >= least)
        and (most is None or number <= most)
        and (above is None or number > above)
        and (below is None or number < below)
    )


def check_some(key: str, values: Iterable[object]) -> None:
    """Raise ConfigError for a list without entries."""
    if not list(values):
        raise ConfigError(f"{key}=[] must hold one value or more.")


def check_prob(name: str, prob: float) -> None:
    """Raise ConfigError unless 0 <= prob <= 1."""
    if not 0 <= prob <= 1:
        raise ConfigError(f"{name}={prob} is not a probability; use a value from 0 to 1.")


def check_range(name: str, low_high: tuple[float, float], *, low: float, high: float) -> None:
    """Raise ConfigError unless low <= first <= second <= high."""
    if not low <= low_high[0] <= low_high[1] <= high:
        raise ConfigError(
            f"{name}={list(low_high)} must be two rising numbers from {low:g} to {high:g}."
        )
