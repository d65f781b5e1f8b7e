"""What `extract` shows: a table of sizes, and accuracy against cost as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]  # fields of a SubNetworkCard, and its label

# Column -> (field, what one value is shown as).
_COLUMNS: dict[str, tuple[str, str]] = {
    "size": ("label", "{}"),
    "timm name": ("name", "{}"),
    "M params": ("num_parameters", "{:.3f}"),
    "GFLOPs": ("gflops", "{:.3f}"),
    "ms": ("latency_ms", "{:.2f}"),
    "kNN %": ("knn_top1", "{:.2f}"),
}
_SCALES = {"num_parameters": 1e-6, "knn_top1": 100.0}


def cells(row: Row) -> list[str]:
    """A row as text; what is unknown stays empty."""
    shown = []
    for field, pattern in _COLUMNS.values():
        value = row[field]
        if value is not None and field in _SCALES:
            value = value * _SCALES[field]
        shown.append("" if value is None else pattern.format(value))
    return shown


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Print the sizes; columns without any value are left out."""
    table = Table()
    lines = [cells(row) for row in rows]
    kept = [i for i in range(len(_COLUMNS)) if any(line[i] for line in lines)]
    for i in kept:
        table.add_column(list(_COLUMNS)[i], justify="left" if i < 2 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(line[i] for i in kept))
    console.print(table)


def markdown_table(rows: Sequence[Row]) -> str:
    """The sizes as a Markdown table."""
    lines = [list(_COLUMNS), ["---"] * 2 + ["---:"] * (len(_COLUMNS) - 2)]
    lines += [cells(row) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def frontier(rows: Sequence[Row], *, cost: str) -> list[Row]:
    """Sizes no cheaper one equals in accuracy, by rising cost.

    Args:
        rows: Measured sizes.
        cost: Field that is paid: num_parameters, gflops or latency_ms.
    """
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["knn_top1"])):
        if not best or row["knn_top1"] > best[-1]["knn_top1"]:
            best.append(row)
    return best


def draw_picture(rows: Sequence[Row], path: Path) -> Path | None:
    """Accuracy over parameters, operations and latency, one colour per width, with the frontier.

    Returns:
        The picture, or None without accuracies or without matplotlib.
    """
    known = [row for row in rows if row["knn_top1"] is not None]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:  # extra `demo`
        return None
    if not known:
        return None
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"num_parameters": "parameters", "gflops": "GFLOPs per image", "latency_ms": "ms"}
    axes = figure.subplots(1, len(titles), sharey=True)
    for axis, (cost, title) in zip(axes, titles.items(), strict=True):
        _draw_axis(axis, known, cost=cost)
        axis.set_xlabel(title)
    axes[0].set_ylabel("kNN top-1 %")
    axes[0].legend(title="width", fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _draw_axis(axis: Any, rows: Sequence[Row], *, cost: str) -> None:
    rows = [row for row in rows if row[cost] is not None]
    for width in sorted({row["size"][0] for row in rows}):
        own = [row for row in rows if row["size"][0] == width]
        axis.plot(
            [row[cost] for row in own],
            [100 * row["knn_top1"] for row in own],
            "o",
            markersize=5,
            label=str(width),
        )
    best = frontier(rows, cost=cost)
    axis.step(
        [row[cost] for row in best],
        [100 * row["knn_top1"] for row in best],
        where="post",
        color="0.6",
        linewidth=1,
        zorder=0,
    )
    axis.set_xscale("log")
    axis.grid(alpha=0.3)
