"""The task `finetune` of an evaluation, from weights to a result."""

import json
from pathlib import Path

import numpy as np

from ssl_vision.data.source import build_source
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
