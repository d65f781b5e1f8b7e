"""The `compare` command: runs and evaluations side by side, on the terminal and as a page."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.errors import CheckpointError
from ssl_vision.evaluation.page import html_table, page
from ssl_vision.evaluation.plots import Axis, line_chart
from ssl_vision.files import write_atomically
from ssl_vision.tasks.comparison import ABSENT, Comparison, compare, sparkline

_KEY_WIDTH, _CELL_WIDTH = 26, 18  # letters of the terminal's columns


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of `compare`."""

    out: str = "comparison"  # folder for comparison.html and comparison.md


def run_compare(arguments: Sequence[str]) -> int:
    """`compare RUN RUN [RUN ...] [out=FOLDER]`."""
    given = parse("compare", arguments, num_words=(2, None))
    settings = given.settings(CompareSettings)
    found = compare(*given.words)
    console = Console()
    show_comparison(found, console)
    folder = write_comparison(found, Path(settings.out).expanduser())
    say(console, f"comparison  {folder / 'comparison.html'}")
    return 0


def show_comparison(found: Comparison, console: Console) -> None:
    """Print what differs, as wide as the terminal; no name or value is cut."""
    for name, path in zip(found.names, found.paths, strict=True):
        if name != path:
            say(console, f"{name}  {path}")
    for title, rows in _tables(found):
        for columns in _blocks(len(found.names), console.width):
            console.print(_table(title, rows, found.names, columns))
    for metric, curves in found.curves.items():
        console.print(metric, style="bold")
        width = max(map(len, curves))
        for name, points in curves.items():
            ends = f"{points[0][1]:.4g} to {points[-1][1]:.4g}"
            say(console, f"  {name:{width}}  {sparkline(points)}  {ends}")
    for note in found.notes:
        say(console, f"note: {note}", style="yellow")


def write_comparison(found: Comparison, folder: Path) -> Path:
    """Write comparison.html and comparison.md.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "comparison.md", _markdown(found))
        write_atomically(folder / "comparison.html", _html(found))
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}); give another folder as out=."
        ) from error
    return folder


def _tables(found: Comparison) -> Iterator[tuple[str, Mapping[str, list[str]]]]:
    """The tables with their titles: a row per key, a column per entry."""
    if found.settings:
        yield "Settings that differ", found.settings
    if found.scores:
        yield "Scores", found.scores


def _blocks(num: int, width: int) -> Iterator[range]:
    """Columns that fit beside one another."""
    size = max(1, (width - _KEY_WIDTH - 4) // _CELL_WIDTH)
    for start in range(0, num, size):
        yield range(start, min(start + size, num))


def _table(
    title: str, rows: Mapping[str, list[str]], names: Sequence[str], columns: range
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold", max_width=_KEY_WIDTH)
    for column in columns:
        table.add_column(Text(names[column]), overflow="fold")
    for key, values in rows.items():
        table.add_row(Text(key), *(Text(values[column]) for column in columns))
    return table


def _markdown(found: Comparison) -> str:
    lines = ["# Comparison", ""]
    lines += [f"- {n}: {p}" for n, p in zip(found.names, found.paths, strict=True)]
    for title, rows in _tables(found):
        table = [["", *found.names], ["---"] * (len(found.names) + 1)]
        table += [[key, *values] for key, values in rows.items()]
        cells = [[each.replace("|", "\\|") for each in line] for line in table]
        lines += ["", f"## {title}", "", *(f"| {' | '.join(line)} |" for line in cells)]
    return "\n".join([*lines, "", *(f"> {note}" for note in found.notes)]) + "\n"


def _html(found: Comparison) -> str:
    parts = ["<h1>Comparison</h1>"]
    rows = [[n, p] for n, p in zip(found.names, found.paths, strict=True)]
    parts.append(html_table(["name", "note"], rows))
    parts += [f'<p class="warn">{html.escape(note)}</p>' for note in found.notes]
    if found.scores:
        parts += ["<h2>Scores</h2>", _rows_as_html(found.scores, found.names)]
    parts.append(_curves_as_html(found))
    # Methods differ in what can be set: such rows say little, and there are many.
    own = {key for key, values in found.settings.items() if ABSENT in values}
    both = {key: values for key, values in found.settings.items() if key not in own}
    if both:
        parts += ["<h2>Settings that differ</h2>", _rows_as_html(both, found.names)]
    if own:
        rest = {key: found.settings[key] for key in found.settings if key in own}
        table = _rows_as_html(rest, found.names)
        title = f"{len(rest)} settings that not all have"
        parts.append(f"<details><summary>{title}</summary>{table}</details>")
    return page("Comparison", "\n".join(parts))


def _rows_as_html(rows: Mapping[str, list[str]], names: Sequence[str]) -> str:
    return html_table(["", *names], [[key, *values] for key, values in rows.items()])


def _curves_as_html(found: Comparison) -> str:
    """A chart for each metric, each with all names, so that a run has one colour throughout."""
    drawn = {name for curves in found.curves.values() for name in curves}
    shown = [name for name in found.names if name in drawn]
    charts = [
        line_chart(
            metric,
            {name: curves.get(name, []) for name in shown},
            x=Axis("update"),
            y=Axis(metric),
            has_markers=False,
        )
        for metric, curves in found.curves.items()
    ]
    return f'<h2>Curves</h2><div class="plots">{"".join(charts)}</div>' if charts else ""
