"""The first run of a newcomer: a tiny recipe, scored against what costs nothing."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ssl_vision.commands.train import recipe_config
from ssl_vision.engine.train import train
from ssl_vision.evaluation.results import TaskResult
from ssl_vision.tasks.baselines import FITTED, UNTRAINED
from ssl_vision.tasks.evaluate import evaluate

_ROWS = {
    "raw pixels": "top1 of raw pixels",
    "raw statistics": "top1 of raw statistics",
    "untrained backbone": f"top1 of {UNTRAINED}",
    "untrained, batch norms fitted to the data": f"top1 of {FITTED}",
    "trained backbone": "top1",
}


def run_quickstart(arguments: Sequence[str]) -> int:
    """`quickstart RECIPE.yaml [key=value ...]`: train, then print kNN beside what costs nothing.

    Raises:
        SslVisionError: As `train` and `evaluate` do.
    """
    config = recipe_config("quickstart", arguments)
    result = train(config)
    console = Console()
    # Before the score, which not all data allow: without labels, or of pairs, the run stands.
    console.print(f"report  {result.run_dir / 'report.html'}", soft_wrap=True)
    console.print(f"model   {result.export}", soft_wrap=True)
    evaluation = evaluate(
        result.run_dir, tasks=("knn",), data={"path": config.data.path}, baselines=True
    )
    console.print(score_table(evaluation.tasks["knn"], title=f"kNN on {config.data.path}"))
    return 0


def score_table(knn: TaskResult, *, title: str) -> Table:
    """Top-1 of what was measured of `_ROWS`, with 95 % intervals."""
    table = Table("features", "top-1", title=f"{title} ({knn.protocol})")
    measured = {each.name: each for each in knn.measurements}
    for row, name in _ROWS.items():
        if name in measured:
            table.add_row(row, str(measured[name]))
    return table
