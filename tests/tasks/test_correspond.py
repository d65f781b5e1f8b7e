"""The task `correspond`, whole: views that are made, pairs that are given, mistakes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.errors import DataError
from ssl_vision.tasks.evaluate import evaluate

WEIGHTS = "timm:vit_tiny_patch16_224?pretrained=false&img_size=64&patch_size=4&depth=1&embed_dim=48"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures in which no two places look alike, of unequal sizes."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((120 + 10 * i, 100), 3).save(tmp_path / f"images/{i}.png")
    return tmp_path


def scored(root: Path, **settings):
    return evaluate(
        WEIGHTS, tasks=["correspond"], data=root / "images", out=root / "out", **settings
    )["correspond"]


def values(result) -> dict[str, float]:
    return {each.name: each.value for each in result.measurements}


def shifted(root: Path, *, by: int) -> Path:
    """Pairs of crops of one picture, the second begins `by` px further right."""
    lines = ["first,second,geometry"]
    (root / "pairs").mkdir()
    for i in range(4):
        image = Image.open(root / f"images/{i}.png")
        image.crop((0, 0, 80, 80)).save(root / f"pairs/{i}_a.png")
        image.crop((by, 0, by + 80, 80)).save(root / f"pairs/{i}_b.png")
        (root / f"pairs/{i}_H").write_text(f"1 0 {-by}\n0 1 0\n0 0 1\n")
        lines.append(f"{i}_a.png,{i}_b.png,{i}_H")
    (root / "pairs/pairs.csv").write_text("\n".join(lines) + "\n")
    return root / "pairs/pairs.csv"


def test_raw_pixels_find_their_way_under_homographies(root):
    config = {"correspond": {"within_px": [4, 6, 16], "reported_px": 6, "warp": 0.45}}
    found = scored(root, baselines=True, **config)
    measured = values(found)
    assert found.headline == "within 6 px"
    assert found.protocol == "correspond-warp0.45-6px-whole64/1"
    assert found.details["num_pairs"] == 4
    assert measured["within 6 px of raw pixels"] > 0.6
    assert measured["within 6 px of the same place"] < 0.4
    assert measured["within 6 px of chance"] < 0.1
    assert measured["best possible within 6 px"] == 1
    assert measured["within 4 px"] <= measured["within 6 px"] <= measured["within 16 px"]
    assert (root / "out/report.html").read_text().count("data:image/png") == 2 * 4
    assert scored(root, **config).main == found.main


def test_pairs_that_are_given_are_matched_by_their_geometry(root):
    table = shifted(root, by=20)
    right = scored(root, baselines=True, **{"correspond.pairs": str(table)})
    assert right.protocol == "correspond-pairs-16px-whole64/1"
    assert values(right)["within 16 px of raw pixels"] > 0.8
    # 20 px of 80 are 16 of 64: each place is as far away, and the other way is twice as far.
    assert values(right)["within 16 px of the same place"] == 1
    assert right.details["still"] == [0, 1, 1]
    for file in table.parent.glob("*_H"):
        file.write_text("1 0 20\n0 1 0\n0 0 1\n")
    wrong = scored(root, baselines=True, **{"correspond.pairs": str(table)})
    name = "within 16 px of raw pixels"
    assert values(wrong)[name] < values(right)[name] - 0.4


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda p: (p / "2_H").write_text("1 0 500\n0 1 0\n0 0 1\n"), "no place of .*2_a.png"),
        (lambda p: (p / "2_H").write_text("1 0"), "2_H is none of these: a homography"),
        (lambda p: (p / "2_b.png").unlink(), "2_b.png is not there"),
        (lambda p: (p / "2_b.png").write_bytes(b"nothing"), r"2_b\.png"),
    ],
)
def test_pairs_that_cannot_be_used_are_one_line(root, break_it, words):
    table = shifted(root, by=20)
    break_it(table.parent)
    with pytest.raises(DataError, match=words) as caught:
        scored(root, **{"correspond.pairs": str(table)})
    assert "\n" not in str(caught.value)


def test_pairs_with_an_unreadable_image_are_left_out(root):
    table = shifted(root, by=20)
    (table.parent / "1_a.png").write_bytes(b"nothing")
    data = {"path": str(root / "images"), "on_error": "substitute"}
    found = evaluate(
        WEIGHTS,
        tasks=["correspond"],
        data=data,
        out=root / "out",
        baselines=True,
        **{"correspond.pairs": str(table)},
    )
    assert found["correspond"].details["num_pairs"] == 3
    assert values(found["correspond"])["within 16 px of raw pixels"] > 0.8
    assert [Path(name).name for name in found.data["unreadable"]] == ["1_a.png"]
