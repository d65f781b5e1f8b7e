"""report.html of a run: one file with curves, views, scores, the verdict, and how to read it."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image

from ssl_vision.engine.collapse import FINE
from ssl_vision.engine.curves import curve
from ssl_vision.engine.loss_trend import logged_losses, loss_sentence
from ssl_vision.engine.run_dir import (
    UNREADABLE_NAME,
    Record,
    RunFolder,
    best_sentence,
    lines_left_out,
    read_jsonl,
)
from ssl_vision.errors import CheckpointError
from ssl_vision.files import plain_text, write_atomically
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import Picture

TILE_PX = 96  # of the preview
_MAX_LISTED = 50  # unreadable samples

_FLOORS = {  # of metrics.jsonl: accuracies that cost nothing
    "eval/majority_class": "majority class",
    "eval/raw_knn_top1": "kNN of the inputs themselves (pixels, or statistics of clouds)",
}
_UNREADABLE = {
    "train/unreadable": "training samples could not be read; others took their place",
    "eval/unreadable": "samples could not be read; scores leave them out",
}

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em} h2{font-size:1.15em;margin-top:2em}
table{border-collapse:collapse} td,th{padding:.15em .8em .15em 0;text-align:left}
.verdict{padding:.7em 1em;border-left:5px solid #3a7;background:#eef7f1}
.verdict.problem{border-color:#c33;background:#fbeeee}
.curve{margin:.4em .6em .4em 0;font:11px system-ui,sans-serif}
.curve .title{font-size:13px;font-weight:600}
.curve polyline{fill:none;stroke:#26c;stroke-width:1.4} .curve circle{fill:#26c}
.curve .axis{fill:none;stroke:#999}
pre{background:#f5f5f5;padding:.8em;overflow:auto;font-size:12px} img{image-rendering:pixelated}
"""


def write_report(
    folder: Path,
    *,
    preview: Image.Image | None = None,
    picture: Picture | None = None,
    next_commands: Mapping[str, str] | None = None,
) -> Path:
    """Write report.html from the files of a run folder.

    Args:
        folder: The run folder.
        preview: What the network is shown; see `Modality.sheet`.
        picture: What the method makes of some of it; see `Method.picture`.
        next_commands: What for -> command to go on with; see `next_steps`.

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
        *_floors(metrics),
        _scores(metrics, by_room["eval"]),
        *(_curves(metrics, by_room["eval"])),
        "<h2>Loss</h2>",
        f"<p>{METHODS[method].module.reading}</p>",
        *(_curves(metrics, by_room["train"])),
        "<h2>Schedules and speed</h2>",
        *(_curves(metrics, by_room["optim"])),
        *(_curves(speeds, ["images_per_s", "data_wait_share"])),
        _preview(preview, config["data"].get("views", {})),
        _pictured(picture),
        "<h2>Settings</h2>",
        f"<pre>{html.escape(config_text)}</pre>",
        "<h2>Machine</h2>",
        f"<pre>{html.escape(json.dumps(environment, indent=1))}</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><body>"
        f"{''.join(parts)}</body></html>\n"
    )


def _verdict(metrics: Sequence[Record]) -> str:
    verdicts = [record["eval/verdict"] for record in metrics if "eval/verdict" in record]
    if not verdicts:
        return "<p>No verdict: online_eval.every_epochs is 0.</p>"
    is_fine = verdicts[-1].startswith(FINE)
    kind = "verdict" if is_fine else "verdict problem"
    return f'<p class="{kind}">{html.escape(verdicts[-1])}</p>'


def _loss_in_words(metrics: Sequence[Record], method: str) -> str:
    sentence = loss_sentence(logged_losses(metrics), method=method)
    return "" if sentence is None else f"<p>{html.escape(sentence[0].upper() + sentence[1:])}.</p>"


def _best(sentence: str | None) -> str:
    return "" if sentence is None else f"<p>{html.escape(sentence[0].upper() + sentence[1:])}.</p>"


def _next(commands: Mapping[str, str]) -> str:
    """Commands to go on with, as they are pasted."""
    if not commands:
        return ""
    lines = "\n".join(f"{command}  # {what}" for what, command in commands.items())
    return f"<h2>Go on from here</h2><pre>{html.escape(lines)}</pre>"


def _floors(metrics: Sequence[Record]) -> list[str]:
    """What costs nothing and has to be beaten, where there are labels."""
    known = {name: record[name] for record in metrics for name in _FLOORS if name in record}
    return [f"<p>{_FLOORS[name]}: {100 * value:.2f} %</p>" for name, value in known.items()]


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


def _scores(metrics: Sequence[Record], names: Sequence[str]) -> str:
    rows = [record for record in metrics if any(name in record for name in names)]
    numeric = [name for name in names if name != "eval/verdict"]
    if not rows:
        return ""
    shown = rows if len(rows) <= 8 else [rows[0], *rows[-7:]]
    head = "".join(f"<th>{html.escape(n.removeprefix('eval/'))}</th>" for n in numeric)
    body = "".join(
        f"<tr><td>{record['step']:,}</td>"
        + "".join(f"<td>{_cell(record.get(name))}</td>" for name in numeric)
        + "</tr>"
        for record in shown
    )
    return f"<table><tr><th>update</th>{head}</tr>{body}</table>"


def _curves(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    curves = []
    for name in names:
        points = [(r["step"], r[name]) for r in records if name in r]
        if points and not any(isinstance(y, str) for _, y in points):
            curves.append(curve(name.partition("/")[2] or name, points))
    return curves


def _preview(sheet: Image.Image | None, views: Iterable[str]) -> str:
    if sheet is None:
        return ""
    return (
        f"<h2>Views</h2><p>What the network is shown, sample by sample: "
        f"{html.escape(', '.join(views))}.</p>{_image(sheet, alt='training views')}"
    )


def _pictured(picture: Picture | None) -> str:
    if picture is None:
        return ""
    return (
        f"<h2>{picture.title}</h2><p>{picture.caption}</p>{_image(picture.image, alt=picture.alt)}"
    )


def _image(image: Image.Image, *, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else ""
