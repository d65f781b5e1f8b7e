"""Tables whose classes are in doubt; what all tables share is in tests/data/test_find.py."""

from pathlib import Path

import numpy as np
from PIL import Image

from ssl_vision.data.find import find_source
from ssl_vision.data.images.config import ImageData


def test_rows_without_a_class_and_names_that_look_missing_are_said(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,a\na.png,\na.png,NaN\na.png,b\n")
    source = find_source(str(table), split="train", config=ImageData(path=str(table)))
    assert source.labels is not None
    assert list(source.labels) == [1, -1, 0, 2]  # numbered by name: NaN, a, b
    assert source.class_names == ["NaN", "a", "b"]
    said = " ".join(source.notes)
    assert "1 of 4 rows have no class" in said
    assert "'NaN' is taken for the name of a class" in said


def test_a_table_of_plain_classes_has_no_doubts(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,a\na.png,b\n")
    source = find_source(str(table), split="train", config=ImageData(path=str(table)))
    assert len(source.notes) == 1
