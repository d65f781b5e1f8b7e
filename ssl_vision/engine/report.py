"""report.html of a run: one file with scores, neighbours, views, curves, and how to read them."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image

from ssl_vision.engine.collapse import FINE
from ssl_vision.engine.curves import curve
from ssl_vision.engine.gallery import Section
from ssl_vision.engine.loss_trend import loss_sentence
from ssl_vision.engine.run_dir import (
    UNREADABLE_NAME,
    Record,
    RunFolder,
    best_sentence,
    lines_left_out,
    read_best,
    read_jsonl,
)
from ssl_vision.errors import CheckpointError
from ssl_vision.evaluation.page import bars, embedded, folded, html_table, page
from ssl_vision.files import plain_text, write_atomically
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import Picture

_MAX_LISTED = 50  # unreadable samples

_FLOORS = {  # of metrics.jsonl: accuracies that cost nothing
    "eval/majority_class": "majority class",
    "eval/raw_knn_top1": "kNN of the inputs themselves",  # pixels, or statistics of clouds
}
_SCORES = {"eval/top1": "Accuracy, top-1", "eval/knn_top1": "kNN, top-1"}  # the first there is
_UNREADABLE = {
    "train/unreadable": "training samples could not be read; others took their place",
    "eval/unreadable": "samples could not be read; scores leave them out",
}


def write_report(
    folder: Path,
    *,
    preview: Image.Image | None = None,
    picture: Picture | None = None,
    next_commands: Mapping[str, str] | None = None,
    sections: Sequence[Section] | None = None,
) -> Path:
    """Write report.html from the files of a run folder.

    Args:
        folder: The run folder.
        preview: What the network is shown; see `gallery.preview`.
        picture: What the method makes of some of it; see `gallery.picture`.
        next_commands: What for -> command to go on with; see `next_steps`.
        sections: What the network makes of samples; see `gallery.gallery`.

    Raises:
        CheckpointError: The folder lacks the run's files or cannot be written.
    """
    path = folder / "report.html"
    try:
        config_text = plain_text(folder / "config.yaml")
        metrics, damaged = read_jsonl(folder / "metrics.jsonl")
        has_speeds = (folder / "speed.jsonl").exists()
        speeds = read_jsonl(folder / "speed.jsonl")[0] if has_speeds else []
        environment = json.loads(plain_text(folder / "environment.json"))
        bad = RunFolder(folder).read_json(UNREADABLE_NAME)
        steps = [line["step"] for line in metrics]
        best = best_sentence(RunFolder(folder), last_step=max(steps, default=0))
        best_step = None if (found := read_best(RunFolder(folder))) is None else found.step
        page = render(
            config_text,
            metrics,
            speeds,
            environment,
            preview,
            picture,
            bad,
            damaged,
            next_commands,
            best,
            best_step,
            sections or (),
        )
        write_atomically(path, page)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error
    return path


def render(
    config_text: str,
    metrics: Sequence[Record],
    speeds: Sequence[Record],
    environment: Mapping[str, object],
    preview: Image.Image | None,
    picture: Picture | None = None,
    unreadable: Mapping[str, str] | None = None,
    damaged: Sequence[int] = (),
    next_commands: Mapping[str, str] | None = None,
    best: str | None = None,
    best_step: int | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """The page as text.

    Args:
        config_text: config.yaml.
        metrics: Records of metrics.jsonl.
        speeds: Records of speed.jsonl.
        environment: environment.json.
        preview: See `write_report`.
        picture: See `write_report`.
        unreadable: A reason by the name of each sample that could not be read.
        damaged: Numbers of the lines of metrics.jsonl that are no records.
        next_commands: See `write_report`.
        best: Which export is the best; see `best_sentence`.
        best_step: Its update.
        sections: See `write_report`.
    """
    config = yaml.safe_load(config_text)
    method, backbone = config["method"]["name"], config["backbone"]["name"]
    title = f"{method}, {backbone}, {config['data']['path']}"
    names = sorted({name for record in metrics for name in record} - {"step", "epoch", *_FLOORS})
    by_room = {
        room: [name for name in names if name.startswith(f"{room}/")]
        for room in ("eval", "train", "optim")
    }
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _verdict(metrics),
        *_damaged(damaged),
        _loss_in_words(metrics, method),
        _best(best),
        _next(next_commands or {}),
        *_unreadable(metrics, unreadable or {}),
        "<h2>Scores during training</h2>",
        _bars(metrics, best_step),
        _scores(metrics, by_room["eval"], best_step),
        _curves(metrics, by_room["eval"]),
        *(f"<h2>{html.escape(each.title)}</h2>{each.body}" for each in sections),
        _preview(preview, config["data"].get("views", {})),
        _pictured(picture),
        f"<h2>Loss</h2><p>{METHODS[method].module.reading}</p>",
        _curves(metrics, by_room["train"]),
        "<h2>Schedules and speed</h2>",
        _curves(metrics, by_room["optim"]),
        _curves(speeds, ["images_per_s", "data_wait_share"]),
        "<h2>Settings</h2>",
        folded("config.yaml", config_text),
        "<h2>Machine</h2>",
        folded("environment.json", json.dumps(environment, indent=1)),
    ]
    return page(title, "\n".join(filter(None, parts)))


def _verdict(metrics: Sequence[Record]) -> str:
    verdicts = [record["eval/verdict"] for record in metrics if "eval/verdict" in record]
    if not verdicts:
        return "<p>No verdict: online_eval.every_epochs is 0.</p>"
    is_fine = verdicts[-1].startswith(FINE)
    kind = "verdict" if is_fine else "verdict problem"
    return f'<p class="{kind}">{html.escape(verdicts[-1])}</p>'


def _loss_in_words(metrics: Sequence[Record], method: str) -> str:
    sentence = loss_sentence(metrics, method=method)
    return "" if sentence is None else f"<p>{html.escape(sentence[0].upper() + sentence[1:])}.</p>"


def _best(sentence: str | None) -> str:
    return "" if sentence is None else f"<p>{html.escape(sentence[0].upper() + sentence[1:])}.</p>"


def _next(commands: Mapping[str, str]) -> str:
    """Commands to go on with, as they are pasted."""
    if not commands:
        return ""
    lines = "\n".join(f"{command}  # {what}" for what, command in commands.items())
    return f"<h2>Go on from here</h2><pre>{html.escape(lines)}</pre>"


def _bars(metrics: Sequence[Record], best_step: int | None) -> str:
    """The score at the start, at its best and at the end, beside what costs nothing."""
    name = next((name for name in _SCORES if _points(metrics, name)), None)
    by_step = {} if name is None else dict(_points(metrics, name))
    floors = {_FLOORS[f]: record[f] for record in metrics for f in _FLOORS if f in record}
    if name is None:
        return bars(floors)
    last = max(by_step)
    own = {f"update {last:,}": by_step[last]}
    if best_step is not None and best_step in by_step and best_step != last:
        own[f"update {best_step:,}, the best"] = by_step[best_step]
    start = {"before training": by_step[0]} if 0 in by_step and last else {}
    return f"<h3>{_SCORES[name]}</h3>{bars(own | start | floors, own=list(own))}"


def _damaged(numbers: Sequence[int]) -> list[str]:
    if not numbers:
        return []
    return [f'<p class="verdict problem">metrics.jsonl: {lines_left_out(numbers)}</p>']


def _unreadable(metrics: Sequence[Record], reasons: Mapping[str, str]) -> list[str]:
    """A line for each use of the data that met samples that cannot be read, and their list."""
    latest = {name: record[name] for record in metrics for name in _UNREADABLE if name in record}
    lines = [
        f'<p class="verdict problem">{latest[name]} {text}.</p>'
        for name, text in _UNREADABLE.items()
        if latest.get(name)
    ]
    shown = [f"{name}: {reason}" for name, reason in list(reasons.items())[:_MAX_LISTED]]
    if len(reasons) > len(shown):
        shown.append(f"and {len(reasons) - len(shown)} more in {UNREADABLE_NAME}")
    items = "".join(f"<li>{html.escape(line)}</li>" for line in shown)
    return [*lines, f"<ul>{items}</ul>"] if shown else lines


def _scores(metrics: Sequence[Record], names: Sequence[str], best_step: int | None) -> str:
    """A row for each score; columns are the start, the best, and the last."""
    rows = {r["step"]: r for r in metrics if any(name in r for name in names)}
    if not rows:
        return ""
    shown = sorted({min(rows), max(rows), *({best_step} & rows.keys())})
    heads = [f"update {step:,}" + (" (best)" if step == best_step else "") for step in shown]
    lines = [
        [name.removeprefix("eval/"), *(_cell(rows[step].get(name)) for step in shown)]
        for name in names
        if name != "eval/verdict"
    ]
    return html_table(["", *heads], lines)


def _points(records: Sequence[Record], name: str) -> list[tuple[int, float]]:
    """Updates and values, where there is a number."""
    found = ((record["step"], record.get(name)) for record in records)
    return [(step, value) for step, value in found if isinstance(value, float | int)]


def _curves(records: Sequence[Record], names: Sequence[str]) -> str:
    curves = []
    for name in names:
        points = [(r["step"], r[name]) for r in records if name in r]
        if points and not any(isinstance(y, str) for _, y in points):
            curves.append(curve(name.partition("/")[2] or name, points))
    return f'<div class="plots">{"".join(curves)}</div>' if curves else ""


def _preview(sheet: Image.Image | None, views: Iterable[str]) -> str:
    if sheet is None:
        return ""
    shown = embedded(sheet, alt="training views", is_sheet=True)
    return (
        f"<h2>Views</h2><p>What the network is shown, sample by sample: "
        f"{html.escape(', '.join(views))}.</p>{shown}"
    )


def _pictured(picture: Picture | None) -> str:
    if picture is None:
        return ""
    shown = embedded(picture.image, alt=picture.alt, is_sheet=True)
    return f"<h2>{picture.title}</h2><p>{picture.caption}</p>{shown}"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else ""
