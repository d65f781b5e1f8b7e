"""Tables open in a spreadsheet as texts, never as formulas."""

import csv
from pathlib import Path

import pytest

from ssl_vision.commands.tables import write_csv
from ssl_vision.errors import CheckpointError


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_are_disarmed_and_numbers_are_not(start: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "deep/out.csv", [[f"{start}1+1", -0.5, 'a,"b"\nc', "x\udcff"]])
    with (tmp_path / "deep/out.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.reader(file)
    assert row == [f"'{start}1+1", "-0.5", 'a,"b"\nc', "x\\udcff"]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_csv(tmp_path / "file/out.csv", [])
