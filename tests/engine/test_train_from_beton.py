"""A packed data set trains to the weights its folder trains to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ssl_vision.config import load_train_config
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.engine.train import train

RECIPES = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """24 JPEGs in two class folders, and the same packed."""
    root = tmp_path_factory.mktemp("data")
    for number in range(24):
        small = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        path = root / "images" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(small)
        image.resize((50 - number, 30 + number), Image.Resampling.BICUBIC).save(path)
    pack(build_source(str(root / "images")), root / "packed.beton", PackConfig())
    return {"folder": root / "images", "beton": root / "packed.beton"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "barlow_twins", "dino"])
def test_folder_and_beton_give_identical_weights(method, paths, tmp_path) -> None:
    weights = {}
    for kind, path in paths.items():
        threads = {"folder": 1, "beton": 2}[kind]
        settings = [
            f"data.path={path}", f"data.num_threads={threads}", "data.global_batch_size=8",
            "trainer.max_steps=4", "trainer.accelerator=cpu", "online_eval.every_epochs=0",
            f"run_dir={tmp_path / kind}",
        ]  # fmt: skip
        train(load_train_config([RECIPES / method / "tiny_cpu.yaml"], settings))
        weights[kind] = load_file(tmp_path / kind / "export" / "model.safetensors")
    assert weights["folder"].keys() == weights["beton"].keys()
    assert all(torch.equal(weights["folder"][name], w) for name, w in weights["beton"].items())
