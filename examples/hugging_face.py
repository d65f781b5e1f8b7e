"""Pretrain on a Hugging Face Dataset, made here so that nothing is downloaded."""

from typing import Any

import datasets
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import ssl_vision


def make_dataset() -> datasets.DatasetDict:
    """Digits as `datasets.load_dataset("NAME")` would give them, with two splits."""
    digits = load_digits()
    levels = (digits.images * 15.9).astype(np.uint8)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(i) for i in range(10)])
    )
    columns = {"image": [Image.fromarray(each) for each in levels], "label": digits.target.tolist()}
    whole = datasets.Dataset.from_dict(columns, features=features)
    return whole.train_test_split(test_size=300, seed=0)


def main(run_dir: str = "runs/hugging_face", **settings: Any) -> dict[str, float]:
    """Train on the split `train`, score on `test`, embed it; the run's last scores."""
    data = make_dataset()
    result = ssl_vision.train(
        "dino/tiny_cpu", data=data, run_dir=run_dir, **{"trainer.epochs": 10, **settings}
    )
    features = ssl_vision.embed(result.run_dir, data["test"])
    print("features", features.shape, "scores", result.scores)
    return result.scores


if __name__ == "__main__":
    main()
