"""The `evaluate` command: weights by tasks, and finished evaluations side by side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssl_vision.commands.arguments import parse
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.report import (
    comparison_html,
    comparison_markdown,
    comparison_table,
    load_evaluation,
)
from ssl_vision.evaluation.results import Evaluation
from ssl_vision.files import check_output, report_folder_made, write_atomically
from ssl_vision.tasks.evaluate import evaluate_as, report_folder, slug
from ssl_vision.tasks.settings import load_settings


def run_evaluate(arguments: Sequence[str]) -> int:
    """`evaluate WEIGHTS [WEIGHTS ...] data.path=DIR tasks=knn,linear [file.yaml] [key=value ...]`.

    `evaluate compare RESULTS RESULTS ... [out=FOLDER]` puts finished evaluations into one table.
    """
    given = parse("evaluate", arguments, num_words=(0, None))
    files, weights = split_files(given.words)
    console = Console()
    if weights[:1] == ["compare"]:
        _compare(weights[1:], given.overrides, console)
        return 0
    named: list[str | None] = [*weights] or [None]
    found, folders = [], []
    for each in named:
        own = [] if each is None else [f"weights={each}"]
        config = load_settings(files, [*given.overrides, *own])
        if len(named) > 1 and config.out is not None:
            config = replace(config, out=str(Path(config.out) / slug(config.weights)))
        found.append(evaluate_as(config, console))
        folders.append(report_folder(config))
    if len(found) > 1:
        out = folders[0].parent if given.overrides else Path("evaluation")
        _write_comparison(found, out, console)
    return 0


def split_files(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """YAML files, and the other words."""
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    return files, [word for word in words if word not in files]


def _compare(sources: Sequence[str], overrides: Sequence[str], console: Console) -> None:
    wrong = [each for each in overrides if not each.startswith("out=")]
    if len(sources) < 2 or wrong:
        raise ConfigError(
            "compare takes two or more folders with results.json, and out=FOLDER if wanted."
        )
    out = Path(overrides[-1].removeprefix("out=")) if overrides else Path("evaluation")
    _write_comparison([load_evaluation(source) for source in sources], out, console)


def _write_comparison(evaluations: Sequence[Evaluation], folder: Path, console: Console) -> None:
    check_output(folder, key="out")
    with report_folder_made(folder):
        write_atomically(folder / "comparison.md", comparison_markdown(evaluations))
        write_atomically(folder / "comparison.html", comparison_html(evaluations))
    header, rows = comparison_table(evaluations)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"comparison  {folder / 'comparison.html'}", soft_wrap=True)
