"""The task `finetune` of an evaluation, from weights to a result."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.images.find import build_source
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.tasks.evaluate import evaluate

NETWORK = "timm:vit_tiny_patch16_224?pretrained=false&img_size=16&patch_size=8&depth=1"


def test_a_share_of_the_labels_is_trained_on_and_all_test_images_are_scored(
    tmp_path: Path,
) -> None:
    evaluate(
        f"{NETWORK}&embed_dim=24&num_heads=3",
        tasks=["finetune"],
        data={"path": "digits", "size_px": 16},
        out=tmp_path,
        device="cpu",
        finetune={"preset": "small", "epochs": 1, "train_fraction": 0.1},
    )
    content = json.loads((tmp_path / "results.json").read_text())
    text = json.dumps(content)
    per_class = np.bincount(build_source("digits").labels).tolist()
    num_train = sum(round(0.1 * number) for number in per_class)
    assert "finetune-small-all-e1-labels0.1/1" in text
    assert f'"num_train": {num_train}' in text
    assert '"num_samples": 300' in text


def test_a_last_batch_of_one_is_a_line_where_batch_norm_has_no_statistics(tmp_path: Path) -> None:
    for row in range(10):
        path = tmp_path / "photos" / "ab"[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (25 * row, 0, 0)).save(path)
    settings: dict[str, Any] = {"preset": "small", "epochs": 1}
    for weights, size, is_fit in (
        ("timm:resnet10t?pretrained=false", 7, False),  # 8 training images = 7 + 1
        ("timm:resnet10t?pretrained=false", 6, True),
        (f"{NETWORK}&embed_dim=24&num_heads=3", 7, True),  # has no batch norm
    ):
        side = 32 if "resnet" in weights else 16
        arguments: dict[str, Any] = {
            "tasks": ["finetune"],
            "data": {"path": str(tmp_path / "photos"), "size_px": side},
            "out": tmp_path / "out",
            "device": "cpu",
            "finetune": {**settings, "batch_size": size},
        }
        if is_fit:
            evaluate(weights, **arguments)
            continue
        with pytest.raises(ConfigError, match=r"batch of one sample.*finetune\.batch_size than 7"):
            evaluate(weights, **arguments)


def test_listed_images_are_trained_on_and_those_left_are_scored(tmp_path: Path) -> None:
    for row in range(40):
        path = tmp_path / "photos" / "ab"[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (6 * row, 0, 0)).save(path)

    def run(names: list[str], **data: Any) -> Any:
        listed = tmp_path / "list.txt"
        listed.write_text("\n".join(names))
        return evaluate(
            f"{NETWORK}&embed_dim=24&num_heads=3",
            tasks=["finetune"],
            data={"path": str(tmp_path / "photos"), "size_px": 16, **data},
            out=tmp_path / "out",
            device="cpu",
            finetune={"preset": "small", "epochs": 1, "train_list": str(listed)},
        ).tasks["finetune"]

    every = [f"{row}.png" for row in range(40)]
    result = run(every[:30])
    assert result.details["num_train"] == 30
    (line,) = (line for line in result.warnings if "train_list" in line)
    num_trained, num_scored = (
        int(n) for n in re.findall(r"names (\d) .* the (\d) others", line)[0]
    )
    assert num_trained + num_scored == 8  # a fifth of 40
    assert result.details["report"]["num_samples"] == num_scored
    with pytest.raises(DataError, match="names all 8 images that were held out"):
        run(every)
    with pytest.raises(ConfigError, match=r"finetune\.train_list=.*data\.max_train=20"):
        run(every[:3], max_train=20)
