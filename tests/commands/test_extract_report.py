from pathlib import Path

from ssl_vision.commands.extract_report import cells, draw_picture, frontier, markdown_table


def row(label: str, *, params: float, knn: float | None, ms: float | None = 1.0) -> dict:
    return {
        "label": label,
        "size": (8, 1),
        "name": None,
        "num_parameters": params,
        "gflops": 0.25,
        "latency_ms": ms,
        "knn_top1": knn,
    }


def test_units_of_the_columns_and_empty_cells() -> None:
    line = cells(row("8x1", params=2_500_000, knn=0.5, ms=None))
    assert line == ["8x1", "", "2.500", "0.250", "", "50.00"]
    table = markdown_table([row("8x1", params=1e6, knn=None)]).splitlines()
    assert table[0].startswith("| size | timm name | M params")
    assert table[2] == "| 8x1 |  | 1.000 | 0.250 | 1.00 |  |"


def test_the_frontier_rises() -> None:
    rows = [
        row("a", params=1, knn=0.5),
        row("b", params=2, knn=0.4),
        row("c", params=3, knn=0.5),
        row("d", params=4, knn=0.6),
    ]
    assert [r["label"] for r in frontier(rows, cost="num_parameters")] == ["a", "d"]


def test_there_is_no_picture_without_accuracies(tmp_path: Path) -> None:
    assert draw_picture([row("a", params=1, knn=None)], tmp_path / "a.png") is None
    assert not (tmp_path / "a.png").exists()
