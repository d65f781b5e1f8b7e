"""Masks of classes: the common layouts, tables of the user's, and what none of them knows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.masks import IGNORED, MasksConfig, read_mask, table_of
from ssl_vision.errors import ConfigError, DataError


def saved(path: Path, values: np.ndarray, *, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image = image.convert("P") if values.ndim == 3 else Image.fromarray(values, mode="P")
        image.putpalette([(7 * i) % 256 for i in range(768)])
    elif mode:
        image = image.convert(mode)
    image.save(path)
    return path


def ids(*values: int, dtype=np.uint8) -> np.ndarray:
    return np.array([values, values], dtype)


def classes(config: MasksConfig, *paths: Path) -> tuple[list[list[int]], tuple[str, ...], str]:
    table, note = table_of(config, paths)
    return [read_mask(path, table)[0].tolist() for path in paths], table.names, note


def test_vocs_palettes_are_read_by_index_and_255_is_ignored(tmp_path):
    path = saved(tmp_path / "SegmentationClass/a.png", ids(0, 1, 20, 255), mode="P")
    (found,), names, note = classes(MasksConfig(), path)
    assert found == [0, 1, 20, IGNORED]
    assert (len(names), names[0], names[15], names[20]) == (21, "background", "person", "tvmonitor")
    assert "read as voc (21 classes): they lie in SegmentationClass" in note


def test_ade20ks_first_class_is_1_and_0_is_none_of_them(tmp_path):
    path = saved(tmp_path / "annotations/training/a.png", ids(0, 1, 150))
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t.15\t11664\t1172\twall\n150\t.01\t1\t1\tflag\n"
    )
    (found,), names, note = classes(MasksConfig(), path)
    assert found == [IGNORED, 0, 149]
    assert (len(names), names[0], names[149], names[1]) == (150, "wall", "flag", "2")
    assert "objectInfo150.txt lies beside them" in note


def test_cityscapes_ids_become_its_19_classes(tmp_path):
    path = saved(tmp_path / "ulm_gtFine_labelIds.png", ids(0, 7, 9, 11, 33, 255))
    (found,), names, note = classes(MasksConfig(), path)
    assert found == [IGNORED, 0, IGNORED, 2, 18, IGNORED]
    assert (len(names), names[0], names[18]) == (19, "road", "bicycle")
    assert "end in _labelIds" in note
    path = saved(tmp_path / "ulm_gtFine_labelTrainIds.png", ids(0, 18, 255))
    assert classes(MasksConfig(), path)[0] == [[0, 18, IGNORED]]


def test_values_are_classes_where_nothing_else_is_known(tmp_path):
    paths = [saved(tmp_path / "a.png", ids(0, 2, 255)), saved(tmp_path / "b.png", ids(4, 0, 0))]
    found, names, note = classes(MasksConfig(), *paths)
    assert found == [[0, 2, IGNORED], [4, 0, 0]]
    assert names == ("0", "1", "2", "3", "4")
    assert "ids (5 classes)" in note
    assert "the largest in the training masks, 4" in note
    other = saved(tmp_path / "c.png", ids(4, 0, 1))
    found, names, _ = classes(MasksConfig(ignore=(0,)), other)
    assert (found, names) == ([[3, IGNORED, 0]], ("1", "2", "3", "4"))


def test_ids_of_16_bits_are_read(tmp_path):
    path = saved(tmp_path / "a.png", ids(0, 3, 300, dtype=np.uint16))
    (found,), names, _ = classes(MasksConfig(), path)
    assert found == [0, 3, 299]  # 255 is no class
    assert len(names) == 300


@pytest.mark.parametrize("mode", [None, "1"])
def test_masks_of_0_and_255_are_two_classes_not_one_and_ignored(tmp_path, mode):
    path = saved(tmp_path / "a.png", ids(0, 255, 255), mode=mode)
    config = MasksConfig(labels="auto" if mode is None else "binary")
    (found,), names, note = classes(config, path)
    assert (found, names) == ([0, 1, 1], ("background", "foreground"))
    assert ("0 and 255" in note) == (mode is None)


def test_a_table_of_colours_names_and_merges_classes(tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("name,r,g,b\nsky,10,20,30\nroad,255,0,0\nroad,255,0,1\nVoid,0,0,0\n")
    pixels = [[10, 20, 30], [255, 0, 0], [255, 0, 1], [0, 0, 0]]
    path = saved(tmp_path / "a.png", np.array([pixels], np.uint8))
    (found,), names, note = classes(MasksConfig(labels=str(table)), path)
    assert (found, names) == ([0, 1, 1, IGNORED], ("sky", "road"))
    assert "Void counts nowhere" in note
    other = saved(tmp_path / "b.png", np.array([[[9, 8, 7]]], np.uint8))
    with pytest.raises(
        DataError, match=r"b\.png has the colour 9,8,7, which .*classes\.csv has not"
    ):
        classes(MasksConfig(labels=str(table)), other)


def test_a_table_of_ids_names_them(tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("id,name\n5,cat\n2,dog\n")
    path = saved(tmp_path / "a.png", ids(2, 5, 255))
    (found,), names, _ = classes(MasksConfig(labels=str(table)), path)
    assert (found, names) == ([1, 0, IGNORED], ("cat", "dog"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,nom\n1,a\n2,b\n", "has the columns id, nom; wanted are name and id, or name, r, g"),
        ("id,name\n1,a\nx,b\n", "column id must hold whole numbers 0 to 65535"),
        ("name,r,g,b\na,1,2,300\nb,0,0,0\n", "column b must hold whole numbers 0 to 255"),
        ("id,name\n1,a\n1,b\n", "two rows of the value of 'b'"),
        ("id,name\n1,a\n2,void\n", "fewer than two classes"),
    ],
)
def test_tables_that_say_nothing_are_refused(tmp_path, content, words):
    (tmp_path / "classes.csv").write_text(content)
    path = saved(tmp_path / "a.png", ids(1, 2))
    with pytest.raises(DataError, match=words):
        table_of(MasksConfig(labels=str(tmp_path / "classes.csv")), [path])


def test_values_beyond_the_classes_name_file_and_value(tmp_path):
    path = saved(tmp_path / "SegmentationClass/a.png", ids(0, 21))
    with pytest.raises(DataError, match=r"a\.png has the id 21, beyond the 21 classes .*up to 20"):
        classes(MasksConfig(), path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda p: saved(p, np.zeros((2, 2, 3), np.uint8)),
            r"colours \(RGB\), not ids; .*name,r,g,b",
        ),
        (lambda p: p.write_bytes(b"no picture"), "cannot be read as a mask"),
        (lambda p: saved(p, ids(0, 0)), r"hold the ids \[0\], of which 1 count"),
        (lambda p: saved(p, ids(3, 255, 0)) and p.unlink(), "cannot be read as a mask"),
    ],
)
def test_masks_that_say_nothing_are_refused(tmp_path, make, words):
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=words):
        table_of(MasksConfig(), [tmp_path / "a.png"])


def test_layouts_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match=r"masks\.labels=ade20 must be .*Did you mean 'ade20k'"):
        MasksConfig(labels="ade20")
    with pytest.raises(ConfigError, match=r"masks\.ignore"):
        MasksConfig(ignore=(-1,))
