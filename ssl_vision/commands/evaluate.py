"""The `evaluate` command: weights by tasks, and finished evaluations side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssl_vision.commands.arguments import parse
from ssl_vision.commands.saying import say
from ssl_vision.config import EvalConfig
from ssl_vision.distributed import world_size
from ssl_vision.errors import ConfigError, SslVisionError
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
    owns = [[f"weights={each}"] for each in weights] or [[]]
    configs = [load_settings(files, [*given.overrides, *own]) for own in owns]
    if len(configs) > 1:
        configs = [
            c if c.out is None else replace(c, out=str(Path(c.out) / slug(c.weights)))
            for c in configs
        ]
    found, failures = _evaluated(configs, console)
    if len(found) > 1:
        out = report_folder(configs[0]).parent if given.overrides else Path("evaluation")
        _write_comparison(found, out, console)
    _raise_first(failures, len(configs))
    return 0


def _evaluated(
    configs: Sequence[EvalConfig], console: Console
) -> tuple[list[Evaluation], dict[str, Exception]]:
    """Evaluations, and by their weights the errors of those that failed; the others go on.

    Raises:
        Exception: On several processes, of which the others may wait in the middle.
    """
    found: list[Evaluation] = []
    failures: dict[str, Exception] = {}
    for config in configs:
        try:
            found.append(evaluate_as(config, console))
        except Exception as error:
            if world_size() > 1 or len(configs) == 1:
                raise
            failures[config.weights] = error
            if isinstance(error, SslVisionError):
                say(console, f"{config.weights} failed: {error}", style="red")
    return found, failures


def _raise_first(failures: Mapping[str, Exception], num: int) -> None:
    """End with the status of the first failure."""
    for error in failures.values():
        if not isinstance(error, SslVisionError):
            raise error
    for weights, error in failures.items():
        kept = "; the results of the others are written" if len(failures) < num else ""
        raise type(error)(f"{len(failures)} of {num} weights failed{kept}. {weights}: {error}")


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
