"""Which files are pairs: lists, stereo folders, stems and frames, and a line for what is none."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.config import DataConfig
from ssl_vision.data.find import find_source
from ssl_vision.data.pairs.config import PairData
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.data.splits import NotSplitError, NoValSplitError
from ssl_vision.errors import ConfigError, DataError


def write(root: Path, *names: str, size: tuple[int, int] = (12, 10)) -> None:
    """Pictures whose level says which they are, in the order of their names here."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        level = sum(name.encode()) % 251
        Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path)


def open_pairs(path: Path, split: str = "train", **settings: object) -> PairSource:
    config: DataConfig = PairData(path=str(path), **settings)
    source = find_source(str(path), split=split, config=config)
    assert isinstance(source, PairSource)
    return source


def names_of(source: PairSource, root: Path) -> list[tuple[str, str]]:
    """Paths of the pairs, in order, from their folder."""
    return [
        tuple(str(Path(source.images.name(row)).relative_to(root)) for row in pair)
        for pair in source.pairs.tolist()
    ]


# Lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a.png sub/b.png\nc.png a.png\n",
        "a.png\tsub/b.png\r\nc.png\ta.png",
        "\n  a.png   sub/b.png  \n\nc.png a.png\n\n",
        "\ufeffa.png sub/b.png\nc.png a.png\n",
    ],
)
def test_a_list_has_two_paths_a_line_from_its_own_folder(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a.png", "sub/b.png", "c.png")
    path = tmp_path / "pairs.txt"
    path.write_bytes(text.encode())
    source = open_pairs(path)
    assert names_of(source, tmp_path) == [("a.png", "sub/b.png"), ("c.png", "a.png")]
    assert len(source.images) == 3  # an image in two pairs is one
    first, second = source.sample(0)
    assert first.shape == (10, 12, 3)
    assert (first == sum(b"a.png") % 251).all()
    assert (second == sum(b"sub/b.png") % 251).all()


def test_paths_with_blanks_are_told_apart_by_a_tab(tmp_path: Path) -> None:
    write(tmp_path, "my room.png", "other room.png")
    path = tmp_path / "pairs.tsv"
    path.write_text("my room.png\tother room.png\n")
    assert names_of(open_pairs(path), tmp_path) == [("my room.png", "other room.png")]


def test_absolute_paths_stay(tmp_path: Path) -> None:
    write(tmp_path / "data", "a.png", "b.png")
    path = tmp_path / "lists" / "pairs.txt"
    path.parent.mkdir()
    path.write_text(f"{tmp_path}/data/a.png ../data/b.png\n")
    assert open_pairs(path).sample(0).shape == (2, 10, 12, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png b.png\na.png\n", r"line 2 has 1 paths, not two \('a.png'\)"),
        ("a.png b.png c.png\n", r"line 1 has 3 paths"),
        ("a.png\t\n", r"line 1 has 2 paths"),
        ("a.png b.png\n\nb.png b.png\n", r"line 3 names 'b.png' twice"),
        ("sub/../a.png ./a.png\n", r"line 1 names 'sub/../a.png' twice"),
        ("\n\n", r"names no pairs"),
        ("x.png y.png\n", r"line 1 names 'x.png', no file there; relative paths start from .*Mend"),
        ("# my pairs\na.png b.png\n", r"line 1 has 3 paths"),
        ("a.png b.png\n# pairs\n", r"line 2 names '#', no file there"),
        ("a.png b.png\n'a.png' 'c.png'\n", r"line 2 names \"'a.png'\", no file there"),
        ("a.png b.png\na.png http://x/c.png\n", r"line 2 names 'http://x/c.png', no file there"),
        ("a.png b.png\na.png c\0.png\n", r"line 2 names 'c\\x00.png', no file there"),
        ("a.png b.png\na.png sub\n", r"line 2 names 'sub', no file there"),
        (
            "a.png b.png\n" * 60 + "a.png gone.png\nlost.png b.png\n" + "c.png a.png\n" * 60,
            r"line 61 names 'gone.png', no file there \(and 1 more\)",
        ),
    ],
)
def test_what_is_wrong_with_a_list_is_a_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "sub").mkdir()
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_pairs(path)
    assert "\n" not in str(caught.value)


def test_one_file_by_two_paths_is_no_pair(tmp_path: Path) -> None:
    write(tmp_path / "set", "a.png", "b.png")
    path = tmp_path / "set" / "pairs.txt"
    path.write_text(f"a.png b.png\n{tmp_path}/set/b.png ../set/b.png\n")
    with pytest.raises(DataError, match=r"line 2 names .* twice"):
        open_pairs(path)


@pytest.mark.parametrize("num", [3, 150])  # files are asked for, or their folder is read
def test_lines_with_missing_files_are_left_out_on_request(tmp_path: Path, num: int) -> None:
    names = [f"set/{i}.png" for i in range(num)]
    write(tmp_path, *names)
    (tmp_path / "set" / "folder.png").mkdir()
    (tmp_path / "set" / "link.png").symlink_to("0.png")
    lines = [f"{a} {b}\n" for a, b in itertools.pairwise(names)]
    bad = ["set/folder.png set/0.png\n", "set/1.png set/gone.png\n", "no/x.png set/1.png\n"]
    path = tmp_path / "pairs.txt"
    path.write_text("".join([*lines, *bad, "set/link.png set/1.png\n", lines[0]]))
    source = open_pairs(path, on_error="substitute")
    assert len(source) == num + 1
    assert names_of(source, tmp_path)[-2:] == [("set/link.png", "set/1.png"), (names[0], names[1])]
    assert [name for name, _ in source.left_out] == [
        "set/folder.png and set/0.png", "set/1.png and set/gone.png", "no/x.png and set/1.png",
    ]  # fmt: skip
    assert any("1 pairs stand there again" in note for note in source.notes)
    assert any(
        f"line {num} names 'set/folder.png', no file there (and 2 more): left out" in note
        for note in source.notes
    )


# Folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stem",
    ["my room", "zimmer ä", "部屋\u3000一", "line\nbreak", "tab\tin", "quote'\"", "-dash", "100%",
     " blank ", "a\u202eb", "x\udcff", "a_1", "_"],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["stems", "stereo"])
def test_names_may_be_odd(tmp_path: Path, stem: str, layout: str) -> None:
    made = [tmp_path / f"{n}.png" for n in "ab"]
    write(tmp_path, "a.png", "b.png")
    pair = (f"{stem}_1.png", f"{stem}_2.png")
    pair = pair if layout == "stems" else (f"left/{stem}.png", f"right/{stem}.png")
    for old, new in zip(made, pair, strict=True):
        (tmp_path / "set" / new).parent.mkdir(parents=True, exist_ok=True)
        old.rename(tmp_path / "set" / new)
    source = open_pairs(tmp_path / "set")
    assert names_of(source, tmp_path / "set") == [pair]
    assert source.sample(0).shape == (2, 10, 12, 3)


def test_folders_named_like_images_are_folders(tmp_path: Path) -> None:
    write(tmp_path, "a_1.png", "a_2.png", "b_1.png/c_1.png", "b_1.png/c_2.png")
    (tmp_path / "d_1.png").mkdir()
    pairs = [("a_1.png", "a_2.png"), ("b_1.png/c_1.png", "b_1.png/c_2.png")]
    assert sorted(names_of(open_pairs(tmp_path), tmp_path)) == pairs
    write(tmp_path, "d_2.png")
    with pytest.raises(DataError, match=r"'d_2.png' without partner"):
        open_pairs(tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1)])
def test_images_of_a_pixel_are_pairs(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path, "a_1.png", "a_2.png", size=size)
    assert open_pairs(tmp_path).sample(0).shape == (2, size[1], size[0], 3)


def test_stems_are_paired_in_their_own_folder(tmp_path: Path) -> None:
    write(
        tmp_path, "x_1.png", "x_2.png", "rooms/x_1.png", "rooms/x_2.jpg", "a_b_1.png", "a_b_2.png"
    )
    source = open_pairs(tmp_path)
    assert sorted(names_of(source, tmp_path)) == [
        ("a_b_1.png", "a_b_2.png"), ("rooms/x_1.png", "rooms/x_2.jpg"), ("x_1.png", "x_2.png"),
    ]  # fmt: skip
    assert "3 pairs, STEM_1 and STEM_2" in source.notes[-1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("left/0001.png", "right/0001.png"),
        ("scene/Left/a.png", "scene/Right/a.png"),
        ("training/image_2/000000_10.png", "training/image_3/000000_10.png"),
        ("cleanpass/TRAIN/A/left/0006.png", "cleanpass/TRAIN/A/right/0006.png"),
        ("artroom/im0.png", "artroom/im1.png"),
        ("artroom/left.png", "artroom/right.png"),
    ],
)
def test_stereo_pairs_differ_in_one_part_of_their_path(
    tmp_path: Path, first: str, second: str
) -> None:
    root = tmp_path / "data"
    others = [name.replace("000", "777").replace("a.png", "b.png").replace("artroom", "zoo")
              for name in (first, second)]  # fmt: skip
    write(root, first, second, *others)
    source = open_pairs(root)
    assert sorted(names_of(source, root)) == sorted({(first, second), tuple(others)})
    assert "of stereo cameras" in source.notes[-1]


def test_frames_are_paired_at_a_distance_within_their_video(tmp_path: Path) -> None:
    write(tmp_path, *(f"a/frame{i}.png" for i in range(8, 13)), "b/f001.png", "b/f002.png")
    source = open_pairs(tmp_path, frame_distance=2)
    expected = [(f"a/frame{i}.png", f"a/frame{i + 2}.png") for i in (8, 9, 10)]
    assert names_of(source, tmp_path) == expected
    assert any("frames of 2 videos, 2 apart" in note for note in source.notes)
    assert any("'b/f001.png' (and 1 more) not read" in note for note in source.notes)
    with pytest.raises(DataError, match=r"longest video in .* has 5 frames"):
        open_pairs(tmp_path, frame_distance=5)
    with pytest.raises(ConfigError, match=r"data\.frame_distance=0"):
        open_pairs(tmp_path, frame_distance=0)


def test_frames_of_one_stem_are_not_taken_for_a_pair(tmp_path: Path) -> None:
    write(tmp_path, *(f"frame_{i}.png" for i in range(1, 5)))
    with pytest.raises(DataError, match=r"frame_3.png' beside frame_1 and frame_2.*frame_dist"):
        open_pairs(tmp_path)
    assert len(open_pairs(tmp_path, frame_distance=1)) == 3


@pytest.mark.parametrize("alone", ["b_1.png", "b_2.png", "deep/b_1.png"])
def test_a_missing_partner_is_named_or_left_out(tmp_path: Path, alone: str) -> None:
    write(tmp_path, "a_1.png", "a_2.png", alone)
    with pytest.raises(DataError, match=rf"'{alone}' without partner"):
        open_pairs(tmp_path)
    source = open_pairs(tmp_path, on_error="substitute")
    assert names_of(source, tmp_path) == [("a_1.png", "a_2.png")]
    assert any(f"'{alone}' without partner left out" in note for note in source.notes)


@pytest.mark.parametrize("alone", ["left/2.png", "right/2.png"])
def test_a_missing_side_is_named(tmp_path: Path, alone: str) -> None:
    write(tmp_path, "left/1.png", "right/1.png", alone)
    with pytest.raises(DataError, match=rf"'{alone}' without partner"):
        open_pairs(tmp_path)


def test_two_files_for_one_place_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a_1.png", "a_1.jpg", "a_2.png")
    with pytest.raises(DataError, match="one of them is one too many"):
        open_pairs(tmp_path)


def test_images_of_no_pair_are_told(tmp_path: Path) -> None:
    write(tmp_path, "a_1.png", "a_2.png", "cover.png", "depth/a.png")
    assert any(
        "'cover.png' (and 1 more) not read: of no pair" in n for n in open_pairs(tmp_path).notes
    )


def test_a_folder_without_pairs_says_what_would_be_one(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(DataError, match=r"3 images and no pairs.*data\.frame_distance"):
        open_pairs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image files"):
        open_pairs(tmp_path / "empty")


# Splits ----------------------------------------------------------------------------------


def test_splits_are_folders_or_lists(tmp_path: Path) -> None:
    write(tmp_path, "train/a_1.png", "train/a_2.png", "val/b_1.png", "val/b_2.png")
    assert names_of(open_pairs(tmp_path, "val"), tmp_path) == [("val/b_1.png", "val/b_2.png")]
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, stem in (("train", "a"), ("val", "b")):
        line = f"../{split}/{stem}_1.png ../{split}/{stem}_2.png\n"
        (lists / f"{split}.txt").write_text(line)
    assert (open_pairs(lists, "val").sample(0) == open_pairs(tmp_path, "val").sample(0)).all()
    with pytest.raises(NotSplitError):
        open_pairs(lists / "train.txt", "val")
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(NoValSplitError):
        open_pairs(tmp_path, "val")


def test_what_is_no_place_of_pairs_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; give a list of pairs.*blocks"):
        open_pairs(tmp_path / "nothing")
    write(tmp_path, "a.png")
    with pytest.raises(DataError, match="a single image is no pair"):
        open_pairs(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="pairs are given as a path"):
        find_source(["a.png"], split="train", config=PairData(path="x"))
