"""The task `depth`, whole: colours that say the depth, baselines, scales, mistakes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.tasks.evaluate import evaluate
from tests.tasks.dense_images import WEIGHTS, quarter_images

METRES = np.array([1.0, 2.5, 6.0])
QUICK = {"depth.updates": 300, "depth.lr": 0.02, "depth.bins": 32}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, (split, num) in enumerate({"train": 24, "val": 8}.items()):
        masks = quarter_images(tmp_path / "KIND" / split, num=num, seed=seed)
        (tmp_path / "depth" / split).mkdir(parents=True)
        for i, mask in enumerate(masks):
            depth = METRES[mask].astype(np.float32)
            depth[:3] = 0
            np.save(tmp_path / f"depth/{split}/{i}.npy", depth)
    return tmp_path


def scored(root: Path, **settings):
    asked = {"data": root / "images", "depth.path": str(root / "depth"), **QUICK, **settings}
    return evaluate(WEIGHTS, tasks=["depth"], out=root / "out", **asked)["depth"]


def values(result) -> dict[str, float]:
    return {each.name: each.value for each in result.measurements}


def test_an_untrained_network_solves_depth_that_colours_say(root):
    found = scored(root, baselines=True)
    measured = values(found)
    assert found.headline == "delta1"
    assert found.protocol == "depth-linear-u300-lr0.02-6m-whole32/1"
    assert measured["delta1"] > 0.7
    assert measured["RMSE"] < 1.2
    assert measured["absolute relative error"] < 0.3
    assert measured["delta1 of raw pixels"] > 0.7
    assert measured["delta1 of the untrained network"] > 0.7
    assert measured["delta1 of one depth"] < 0.5
    assert found.details["range_m"] == pytest.approx([0.001, 6.0])
    assert not found.warnings or all("not better than" in line for line in found.warnings)
    assert (root / "out/report.html").read_text().count("data:image/png") == 2 * 6


def test_pictures_of_16_bits_say_the_same_by_their_scale(root, capsys):
    before = values(scored(root))
    for file in sorted((root / "depth").rglob("*.npy")):
        units = np.round(np.load(file) * 200).astype(np.uint16)
        Image.fromarray(units).save(file.with_suffix(".png"))
        file.unlink()
    after = values(scored(root, is_quiet=False, **{"depth.scale": 0.005}))
    assert after["RMSE"] == pytest.approx(before["RMSE"], rel=0.02)
    said = " ".join(capsys.readouterr().err.split())
    assert "whole numbers of depth are 0.005 m (depth.scale)" in said
    assert "depths of 0.001 to 6 m count" in said


def test_the_dpt_head_reads_several_blocks(root):
    found = scored(root, **{"depth.head": "dpt", "depth.lr": 0.005, "depth.updates": 60})
    assert found.protocol.startswith("depth-dpt-u60-")
    assert values(found)["delta1"] > values(found)["delta1 of one depth"]


def test_a_largest_depth_leaves_pixels_out(root):
    found = scored(root, **{"depth.max_m": 3.0})
    assert found.details["range_m"] == [0.001, 3.0]
    assert values(found)["RMSE"] < 1


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: np.save(d / "val/3.npy", np.zeros_like(np.load(d / "val/3.npy"))), "no depth"),
        (lambda d: np.save(d / "val/3.npy", np.ones((5, 6))), r"3\.npy has 6x5 pixels, its image"),
        (lambda d: (d / "val/3.npy").unlink(), r"val/3\.png has no depth map in .*: looked for"),
        (lambda d: (d / "val/3.npy").write_bytes(b"x"), r"3\.npy cannot be read as depth"),
    ],
)
def test_depth_that_cannot_be_used_is_one_line(root, break_it, words):
    break_it(root / "depth")
    with pytest.raises(DataError, match=words) as caught:
        scored(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth.path": None}, r"tasks=depth needs depth\.path=FOLDER, with a depth map for"),
        ({"depth.max_m": 0.01}, "no training pixel has a depth of 0.001 to 0.01 m"),
        ({"depth.min_m": 5.0, "depth.max_m": 5.5}, "no training pixel has a depth"),
    ],
)
def test_settings_that_leave_nothing_are_one_line(root, settings, words):
    with pytest.raises((ConfigError, DataError), match=words):
        scored(root, **settings)
