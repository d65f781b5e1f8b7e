"""Runs and evaluations side by side: settings that differ, curves, scores.

What is compared is read from run folders (config.yaml, metrics.jsonl, evaluation/results.json) and
evaluation folders (results.json); nothing is computed anew.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_vision.engine.resume import flat_settings
from ssl_vision.engine.run_dir import lines_left_out, read_jsonl
from ssl_vision.engine.saved_config import run_settings
from ssl_vision.errors import CheckpointError, DataError
from ssl_vision.evaluation.report import load_evaluation
from ssl_vision.evaluation.results import Evaluation

# Where a run wrote and what it was called: always different, and of no effect on what it learned.
_OF_PLACE = ("run_dir", "out", "weights", "resume", "cache")
_CURVES = ("train/loss", "eval/knn_top1", "eval/top1", "eval/rankme")
_SHARES = ("eval/knn_top1", "eval/top1", "eval/top5", "eval/majority_class", "eval/raw_knn_top1")
_SPARKS = "▁▂▃▄▅▆▇█"
ABSENT = "(absent)"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run or evaluation, as its folder holds it.

    Attributes:
        path: As it was given.
        settings: Full key -> value as text.
        metrics: Lines of metrics.jsonl; none of an evaluation.
        fault: What is to be said of metrics.jsonl; empty where nothing is.
        evaluation: Its latest evaluation, if there is one.
    """

    path: str
    settings: dict[str, str]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    evaluation: Evaluation | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Entries and what is said of them, column by column.

    Attributes:
        names: Of the entries, each another, as short as they may be.
        paths: As they were given.
        settings: Full key -> value of each entry, where they differ.
        scores: What was measured -> value of each entry; empty where it was not.
        curves: Metric -> name of the entry -> points (update, value).
        notes: What a reader should know, a line each.
    """

    names: list[str]
    paths: list[str]
    settings: dict[str, list[str]]
    scores: dict[str, list[str]]
    curves: dict[str, dict[str, list[tuple[float, float]]]]
    notes: list[str] = field(default_factory=list)


def compare(*runs: str | Path) -> Comparison:
    """Runs and evaluations side by side.

    Args:
        runs: Run folders, folders with results.json, or such files; two or more.

    Raises:
        DataError: A folder is neither.
        CheckpointError: A file of it is damaged.
    """
    if len(runs) < 2:
        raise DataError("compare takes two or more runs or evaluations.")
    entries = [read_entry(run) for run in runs]
    names = distinct_names([entry.path for entry in entries])
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    settings = {
        key: values
        for key in keys
        if key.split(".")[0] not in _OF_PLACE
        and len(set(values := [e.settings.get(key, ABSENT) for e in entries])) > 1
    }
    curves = {metric: _curves_of(metric, names, entries) for metric in _CURVES}
    return Comparison(
        names=names,
        paths=[entry.path for entry in entries],
        settings=settings,
        scores=_scores(entries),
        curves={metric: found for metric, found in curves.items() if found},
        notes=list(_notes(names, entries)),
    )


def read_entry(run: str | Path) -> Entry:
    """A run or evaluation from its folder.

    Raises:
        DataError: It is neither.
        CheckpointError: A file of it is damaged.
    """
    folder = Path(run).expanduser()
    config = folder / "config.yaml"
    if not config.is_file():
        if not (folder.is_file() or (folder / "results.json").is_file()):
            raise DataError(
                f"{str(run)!r} is neither a run folder (config.yaml) nor an evaluation "
                "(results.json)."
            )
        found = load_evaluation(folder)
        return Entry(path=str(run), settings=_texts(found.config), evaluation=found)
    settings = _texts(run_settings(folder))
    results = folder / "evaluation/results.json"
    metrics, fault = _read_log(folder / "metrics.jsonl")
    return Entry(
        path=str(run),
        settings=settings,
        metrics=metrics,
        fault=fault,
        evaluation=load_evaluation(results) if results.is_file() else None,
    )


def _read_log(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Records of metrics.jsonl, and what is to be said of it."""
    if not path.exists():
        return [], "no metrics.jsonl, the run has not begun to log."
    records, damaged = read_jsonl(path)
    if damaged:
        return records, f"metrics.jsonl: {lines_left_out(damaged)}"
    return records, "" if records else "metrics.jsonl is empty, the run has not begun to log."


def _texts(config: object) -> dict[str, str]:
    if not isinstance(config, dict):
        raise CheckpointError("settings of a run are a mapping.")
    return {key: _text(value) for key, value in flat_settings(config).items()}


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


# What is said --------------------------------------------------------------------------------


def _scores(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Rows of scores; a row for each protocol and data set, as others do not compare."""
    found: list[dict[str, str]] = [dict(_scores_of(entry)) for entry in entries]
    rows = dict.fromkeys(row for each in found for row in each)
    return {row: [each.get(row, "") for each in found] for row in rows}


def _scores_of(entry: Entry) -> Iterator[tuple[str, str]]:
    steps = [line["step"] for line in entry.metrics if "step" in line]
    if steps:
        yield "updates", f"{max(steps):,}"
    for metric in _CURVES:
        points = _points(metric, entry)
        if not points:
            continue
        name = metric.partition("/")[2]
        where = " during training" if metric.startswith("eval/") else ""
        if metric.startswith("eval/"):
            yield f"{name}{where}, before", _shown(metric, points[0][1])
        yield f"{name}{where}, last", _shown(metric, points[-1][1])
        if metric in _SHARES:
            step, best = max(points, key=lambda point: point[1])
            yield f"{name}{where}, best", f"{_shown(metric, best)} at update {step:,.0f}"
    verdicts = [str(v) for line in entry.metrics if (v := line.get("eval/verdict"))]
    if verdicts:
        yield "verdict", verdicts[-1].partition(":")[0].partition(".")[0]
    if entry.evaluation is not None:
        data = entry.evaluation.data["name"]
        for task, result in entry.evaluation.tasks.items():
            yield f"{task} {result.headline} on {data} ({result.protocol})", str(result.main)


def _shown(metric: str, value: float) -> str:
    return f"{100 * value:.2f} %" if metric in _SHARES else f"{value:.4g}"


def _points(metric: str, entry: Entry) -> list[tuple[float, float]]:
    return [
        (float(line["step"]), float(line[metric]))
        for line in entry.metrics
        if "step" in line and isinstance(line.get(metric), int | float)
    ]


def _curves_of(
    metric: str, names: Sequence[str], entries: Sequence[Entry]
) -> dict[str, list[tuple[float, float]]]:
    found = {name: _points(metric, entry) for name, entry in zip(names, entries, strict=True)}
    return {name: points for name, points in found.items() if len(points) > 1}


def _notes(names: Sequence[str], entries: Sequence[Entry]) -> Iterator[str]:
    methods = {e.settings["method.name"] for e in entries if e.settings.get("method.name")}
    if len(methods) > 1:
        yield f"losses of {', '.join(sorted(methods))} do not compare: they measure other things."
    data = [e.settings.get("data.path") for e in entries if e.metrics]
    if len(set(data)) > 1:
        yield "scores during training are on other data: compare them only where data.path agrees."
    for name, entry in zip(names, entries, strict=True):
        if entry.fault:
            yield f"{name}: {entry.fault}"


# Names and pictures in text --------------------------------------------------------------------


def distinct_names(paths: Sequence[str], *, width: int = 16) -> list[str]:
    """A name for each path, no two alike, each at most `width` letters.

    Folders that all have in common are left out; what is still too long is shortened where the
    names agree. A path given twice gets a number.

    Args:
        paths: As typed.
        width: Most letters; 4 or more.
    """
    texts = [text.rstrip("/") or text for text in paths]
    while True:
        heads = {text.partition("/")[0] for text in texts}
        if len(heads) > 1 or not all(text.partition("/")[2].strip("/") for text in texts):
            break
        texts = [text.partition("/")[2].lstrip("/") for text in texts]
    parts = [text.split("/") for text in texts]
    while min(map(len, parts)) > 1 and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]  # .../evaluation of all
    texts = ["/".join(each) for each in parts]
    start = _num_common(texts)
    end = _num_common([text[start:][::-1] for text in texts])
    ways: list[Callable[[str], str]] = [
        lambda text: text,
        lambda text: _middle(text, width),
        lambda text: _cut(f"…{text[start:]}" if start > 1 else text, width),
        lambda text: _cut(f"…{text[start : len(text) - end]}…", width),
    ]
    for way in ways:
        names = [way(text) for text in texts]
        if len(set(names)) == len(names) and max(map(len, names)) <= width:
            return names
    return [f"{i}: {_middle(text, width - 4)}"[:width] for i, text in enumerate(texts, start=1)]


def _num_common(texts: Sequence[str]) -> int:
    """Letters at the start that all have."""
    return next(
        (i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1),
        min(map(len, texts)),
    )


def _middle(text: str, width: int) -> str:
    head = (width - 1) // 2
    return text if len(text) <= width else f"{text[:head]}…{text[len(text) - width + head + 1 :]}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def sparkline(points: Sequence[tuple[float, float]], *, width: int = 24) -> str:
    """A curve as one line of text, each letter the mean of its stretch of updates."""
    low, high = points[0][0], points[-1][0]
    bins: list[list[float]] = [[] for _ in range(width)]
    for x, y in points:
        place = int((x - low) / (high - low) * (width - 1)) if high > low else 0
        bins[min(max(place, 0), width - 1)].append(y)
    means = [sum(each) / len(each) for each in bins if each]
    bottom, top = min(means), max(means)
    span = (top - bottom) or 1.0
    return "".join(_SPARKS[round((mean - bottom) / span * (len(_SPARKS) - 1))] for mean in means)
