"""`search` (and ssl_vision.commands.duplicates) from the shell: tables, and one-line refusals."""

import csv
from pathlib import Path

import pytest

from ssl_vision.commands.main import main
from tests.tasks.test_image_index import TINY, photos

__all__ = ["photos"]


def test_index_then_queries(photos: Path, tmp_path: Path, capsys) -> None:
    index = str(tmp_path / "an index = 1")
    assert main(["search", TINY, f"data.path={photos}", index]) == 0
    out = capsys.readouterr().out
    assert "1 images cannot be read and are left out" in out
    assert f"index of 4 images: {index}" in out
    table = tmp_path / "found.csv"
    assert main(["search", TINY, index, str(photos / "b.png"), "k=2", f"out={table}"]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["name"] == str(photos / "b.png")
    assert abs(float(rows[0]["similarity"]) - 1) < 1e-5
    assert f"1.0000  {photos / 'b.png'}" in capsys.readouterr().out


def test_duplicates_are_listed(photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.csv"
    assert main(["duplicates", TINY, str(photos), str(out), "threshold=0.99"]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {"1"}
    assert len(rows) == 3
    assert "3 of 4 images in 1 groups at threshold=0.99" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["search", TINY, "index"], 2, "nothing to do: give data.path=DIR"),
        (["search", TINY], 2, "usage: ssl-vision search WEIGHTS INDEX"),
        (["search", TINY, "nowhere", "x.png"], 65, "is no index"),
        (["search", TINY, "index", "x.png", "k=0"], 2, "k=0 must be 1 or more"),
        (["duplicates", TINY, "photos"], 2, "usage: ssl-vision duplicates"),
        (["duplicates", TINY, "photos", "out"], 2, "must be the .csv file"),
        (["duplicates", TINY, "p", "o.csv", "threshold=2"], 2, "threshold=2.0 must be above 0"),
    ],
)
def test_mistakes(words: list[str], code: int, message: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    assert message in capsys.readouterr().err


def test_other_weights_do_not_search_an_index(photos: Path, tmp_path: Path, capsys) -> None:
    index = str(tmp_path / "index")
    assert main(["search", TINY, f"data.path={photos}", index]) == 0
    assert main(["search", f"{TINY}&seed=1", index, str(photos / "b.png")]) == 2
    assert "whose weights are others" in capsys.readouterr().err
