"""The task `binocular`: shifts that only both views tell, and a line for what does not do."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.config import load_train_config
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.results import Evaluation
from ssl_vision.tasks.binocular import flow_colors
from ssl_vision.tasks.evaluate import evaluate

SIDE, PATCH = 16, 4
RUN = [
    "method={name: croco, mask_ratio: 0.5, decoder_width: 64, decoder_depth: 2, "
    "decoder_num_heads: 4}",
    "backbone={name: rotary_vit_tiny, args: {patch_size: 4, embed_dim: 64, depth: 1, "
    "num_heads: 4}}",
    f"data={{path: blocks, global_batch_size: 8, views: {{first: {{size_px: {SIDE}, "
    f"flip_prob: 0.0}}, second: {{size_px: {SIDE}, flip_prob: 0.0}}}}}}",
    "optim.warmup_epochs=0",
    "trainer={epochs: 1, max_steps: 2}",
    "online_eval.every_epochs=0",
]


def shifted(root: Path, split: str, num: int, *, seed: int) -> Path:
    """Pairs of which the second lies 4 or 8 px further to the right, whose disparity that is."""
    rng = np.random.default_rng(seed)
    lines = ["first,second,geometry"]
    (root / split).mkdir(parents=True)
    for i in range(num):
        cells = rng.integers(0, 256, (SIDE // PATCH, SIDE // PATCH + 2, 3)).astype(np.uint8)
        wide = cells.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        shift = PATCH * int(rng.integers(1, 3))
        for name, start in (("a", 0), ("b", shift)):
            Image.fromarray(wide[:, start : start + SIDE]).save(root / split / f"{i}_{name}.png")
        np.save(root / split / f"{i}.npy", np.full((SIDE, SIDE), float(shift)))
        lines.append(f"{split}/{i}_a.png,{split}/{i}_b.png,{split}/{i}.npy")
    (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root / f"{split}.csv"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has seen next to nothing, and pairs."""
    root = tmp_path_factory.mktemp("binocular")
    shifted(root, "train", 600, seed=0)
    shifted(root, "val", 24, seed=1)
    train(load_train_config([], [*RUN, f"run_dir={root / 'run'}"]))
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))


def scored(root: Path, out: Path, **settings: object) -> Evaluation:
    tables = {f"binocular.{name}": str(root / f"{name}.csv") for name in ("train", "val")}
    return evaluate(
        settings.pop("weights", root / "run"), tasks=["binocular"], data=root / "train", out=out,
        **{**tables, "binocular.within_px": [2.0], **settings},
    )  # fmt: skip


def test_disparity_is_found_by_both_views_and_by_no_constant(root: Path, tmp_path: Path) -> None:
    short = {"updates": 450, "batch_size": 32, "lr": 1e-3}
    found = scored(root, tmp_path, **{f"binocular.{k}": v for k, v in short.items()})["binocular"]
    values = {each.name: each.value for each in found.measurements}
    # Half of the pairs moved by 4 px and half by 8: the mean is 2 px off, everywhere.
    assert 1.9 < values["end-point error of a constant, px"] < 2.1
    assert values["end-point error, px"] < 0.7
    assert values["end-point error of other second views, px"] > 1.2
    assert values["within 2 px"] > 0.9
    assert found.headline == "within 2 px"
    assert found.protocol == "binocular-linear-all-u450-lr0.001-2px-whole16/1"
    assert (found.details["num_train"], found.details["num_val"]) == (600, 24)
    assert not found.warnings
    assert "Flow: its direction is the colour" in (tmp_path / "report.html").read_text()


def test_a_frozen_network_and_the_baseline_are_scored_and_repeat(
    root: Path, tmp_path: Path
) -> None:
    short = {"binocular.updates": 3, "binocular.tune": "head", "baselines": True}
    first, again = (scored(root, tmp_path, **short)["binocular"] for _ in range(2))
    assert [m.value for m in first.measurements] == [m.value for m in again.measurements]
    assert "end-point error of the untrained network, px" in {m.name for m in first.measurements}
    assert "-head-u3-" in first.protocol


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"binocular.val": None}, r"needs binocular\.val=TABLE\.csv"),
        ({"binocular.train": "nothing.csv"}, r"nothing\.csv"),
        ({"weights": "timm:vit_tiny_patch16_224?pretrained=false"}, "run folder of method.name=cr"),
        ({"weights": "export"}, r"exports are without the decoder"),
    ],
)
def test_what_cannot_be_scored_is_one_line(root, tmp_path, settings, words) -> None:
    if settings.get("weights") == "export":
        settings = {"weights": root / "run" / "export"}
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        scored(root, tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda p: np.save(p / "3.npy", np.full((16, 16), 99.0)), "no place of .*3_a.png is seen"),
        (lambda p: np.save(p / "3.npy", np.zeros((16, 9))), r"3\.npy has the shape \(16, 9\)"),
        (lambda p: (p / "3_b.png").unlink(), r"binocular\.val=.*3_b.png is not there"),
        (lambda p: shutil.copy(p / "3_a.png", p / "3_b.png"), "same picture twice"),
        (lambda p: Image.new("RGB", (9, 9)).save(p / "3_b.png"), "of 16 x 16 and 9 x 9 px"),
    ],
)
def test_pairs_that_cannot_be_used_are_one_line(root, tmp_path, break_it, words) -> None:
    table = shifted(tmp_path, "val", 4, seed=2)
    break_it(tmp_path / "val")
    with pytest.raises(DataError, match=words) as caught:
        scored(root, tmp_path / "out", **{"binocular.val": str(table), "binocular.updates": 1})
    assert "\n" not in str(caught.value)


def test_colours_of_flow_tell_direction_and_length() -> None:
    flow = np.array([[[0.0, 0.0], [4.0, 0.0], [-4.0, 0.0], [np.nan, np.nan]]])
    still, right, left, unknown = flow_colors(flow, 4.0)[0].tolist()
    assert still == [255, 255, 255]
    assert unknown == [0, 0, 0]
    assert right[0] == 255
    assert left[0] == 0
