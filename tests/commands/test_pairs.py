"""Lists of pairs out of folders, and that training reads them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.commands.main import main
from ssl_vision.commands.pairs import run_pairs
from ssl_vision.data.find import find_source
from ssl_vision.data.pairs.config import PairData
from ssl_vision.data.pairs.make import PairsConfig, make_pairs
from ssl_vision.data.pairs.posed import overlap, read_frames, seen_by
from ssl_vision.errors import CheckpointError, ConfigError, DataError
from tests.data.pairs.test_matched import photo
from tests.data.pairs.test_posed import write_scene


def test_renders_are_paired_by_depth_and_poses(tmp_path: Path, capsys) -> None:
    root = tmp_path / "renders"
    root.mkdir()
    write_scene(root, 0)
    out = tmp_path / "lists" / "pairs.txt"
    assert run_pairs([str(root), str(out), "min_overlap=0.2", "distance_m=0.2"]) == 0
    assert out.read_text() == "../renders/0.png\t../renders/1.png\n"
    assert "1 of 1 pairs kept (100%) by depth and poses, median overlap" in capsys.readouterr().out
    source = find_source(str(out), split="train", config=PairData(path=str(out)))
    assert source.sample(0).shape == (2, 32, 32, 3)


def test_thresholds_decide_and_their_reasons_are_counted(tmp_path: Path) -> None:
    write_scene(tmp_path, 0)
    first, second = (seen_by(f, tmp_path, depth_scale=1.0) for f in read_frames(tmp_path))
    share = overlap(first, second, distance_m=0.05)
    for config, reason in (
        (PairsConfig(min_overlap=share - 0.01), ""),
        (PairsConfig(min_overlap=share + 0.01), f"overlap below {share + 0.01:g}"),
        (PairsConfig(min_overlap=0.0, max_overlap=share - 0.01), f"overlap above {share - 0.01:g}"),
    ):
        made = make_pairs(tmp_path, config, progress=lambda done, of: None)
        assert dict(made.left_out) == ({reason: 1} if reason else {})
        assert [each[:2] for each in made.pairs] == ([] if reason else [("0.png", "1.png")])
    depth = np.load(tmp_path / "d1.npy")
    depth[:16] = 0
    np.save(tmp_path / "d1.npy", depth)
    made = make_pairs(tmp_path, PairsConfig(min_overlap=0.0), progress=lambda done, of: None)
    assert dict(made.left_out) == {"depth in less than 70% of the pixels": 1}


def test_photos_are_paired_by_what_they_show(tmp_path: Path, capsys) -> None:
    pytest.importorskip("cv2")
    root = tmp_path / "photos"
    root.mkdir()
    for scene in (0, 1):
        for number, left in enumerate((0, 60, 100)):
            crop = photo(scene).crop((left, 0, left + 300, 300))
            crop.save(root / f"{number}{'ab'[scene]}.png")
    photo(0).crop((0, 0, 260, 300)).save(root / "narrow.png")
    out = tmp_path / "pairs.txt"
    assert main(["pairs", str(root), str(out), "min_overlap=0.4"]) == 0
    found = {tuple(sorted(Path(p).stem for p in line.split("\t"))) 
             for line in out.read_text().splitlines()}  # fmt: skip
    assert found == {
        (f"{i}{s}", f"{j}{s}") for s in "ab" for i in range(3) for j in range(i + 1, 3)
    }
    told = capsys.readouterr().out
    assert "6 of 21 pairs kept (29%) by local features" in told
    assert "6 unequal sizes" in told
    assert "9 fewer than 30 matches" in told


@pytest.mark.parametrize("window", [1, 2, 3, 9, None])
def test_a_window_tries_neighbours_only(tmp_path: Path, window: int | None) -> None:
    pytest.importorskip("cv2")
    for number in range(5):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
    asked: list[tuple[int, int]] = []
    config = PairsConfig(window=window)
    made = make_pairs(tmp_path, config, progress=lambda done, of: asked.append((done, of)))
    num = sum(1 for i in range(5) for j in range(i + 1, 5) if window is None or j - i <= window)
    assert made.num_tried == num
    assert asked == [(done, num) for done in range(1, num + 1)]


def test_mistakes_are_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"OUT .* must be a list of pairs"):
        run_pairs([str(tmp_path), str(tmp_path / "pairs.csv")])
    with pytest.raises(DataError, match="is no folder"):
        run_pairs([str(tmp_path / "gone"), str(tmp_path / "pairs.txt")])
    with pytest.raises(DataError, match="holds no image files"):
        run_pairs([str(tmp_path), str(tmp_path / "pairs.txt")])
    with pytest.raises(ConfigError, match="min_overlap=2"):
        run_pairs([str(tmp_path), str(tmp_path / "pairs.txt"), "min_overlap=2"])
    write_scene(tmp_path, 0)
    with pytest.raises(DataError, match=r"no pairs. 0 of 1 pairs kept \(0%\).*overlap below 1"):
        run_pairs([str(tmp_path), str(tmp_path / "pairs.txt"), "min_overlap=1"])
    assert not (tmp_path / "pairs.txt").exists()
    (tmp_path / "d1.npy").unlink()
    with pytest.raises(DataError, match=r"1 image cannot be read; the first: .*d1\.npy cannot be"):
        run_pairs([str(tmp_path), str(tmp_path / "pairs.txt")])


def test_one_broken_photo_does_not_cost_the_others(tmp_path: Path, capsys) -> None:
    pytest.importorskip("cv2")
    root = tmp_path / "photos"
    root.mkdir()
    for number, left in enumerate((0, 40, 80)):
        photo(0).crop((left, 0, left + 300, 300)).save(root / f"{number}.png")
    (root / "1.png").write_bytes((root / "1.png").read_bytes()[:300])
    assert run_pairs([str(root), str(tmp_path / "pairs.txt"), "min_overlap=0.4"]) == 0
    assert (tmp_path / "pairs.txt").read_text() == "photos/0.png\tphotos/2.png\n"
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 pairs kept" in told
    assert "2 of an image that cannot be read" in told
    assert "1 image cannot be read; the first: 1.png: " in told


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\rb", " a", "x\udcff"])
def test_names_that_no_list_can_hold_are_told_before_work(tmp_path: Path, name: str) -> None:
    pytest.importorskip("cv2")
    root = tmp_path / "photos"
    root.mkdir()
    for each in ("0", name):
        Image.new("RGB", (20, 20)).save(tmp_path / "made.png")
        (tmp_path / "made.png").rename(root / f"{each}.png")
    asked: list[int] = []
    with pytest.raises(DataError, match="Rename it") as caught:
        make_pairs(root, PairsConfig(), progress=lambda done, of: asked.append(done))
    assert not asked
    assert str(caught.value).isprintable()
    root.rename(tmp_path / f"{name} ")
    with pytest.raises(ConfigError, match=r"SOURCE .*: a list of pairs holds no names"):
        run_pairs([str(tmp_path / f"{name} "), str(tmp_path / "pairs.txt")])


def test_a_place_that_cannot_be_written_is_told_before_work(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "file").touch()
    (tmp_path / "out.txt").mkdir()
    with pytest.raises(ConfigError, match=r"OUT .*out.txt is a folder"):
        run_pairs([str(tmp_path / "photos"), str(tmp_path / "out.txt")])
    with pytest.raises(CheckpointError, match=r"is a file\); give another OUT\."):
        run_pairs([str(tmp_path / "photos"), str(tmp_path / "file" / "pairs.txt")])
