"""The tasks on masks, whole: colours that say the class, baselines, layouts, mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.report import load_evaluation
from ssl_vision.tasks.evaluate import evaluate
from ssl_vision.tasks.run import EvalRun
from tests.tasks.dense_images import WEIGHTS, quarter_images

QUICK = {"segment": {"updates": 300, "lr": 0.01}}
TASKS = ["segment", "dense_knn"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, (split, num) in enumerate({"train": 24, "val": 8}.items()):
        quarter_images(tmp_path / "KIND" / split, num=num, seed=seed)
    return tmp_path


def scored(root: Path, tasks=("segment",), weights=WEIGHTS, **settings):
    asked = {"data": str(root / "images"), "masks.path": str(root / "masks"), **QUICK, **settings}
    return evaluate(weights, tasks=list(tasks), out=root / "out", **asked)


def values(result) -> dict[str, float]:
    return {each.name: each.value for each in result.measurements}


def test_an_untrained_network_solves_classes_that_are_colours(root):
    found = scored(root, TASKS, baselines=True)
    for task in TASKS:
        measured = values(found[task])
        assert found[task].headline == "mIoU"
        assert measured["mIoU"] > 0.85
        assert measured["mIoU of raw pixels"] > 0.85
        assert measured["mIoU of the untrained network"] > 0.85
        assert measured["pixel accuracy"] > 0.9
        assert measured["mIoU of the majority class"] < 0.2
        main = found[task].main
        assert main.interval.low <= main.value <= main.interval.high
        assert found[task].protocol.endswith("-whole32/1")
    rows = found["segment"].details["classes"]
    assert [row["name"] for row in rows] == ["0", "1", "2"]
    assert np.mean([row["iou"] for row in rows]) == pytest.approx(found["segment"].main.value)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    page = (root / "out/report.html").read_text()
    assert page.count("data:image/png") >= 2 * 2 * 6
    assert load_evaluation(root / "out")["segment"].main.value == found["segment"].main.value
    again = scored(root, TASKS)
    assert [again[t].main for t in TASKS] == [found[t].main for t in TASKS]


def test_labels_drawn_anew_are_not_found(root):
    rng = np.random.default_rng(0)
    for path in sorted((root / "masks").rglob("*.png")):
        mask = np.asarray(Image.open(path))
        Image.fromarray(rng.permutation(3)[mask].astype(np.uint8)).save(path)
    found = scored(root, TASKS)
    assert values(found["segment"])["mIoU"] < 0.45
    assert values(found["dense_knn"])["mIoU"] < 0.45


class Map(nn.Module):
    """Colours, averaged to a map of 8 x 8."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 8)


class Wide(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, (3, 4))


class Vector(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


TRANSFORM = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.mark.parametrize(
    "weights", ["timm:resnet10t?pretrained=false", "timm:convnext_atto?pretrained=false", Map()]
)
def test_every_network_with_a_map_is_scored(root, weights):
    more = {"transform": TRANSFORM} if isinstance(weights, nn.Module) else {"data.size_px": 128}
    found = scored(root, TASKS, weights, cache={"mode": "off"}, **more)
    assert values(found["segment"])["mIoU"] > 0.5
    assert values(found["dense_knn"])["mIoU"] > 0.5


@pytest.mark.parametrize(
    ("weights", "words"),
    [(Vector(), "needs a network with a square map.* gives 0 patches"), (Wide(), "gives 12 patch")],
)
def test_a_network_without_a_map_is_refused(root, monkeypatch, weights, words):
    monkeypatch.setattr(EvalRun, "prepare", None)
    with pytest.raises(ConfigError, match=words):
        scored(root, weights=weights, transform=TRANSFORM)


def broken(root: Path, kind: str) -> dict[str, object]:
    mask = root / "masks/val/3.png"
    size = Image.open(mask).size
    if kind == "missing":
        mask.unlink()
    elif kind == "size":
        Image.new("L", (size[0] + 1, size[1])).save(mask)
    elif kind == "beyond":
        Image.new("L", size, 9).save(mask)
    elif kind == "colours":
        Image.new("RGB", size).save(root / "masks/train/0.png")
        pixels = Image.open(root / "images/train/0.png").size
        Image.new("RGB", pixels).save(root / "masks/train/0.png")
    elif kind == "ignored":
        for path in (root / "masks/val").iterdir():
            Image.new("L", Image.open(path).size, 255).save(path)
    return {}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", r"images/val/3\.png has no mask in .*masks: looked for 3\.png"),
        ("size", r"masks/val/3\.png has \d+x\d+ pixels, its image .*val/3\.png \d+x"),
        ("beyond", r"masks/val/3\.png has the id 9, beyond the 3 classes"),
        ("colours", r"masks/train/0\.png has colours \(RGB\), not ids"),
        ("ignored", "no pixel of the test masks has a class"),
    ],
)
def test_masks_that_cannot_be_used_are_one_line(root, kind, words):
    broken(root, kind)
    with pytest.raises(DataError, match=words) as caught:
        scored(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"masks.path": None}, r"tasks=segment needs masks\.path=FOLDER"),
        ({"masks.path": "gone"}, r"masks\.path='?gone'? is not a folder"),
        ({"segment.updates": 0}, r"segment\.updates=0"),
    ],
)
def test_settings_that_cannot_be_are_one_line(root, settings, words):
    with pytest.raises((ConfigError, DataError), match=words):
        scored(root, **settings)


def test_images_without_files_of_their_own_are_refused(root):
    with pytest.raises(DataError, match="no files of their own, so that no mask can be found"):
        scored(root, data={"path": "digits", "size_px": 32})


def test_an_image_that_cannot_be_read_leaves_its_mask_out(root):
    (root / "images/val/3.png").write_bytes(b"nothing")
    (root / "images/train/5.png").write_bytes(b"nothing")
    data = {"path": str(root / "images"), "on_error": "substitute"}
    found = scored(root, TASKS, data=data, baselines=True)
    for task in TASKS:
        details = found[task].details
        assert (details["num_train"], details["num_test"]) == (23, 7)
        assert values(found[task])["mIoU"] > 0.85
    assert len(found.data["unreadable"]) == 2


def test_vocs_layout_is_read_as_it_is(tmp_path):
    voc = tmp_path / "VOC2012"
    quarter_images(tmp_path / "KIND", num=12, seed=0, names="2007_{:06d}")
    shutil.copytree(tmp_path / "images", voc / "JPEGImages")
    shutil.copytree(tmp_path / "masks", voc / "SegmentationClass")
    for path in (voc / "SegmentationClass").iterdir():
        mask = Image.open(path).convert("P")
        mask.putdata([255 if value == 0 else value for value in np.asarray(mask).flat])
        mask.putpalette(list(range(256)) * 3)
        mask.save(path)
    Image.new("RGB", (9, 9)).save(voc / "JPEGImages/2008_000001.png")  # has no mask
    lists = voc / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(12)]
    (lists / "train.txt").write_text("\n".join(names[:8]))
    (lists / "val.txt").write_text("\n".join(names[8:]) + "\n")
    found = evaluate(
        WEIGHTS,
        tasks=["segment"],
        data=voc / "JPEGImages",
        out=tmp_path / "out",
        **{"masks.path": str(voc / "SegmentationClass"), **QUICK},
    )["segment"]
    assert (found.details["num_train"], found.details["num_test"]) == (8, 4)
    assert found.details["labels"] == "voc"
    assert [row["name"] for row in found.details["classes"]][:3] == [
        "background", "aeroplane", "bicycle"
    ]  # fmt: skip
    assert found.details["classes"][0]["share"] == 0
    assert found.main.value > 0.8


def test_without_test_images_a_fifth_is_held_out(tmp_path, capsys):
    quarter_images(tmp_path / "KIND", num=20, seed=0)
    found = evaluate(
        WEIGHTS,
        tasks=["segment"],
        data=tmp_path / "images",
        out=tmp_path / "out",
        is_quiet=False,
        **{"masks.path": str(tmp_path / "masks"), **QUICK},
    )["segment"]
    assert (found.details["num_train"], found.details["num_test"]) == (16, 4)
    said = " ".join(capsys.readouterr().err.split())
    assert "4 of 20 images, a fixed fifth, are held out" in said
    assert "masks are read as ids (3 classes)" in said


def test_lists_choose_images_and_one_alone_is_refused(tmp_path):
    quarter_images(tmp_path / "KIND", num=20, seed=0)
    settings = {"data": tmp_path / "images", "masks.path": str(tmp_path / "masks"), **QUICK}
    for name, rows in (("train", range(8)), ("val", range(7, 12))):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i}.png\n" for i in rows))
    listed = {f"masks.{name}_list": str(tmp_path / f"{name}.txt") for name in ("train", "val")}
    found = evaluate(WEIGHTS, tasks=["segment"], out=tmp_path / "out", **settings, **listed)
    details = found["segment"].details
    assert (details["num_train"], details["num_test"]) == (8, 5)
    assert any("1 test images are training images" in w for w in found["segment"].warnings)
    del listed["masks.val_list"]
    with pytest.raises(ConfigError, match=r"give masks\.val_list, too"):
        evaluate(WEIGHTS, tasks=["segment"], out=tmp_path / "out", **settings, **listed)


def test_classes_without_training_pixels_are_named(root):
    for path in (root / "masks/train").iterdir():
        mask = np.asarray(Image.open(path)).copy()
        mask[mask == 1] = 255
        Image.fromarray(mask).save(path)
    found = scored(root, TASKS)
    for task in TASKS:
        assert "no training pixels of 1, which the test masks have." in found[task].warnings
    assert found["dense_knn"].details["classes"][1]["iou"] == 0
    assert json.dumps(found.to_json())
