"""Packed pairs: the batches of the folder bit for bit, exact restarts, and a line for bad ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.commands.prepare import prepare
from ssl_vision.data.images.beton import BetonSource
from ssl_vision.data.images.find import build_source
from ssl_vision.data.module import DataModule
from ssl_vision.data.pairs.config import PairData, PairViewConfig
from ssl_vision.data.pairs.packed import table_path
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.views import JitterConfig
from tests.data.conftest import picture

CROP = {"size_px": 16, "crop_area": (0.3, 0.8), "flip_prob": 0.0, "jitter": JitterConfig()}
NUM = 9


def save(path: Path, seed: int, size: tuple[int, int] = (40, 52)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, *size).save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))


@pytest.fixture
def pairs_of(tmp_path: Path):
    """Makes pairs of a layout; what to give as data.path, and settings of it."""

    def make(layout: str, suffix: str = "jpg") -> tuple[Path, dict[str, object]]:
        root = tmp_path / layout
        names = {
            "stems": lambda i, side: f"room {i % 2}/r{i}_{side + 1}.{suffix}",
            "stereo": lambda i, side: f"{('left', 'right')[side]}/{i}.{suffix}",
            "list": lambda i, side: f"{i}/ä {side}.{suffix}",
            "frames": lambda i, side: f"video/{2 * i + side}.{suffix}",
        }[layout]
        for i in range(NUM):
            for side in (0, 1):
                save(root / names(i, side), seed=2 * i + side, size=(30 + i, 60 - i)
                     if layout != "frames" else (40, 52))  # fmt: skip
        if layout != "list":
            return root, {"frame_distance": 3} if layout == "frames" else {}
        lines = [f"{names(i, 0)}\t{names(i, 1)}\n" for i in range(NUM)]
        (root / "pairs.txt").write_text("".join(lines))
        return root / "pairs.txt", {}

    return make


def data(path: Path, **settings: object) -> DataModule:
    views = {"first": PairViewConfig(**CROP), "second": PairViewConfig(**CROP)}
    config = PairData(path=str(path), views=views, global_batch_size=4, num_threads=2, **settings)
    return DataModule(config, seed=5)


def equal(ours, theirs) -> bool:
    same = torch.equal(ours.index, theirs.index) and ours.views.keys() == theirs.views.keys()
    return same and all(torch.equal(ours.views[name], theirs.views[name]) for name in ours.views)


@pytest.mark.parametrize(
    ("layout", "suffix", "mode"),
    [("stems", "jpg", "keep"), ("stereo", "png", "raw"), ("list", "jpg", "raw"),
     ("frames", "jpg", "keep"), ("frames", "png", "raw")],
)  # fmt: skip
def test_batches_are_those_of_the_files(pairs_of, tmp_path, layout, suffix, mode) -> None:
    path, settings = pairs_of(layout, suffix)
    report = prepare(path, tmp_path / "out.beton", modality="pairs", mode=mode, **settings)
    plain, packed = data(path, **settings), data(tmp_path / "out.beton")
    assert report.num_pairs == len(plain.train_source) == len(packed.train_source)
    assert report.num_samples == 2 * NUM  # each image once, however many pairs it is in
    for _ in range(2):
        batches = list(zip(plain.train_loader(), packed.train_loader(), strict=True))
        assert batches
        assert all(equal(ours, theirs) for ours, theirs in batches)


def test_a_restart_in_packed_pairs_goes_on_with_the_next_batch(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("stems")
    prepare(path, tmp_path / "out.beton", modality="pairs")
    whole = list(data(tmp_path / "out.beton").train_loader())
    broken = data(tmp_path / "out.beton").train_loader()
    taken = iter(broken)
    next(taken)
    state = broken.state_dict()
    taken.close()
    resumed = data(tmp_path / "out.beton").train_loader()
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(whole) - 1 > 0
    assert all(equal(ours, theirs) for ours, theirs in zip(rest, whole[1:], strict=True))


def test_names_and_fingerprint_tell_images_and_pairing(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("list")
    prepare(path, tmp_path / "a.beton", modality="pairs")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    prepare(path, tmp_path / "b.beton", modality="pairs")
    found = [data(tmp_path / name).train_source for name in ("a.beton", "b.beton")]
    assert found[0].name(0).count("0/ä 0.jpg") == found[0].name(0).count("0/ä 1.jpg") == 1
    assert found[0].fingerprint() != found[1].fingerprint()
    np.testing.assert_array_equal(found[0].sample(0), found[1].sample(NUM - 1))


def test_a_reader_of_images_takes_the_images(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("stereo")
    prepare(path, tmp_path / "out.beton", modality="pairs")
    assert len(build_source(str(tmp_path / "out.beton"))) == 2 * NUM


@pytest.mark.parametrize("name", ["blocks", "folder"])
def test_splits_and_built_in_pairs_are_packed(pairs_of, tmp_path, name) -> None:
    if name == "blocks":
        report = prepare("blocks", tmp_path / "val.beton", modality="pairs", split="val")
        assert report.num_pairs == 200
        return
    root, _ = pairs_of("stems")
    (tmp_path / "set").mkdir()
    for split in ("train", "val"):
        prepare(root, tmp_path / "set" / f"{split}.beton", modality="pairs")
    found = data(tmp_path / "set")
    assert len(found.train_source) == NUM
    assert found.modality.open(str(tmp_path / "set"), split="val", config=found.config).name(0)


# Bad pairs -------------------------------------------------------------------------------


def bad_folder(root: Path) -> dict[str, str]:
    """Three good pairs and one of each kind of bad one: name of its first image -> the reason."""
    for i in range(3):
        save(root / f"good{i}_1.png", 2 * i)
        save(root / f"good{i}_2.png", 2 * i + 1)
    save(root / "size_1.png", 10)
    save(root / "size_2.png", 11, size=(52, 40))
    save(root / "same_1.png", 12)
    (root / "same_2.png").write_bytes((root / "same_1.png").read_bytes())
    save(root / "twin_1.png", 13)
    Image.open(root / "twin_1.png").save(root / "twin_2.png", compress_level=0)
    save(root / "cut_1.png", 14)
    (root / "cut_2.png").write_bytes((root / "cut_1.png").read_bytes()[:90])
    save(root / "lone_1.png", 15)
    return {"size_1": "of 52 x 40 and 40 x 52 px", "same_1": "same picture twice",
            "twin_1": "same picture twice", "cut_1": "cut_2.png: ",
            "lone_1": "without partner"}  # fmt: skip


def test_bad_pairs_are_listed_and_are_in_no_file(tmp_path: Path) -> None:
    expected = bad_folder(tmp_path / "in")
    target = tmp_path / "out.beton"
    with pytest.raises(DataError, match=r"5 of 8 samples are bad.*max_bad_fraction=0\.01"):
        prepare(tmp_path / "in", target, modality="pairs")
    assert not target.exists()
    report = prepare(tmp_path / "in", target, modality="pairs", mode="raw", max_bad_fraction=0.7)
    assert (report.num_pairs, report.num_samples, len(report.bad)) == (3, 6, 5)
    lines = Path(f"{target}.bad").read_text().splitlines()
    for name, reason in expected.items():
        (line,) = (line for line in lines if f"/{name}.png" in line.partition("\t")[0])
        assert reason in line.partition("\t")[2]
    source = data(target).train_source
    assert sorted(Path(source.name(i).split(" = ")[1].split(" and ")[0]).stem
                  for i in range(3)) == ["good0_1", "good1_1", "good2_1"]  # fmt: skip
    for i in (1, 2):
        for name in ("size", "same", "twin", "cut", "lone"):
            (tmp_path / "in" / f"{name}_{i}.png").unlink(missing_ok=True)
    prepare(tmp_path / "in", target, modality="pairs", overwrite=True)
    assert not Path(f"{target}.bad").exists()


def test_lines_of_missing_files_are_bad_pairs(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("list")
    path.write_text(path.read_text() + "gone.jpg\t0/ä 1.jpg\n")
    with pytest.raises(DataError, match=r"1 of 10 samples are bad.*no such file"):
        prepare(path, tmp_path / "out.beton", modality="pairs")
    report = prepare(path, tmp_path / "out.beton", modality="pairs", max_bad_fraction=0.1)
    assert report.num_pairs == NUM
    path.write_text("gone.jpg lost.jpg\n")
    with pytest.raises(DataError, match=r"'gone.jpg', no file there.*Mend it\.$"):
        prepare(path, tmp_path / "b.beton", modality="pairs")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds images and no pairs of them.*modality=pairs"),
        ("[", "no usable JSON"),
        ('{"pairs": [[0, 1]]}', "belongs to another"),
        ('{"pairs": []}', "no list `pairs` of two images each, numbered below 18"),
        ('{"pairs": [[0, 18]]}', "damaged"),
        ('{"pairs": [[0, -1]]}', "damaged"),
        ('{"pairs": [[4, 4]]}', "damaged"),
        ('{"pairs": [[0, 1], [2]]}', "damaged"),
        ('{"pairs": [[0.0, 1.0]]}', "damaged"),
        ('{"pairs": [[0, 1e400]]}', "damaged"),
        ('{"pairs": [[0, 99999999999999999999]]}', "damaged"),
        ('{"pairs": "01"}', "damaged"),
        ("[[0, 1]]", "damaged"),
    ],
)
def test_a_table_that_cannot_be_meant_is_a_line(pairs_of, tmp_path, content, words) -> None:
    path, _ = pairs_of("stereo")
    target = tmp_path / "out.beton"
    prepare(path, target, modality="pairs")
    table_path(target).unlink() if content is None else table_path(target).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        data(target)
    assert "\n" not in str(caught.value)


def test_a_table_of_another_file_is_refused(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("stereo")
    target = tmp_path / "out.beton"
    prepare(path, target, modality="pairs")
    prepare(path, target, modality="images", overwrite=True, mode="raw")
    assert json.loads(table_path(target).read_text())["pairs"]
    with pytest.raises(DataError, match="belongs to another"):
        data(target)


def test_what_is_not_said_to_be_pairs_is_told(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("list")
    with pytest.raises(DataError, match=r"A list of pairs is .* prepare with modality=pairs"):
        prepare(path, tmp_path / "out.beton")
    with pytest.raises(ConfigError, match="frame_distance=2 is of pairs"):
        prepare(path.parent, tmp_path / "out.beton", frame_distance=2)
    (tmp_path / "lone").mkdir()
    save(tmp_path / "lone" / "a.png", 0)
    with pytest.raises(DataError, match=r"1 images and no pairs.* or frame_distance=5"):
        prepare(tmp_path / "lone", tmp_path / "out.beton", modality="pairs")
    assert not list(tmp_path.glob("*.beton"))


def test_the_target_and_the_disk_are_asked_before_pairs_are_read(pairs_of, tmp_path) -> None:
    path, _ = pairs_of("stems")
    (tmp_path / "out.beton").write_text("precious")
    with pytest.raises(DataError, match="overwrite=true"):
        prepare(path, tmp_path / "out.beton", modality="pairs")
    with pytest.raises(ConfigError, match=r"end with \.beton"):
        prepare(path, tmp_path / "out.bin", modality="pairs")
    assert (tmp_path / "out.beton").read_text() == "precious"


def test_packing_the_same_twice_gives_the_same_file(pairs_of, tmp_path) -> None:
    path, settings = pairs_of("frames")
    for name, threads in (("a", 1), ("b", 3)):
        prepare(path, tmp_path / f"{name}.beton", modality="pairs", num_threads=threads, **settings)
    for suffix in ("", ".pairs"):
        ours, theirs = (Path(f"{tmp_path}/{name}.beton{suffix}").read_bytes() for name in "ab")
        assert ours == theirs
    assert isinstance(data(tmp_path / "a.beton").train_source, PairSource)
    assert BetonSource(tmp_path / "a.beton").labels is None
