"""`compare` fits a terminal of 80 columns and writes a page that holds everything."""

import re
from pathlib import Path

import pytest

from ssl_vision.commands.main import main
from tests.tasks.test_comparison import write_run


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_five_runs_with_long_names_fit_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = "vit_small_patch16_224_photos_of_{}_with_a_long_name"
    runs = [
        write_run(tmp_path / stem.format(i), [3.0, 1.0 + i], [0.1, 0.1 * i], seed=i)
        for i in range(5)
    ]
    out = tmp_path / "pages # 1"
    assert main(["compare", *map(str, runs), f"out={out}"]) == 0
    printed = capsys.readouterr().out
    tables = [line for line in printed.splitlines() if line.startswith(("│", "┃", "┏", "┡"))]
    assert tables
    assert max(map(len, tables)) <= 80
    heads = " ".join(line for line in tables if line.startswith("┃"))
    assert len(set(re.findall(r"of_(\d)|…(\d)_", heads))) == 5  # each run can be told apart
    page = (out / "comparison.html").read_text()
    for i in range(5):
        assert stem.format(i) in page
    assert page.count("<svg") == 2
    assert "| seed | 0 | 1 | 2 | 3 | 4 |" in (out / "comparison.md").read_text()


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", [1.0], [0.1])
    assert main(["compare", str(run)]) == 2
    assert "usage: ssl-vision compare RUN RUN" in capsys.readouterr().err
    assert main(["compare", str(run), str(tmp_path / "none")]) == 65
    assert "neither a run folder" in capsys.readouterr().err


def test_names_with_markup_and_html_stay_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "[bold]a<b>", [1.0, 2.0], [0.1, 0.2], seed=1)
    b = write_run(tmp_path / "b|c", [1.0, 2.0], [0.1, 0.2], seed=2)
    assert main(["compare", str(a), str(b), f"out={tmp_path / 'out'}"]) == 0
    assert "[bold]a<b>" in capsys.readouterr().out
    assert "[bold]a&lt;b&gt;" in (tmp_path / "out/comparison.html").read_text()
