"""Results as pages: report.md, a self-contained report.html, and tables of several runs."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_vision.errors import DataError
from ssl_vision.evaluation.anchors import (
    compare,
    explain_difference,
    find_anchors,
    published_protocol,
)
from ssl_vision.evaluation.page import folded, html_table, page
from ssl_vision.evaluation.results import Evaluation, TaskResult
from ssl_vision.files import plain_text


def to_markdown(evaluation: Evaluation) -> str:
    """The report as Markdown: headline table, then each task with its warnings."""
    lines = [f"# {_title(evaluation)}", "", _subtitle(evaluation), ""]
    lines += ["| task | protocol | result | 95 % interval | seconds |", "|---|---|---|---|---|"]
    for result in evaluation.tasks.values():
        value, interval = _split(result)
        lines.append(
            f"| {result.task}: {result.headline} | {result.protocol} | {value} | {interval} | "
            f"{result.seconds:.1f} |"
        )
    lines += ["", *(f"> Data: {warning}" for warning in data_warnings(evaluation))]
    lines += [f"> {line}" for line in failure_lines(evaluation)]
    for result in evaluation.tasks.values():
        lines += ["", f"## {result.task}", "", f"Protocol `{result.protocol}`.", ""]
        lines += ["| measure | value | note |", "|---|---|---|"]
        lines += [f"| {each.name} | {each} | {each.note} |" for each in result.measurements]
        lines += [""] + [f"> Warning: {warning}" for warning in result.warnings]
        lines += [f"- {sentence}" for sentence in _comparisons(evaluation, result)]
    lines += ["", f"Command: `{evaluation.command}`", ""]
    return "\n".join(lines)


def to_html(evaluation: Evaluation) -> str:
    """The report as one HTML page without outside files."""
    parts = [f"<h1>{html.escape(_title(evaluation))}</h1>"]
    parts.append(f'<p class="sub">{html.escape(_subtitle(evaluation))}</p>')
    parts += [f'<p class="warn">{html.escape(line)}</p>' for line in data_warnings(evaluation)]
    parts += [f'<p class="warn">{html.escape(line)}</p>' for line in failure_lines(evaluation)]
    parts.append(_headlines(evaluation))
    for result in evaluation.tasks.values():
        parts.append(_task_section(evaluation, result))
    for name, content in (
        ("Weights and data", {"weights": evaluation.weights, "data": evaluation.data}),
        ("Resolved settings", evaluation.config),
        ("Environment", evaluation.environment),
    ):
        parts.append(folded(name, json.dumps(content, indent=1)))
    parts.append(f"<p>Command: <code>{html.escape(evaluation.command)}</code></p>")
    return page(_title(evaluation), "\n".join(parts))


def failure_lines(evaluation: Evaluation) -> list[str]:
    """A line for each task that gave no result."""
    return [f"Task {name} failed: {reason}" for name, reason in evaluation.failures.items()]


def data_warnings(evaluation: Evaluation) -> list[str]:
    """What makes the data doubtful, a line each; samples that could not be read are counted."""
    unreadable = left_out_warning(evaluation.data.get("unreadable", {}))
    return [*evaluation.data.get("warnings", ()), *unreadable]


def left_out_warning(unreadable: Mapping[str, str]) -> list[str]:
    """A line where samples (name -> reason) could not be read."""
    if not unreadable:
        return []
    name, reason = next(iter(unreadable.items()))
    return [
        f"{len(unreadable)} samples could not be read and are left out, features and labels "
        f"alike, first {name}: {reason}"
    ]


def load_evaluation(path: str | Path) -> Evaluation:
    """Results of a results.json, or of the folder that holds one.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    file = Path(path)
    file = file / "results.json" if file.is_dir() else file
    try:
        return Evaluation.from_json(json.loads(plain_text(file)))
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; run an evaluation with out= first.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} cannot be read as results of an evaluation ({error!r}); run the evaluation "
            "again with out= this folder."
        ) from error


def comparison_table(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row per network, one column per task and protocol.

    The same task under two protocols stands in two columns: such numbers do not compare.
    """
    columns = list(
        dict.fromkeys(
            (result.task, result.protocol, evaluation.data["name"])
            for evaluation in evaluations
            for result in evaluation.tasks.values()
        )
    )
    names = {name for _, _, name in columns}
    header = ["weights"]
    for task, protocol, name in columns:
        header.append(f"{task} ({protocol})" + (f" on {name}" if len(names) > 1 else ""))
    rows = []
    for evaluation in evaluations:
        found = {
            (result.task, result.protocol, evaluation.data["name"]): str(result.main)
            for result in evaluation.tasks.values()
        }
        rows.append([evaluation.weights["source"], *(found.get(key, "") for key in columns)])
    return header, rows


def comparison_markdown(evaluations: Sequence[Evaluation]) -> str:
    """`comparison_table` as Markdown."""
    header, rows = comparison_table(evaluations)
    lines = [header, ["---"] * len(header), *rows]
    return "# Comparison\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def comparison_html(evaluations: Sequence[Evaluation]) -> str:
    """`comparison_table` as a page, with the intervals drawn side by side."""
    header, rows = comparison_table(evaluations)
    table = html_table(header, rows)
    pictures = []
    for task in dict.fromkeys(task for each in evaluations for task in each.tasks):
        shown = [each for each in evaluations if task in each.tasks]
        if shown[0].tasks[task].main.is_share:
            pictures.append(_interval_chart(task, shown))
    body = f"<h1>Comparison</h1>{table}<div class='plots'>{''.join(pictures)}</div>"
    return page("Comparison", body)


# Parts -----------------------------------------------------------------------------------------


def _title(evaluation: Evaluation) -> str:
    return f"{evaluation.weights['source']} on {evaluation.data['name']}"


def _subtitle(evaluation: Evaluation) -> str:
    weights, data = evaluation.weights, evaluation.data
    parts = [f"{weights['architecture']}, {weights['num_parameters'] / 1e6:.1f} M parameters"]
    counts = f"{data['num_train']} training images"
    if data.get("num_val"):
        counts += f", {data['num_val']} test images"
    if data.get("num_classes"):
        counts += f", {data['num_classes']} classes"
    if data.get("majority_class") is not None:
        counts += f", majority class {100 * data['majority_class']:.2f} %"
    return "; ".join([*parts, counts, evaluation.created])


def _split(result: TaskResult) -> tuple[str, str]:
    value, _, interval = str(result.main).partition(" [")
    return value, f"[{interval}" if interval else ""


def _comparisons(evaluation: Evaluation, result: TaskResult) -> list[str]:
    """Sentences on published numbers; one that says so when there is none to hold against."""
    if result.task not in ("knn", "linear", "logreg", "finetune"):
        return []
    anchors = find_anchors(
        method=evaluation.weights.get("method"),
        architecture=evaluation.weights["architecture"],
        data=evaluation.data["name"],
        task=result.task,
    )
    if evaluation.weights.get("method") is None:
        return ["Not held against published numbers: the method is unknown; set method=."]
    if not anchors:
        return [
            f"No published {result.task} result is known for {evaluation.weights.get('method')}, "
            f"{evaluation.weights['architecture']} on {evaluation.data['name']}."
        ]
    own = result.protocol.rpartition("/")[0]
    return [
        compare(result.main, anchor)
        if result.task == "finetune" or own == published_protocol(anchor)
        else explain_difference(anchor, result.protocol)
        for anchor in anchors
    ]


def _headlines(evaluation: Evaluation) -> str:
    rows = []
    for result in evaluation.tasks.values():
        value, interval = _split(result)
        name = f"{result.task}: {result.headline}"
        rows.append([name, value, interval, result.protocol, f"{result.seconds:.1f}"])
    return html_table(["task", "result", "95 % interval", "protocol", "seconds"], rows)


def _task_section(evaluation: Evaluation, result: TaskResult) -> str:
    parts = [f"<h2>{html.escape(result.task)}</h2>"]
    parts.append(f"<p class='sub'>Protocol <code>{html.escape(result.protocol)}</code></p>")
    parts += [f'<p class="warn">{html.escape(warning)}</p>' for warning in result.warnings]
    rows = [[each.name, str(each), each.note] for each in result.measurements]
    main = next(i for i, each in enumerate(result.measurements) if each.name == result.headline)
    parts.append(html_table(["measure", "value", "note"], rows, main_row=main))
    sentences = _comparisons(evaluation, result)
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in sentences]
    if result.plots:
        parts.append(f"<div class='plots'>{''.join(result.plots)}</div>")
    return "\n".join(parts)


def _interval_chart(task: str, evaluations: Sequence[Evaluation]) -> str:
    """Values of one task as dots with their intervals, one line per network."""
    spans = []
    for evaluation in evaluations:
        main = evaluation.tasks[task].main
        low, high = main.interval or (main.value, main.value)
        spans.append((low, main.value, high))
    left, right = min(span[0] for span in spans), max(span[2] for span in spans)
    margin = 0.08 * (right - left) or 0.01
    left, right = left - margin, right + margin

    def place(value: float) -> float:
        return 230 + 300 * (value - left) / (right - left)

    rows = []
    for i, (evaluation, (low, value, high)) in enumerate(zip(evaluations, spans, strict=True)):
        top = 44 + 24 * i
        name = evaluation.weights["source"]
        short = name if len(name) <= 34 else "…" + name[-33:]
        rows.append(
            f'<text x="220" y="{top + 4}" text-anchor="end" font-size="11">{html.escape(short)}'
            f'</text><path d="M{place(low):.1f} {top}H{place(high):.1f}" stroke="#0072b2" '
            f'stroke-width="2"/><circle cx="{place(value):.1f}" cy="{top}" r="4" fill="#0072b2"/>'
            f'<text x="540" y="{top + 4}" font-size="11">{100 * value:.1f}</text>'
        )
    height = 44 + 24 * len(spans)
    return (
        f'<svg class="plot" viewBox="0 0 590 {height}" width="590" height="{height}" '
        'fill="currentColor" font-family="system-ui, sans-serif">'
        f'<text x="8" y="17" font-size="13" font-weight="600">{html.escape(task)}, %</text>'
        f"{''.join(rows)}</svg>"
    )
