"""What an evaluation found, as data: measurements with their protocol, to JSON and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ssl_vision.errors import DataError
from ssl_vision.evaluation.accuracy import Accuracy, Interval

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number.

    Attributes:
        name: Within its task, e.g. "top1".
        value: Shares are from 0 to 1.
        interval: 95 % interval; None where there is none.
        is_share: Whether to print it as a percentage.
        note: How to read it; empty when the name says it.
    """

    name: str
    value: float
    interval: Interval | None = None
    is_share: bool = True
    note: str = ""

    def __str__(self) -> str:
        if not self.is_share:
            return f"{self.value:.4g}"
        text = f"{100 * self.value:.2f} %"
        if self.interval is None:
            return text
        return f"{text} [{100 * self.interval.low:.2f}, {100 * self.interval.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Outcome of one task.

    Attributes:
        task: Its name.
        protocol: Named and versioned: two results compare only where this is equal.
        headline: Name of the measurement that is quoted.
        measurements: All of them, the headline among them.
        details: Every head, k, class ...; JSON values.
        plots: SVG pictures for the report; not in the JSON.
        warnings: What limits trust: selected_on_test, diverged heads, truncated banks ...
        seconds: Wall time.
    """

    task: str
    protocol: str
    headline: str
    measurements: tuple[Measurement, ...]
    details: dict[str, Any] = field(default_factory=dict)
    plots: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def main(self) -> Measurement:
        """The measurement that is quoted."""
        return next(each for each in self.measurements if each.name == self.headline)

    def to_json(self) -> dict[str, Any]:
        """JSON values; numbers that are not finite become null."""
        content = asdict(self)
        del content["plots"]
        content["value"] = self.main.value
        return plain(content)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TaskResult":
        """Inverse of `to_json`, without plots."""
        measurements = []
        for each in content["measurements"]:
            value = math.nan if each["value"] is None else each["value"]
            interval = None if each["interval"] is None else Interval(*each["interval"])
            measurements.append(Measurement(**{**each, "value": value, "interval": interval}))
        return cls(
            task=content["task"],
            protocol=content["protocol"],
            headline=content["headline"],
            measurements=tuple(measurements),
            details=dict(content["details"]),
            warnings=tuple(content["warnings"]),
            seconds=content["seconds"],
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All tasks on one network and one data set.

    Attributes:
        weights: source, sha256, architecture, width, num_parameters, method.
        data: path, name, fingerprints, numbers of images and classes, transform.
        tasks: Name -> result.
        config: The resolved settings.
        environment: Versions, machine, git state.
        command: What was called.
        created: ISO time.
        seconds: Wall time of everything.
        failures: Name of a task that gave no result -> why.
    """

    weights: dict[str, Any]
    data: dict[str, Any]
    tasks: dict[str, TaskResult]
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, task: str) -> TaskResult:
        return self.tasks[task]

    def to_json(self) -> dict[str, Any]:
        """Content of results.json."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["tasks"] = {name: result.to_json() for name, result in self.tasks.items()}
        return {"schema": SCHEMA, **plain(content)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Evaluation":
        """Inverse of `to_json`.

        Raises:
            DataError: A schema this version does not know.
        """
        if content.get("schema") != SCHEMA:
            raise DataError(
                f"results of schema {content.get('schema')!r} cannot be read; this version "
                f"writes and reads schema {SCHEMA}."
            )
        known = {"failures": {}, **content}  # results of earlier versions have none
        fields = {name: known[name] for name in cls.__dataclass_fields__}
        fields["tasks"] = {
            name: TaskResult.from_json(result) for name, result in content["tasks"].items()
        }
        return cls(**fields)


def accuracy_measurements(accuracy: Accuracy, prefix: str = "") -> tuple[Measurement, ...]:
    """top1 with its interval, top5 and the mean over classes."""
    return (
        Measurement(name=f"{prefix}top1", value=accuracy.top1, interval=accuracy.interval),
        Measurement(name=f"{prefix}top5", value=accuracy.top5),
        Measurement(name=f"{prefix}mean_per_class", value=accuracy.mean_per_class),
    )


def plain(value: Any) -> Any:
    """The value in JSON's types: tuples as lists, keys as text, no NaN or infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "tolist"):  # tensors and NumPy scalars
        return plain(value.tolist())
    return value
