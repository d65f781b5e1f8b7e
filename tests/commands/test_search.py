"""`search` (and ssl_vision.commands.duplicates) from the shell: tables, and one-line refusals."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    assert f"left out for itself: {photos / 'b.png'}; with_self=true" in capsys.readouterr().out
    with table.open(newline="") as file:
        assert str(photos / "b.png") not in [row["name"] for row in csv.DictReader(file)]
    asked = [TINY, index, str(photos / "b.png"), "k=2", f"out={table}", "with_self=true"]
    assert main(["search", *asked]) == 0
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
    captured = capsys.readouterr()
    assert "3 of 4 images in 1 groups at threshold=0.99" in captured.out
    assert "warning: 75 % of the images are grouped" in captured.err


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


def test_an_index_in_the_place_of_weights_is_told_with_the_whole_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", TINY, "data.path=photos", "index"]) == 0
    assert main(["search", "index", "photos/b.png"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "index is an index" in err
    (command,) = (err[err.index("ssl-vision search ") :],)
    assert main(shlex.split(command)[1:]) == 0
    assert "photos/b.png" in capsys.readouterr().out
    assert main(["search", TINY, "photos/b.png"]) == 2
    assert f"search '{TINY}' INDEX photos/b.png" in " ".join(capsys.readouterr().err.split())


def test_images_are_searched_as_they_were_indexed(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    levels = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    Image.fromarray(levels).save(folder / "a.png")
    Image.fromarray(levels.T.copy()).save(folder / "b.png")
    index = str(tmp_path / "index")
    asked = [TINY, f"data.path={folder}", index]
    assert main(["search", *asked, "decode.white_level=1000"]) == 65
    err = " ".join(capsys.readouterr().err.split())
    assert "decode.white_level" in err
    assert "data.decode" not in err
    assert main(["search", *asked, "decode.white_level=4095"]) == 0
    capsys.readouterr()
    assert main(["search", TINY, index, str(folder / "a.png"), "k=1", "with_self=true"]) == 0
    captured = capsys.readouterr()
    assert f"1.0000  {folder / 'a.png'}" in captured.out
    assert "nearly black" not in captured.err  # as without the white level of the index
    meta = tmp_path / "index/index.json"
    meta.write_text(meta.read_text().replace("4095", '"x"'))
    assert main(["search", TINY, index, str(folder / "a.png")]) == 65
    assert "damaged" in capsys.readouterr().err
