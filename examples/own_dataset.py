"""Pretrain on a torch Dataset of your own, score it, and take the network home."""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

import ssl_vision


class Digits(Dataset[tuple[np.ndarray, int]]):
    """Samples are (image, label): a PIL image, an array or a tensor; the label may be left out."""

    fingerprint = "scikit-learn digits"  # what it is: resuming on other data is refused

    def __init__(self) -> None:
        data = load_digits()
        self.images = (data.images * 15.9).astype(np.uint8)  # (N, 8, 8)
        self.targets = data.target  # all labels at once: no need to read every sample for them

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.targets[index])


def main(run_dir: str = "runs/own_dataset", **settings: Any) -> dict[str, float]:
    """Train, print scores as they come, evaluate; the run's last scores."""
    data = Digits()
    result = ssl_vision.train(
        "barlow_twins/tiny_cpu",
        data=data,
        run_dir=run_dir,
        callbacks=ssl_vision.Callbacks(
            on_score=lambda p: print(f"update {p.step}: {p.metrics['eval/knn_top1']:.3f}")
        ),
        **{"trainer.epochs": 10, **settings},
    )
    report = ssl_vision.evaluate(result.run_dir, data=data, tasks=["knn"])
    print("kNN", report.tasks["knn"].main.value)
    network = result.load_backbone()  # a plain timm model
    print("features", tuple(network(torch.zeros(1, 3, 28, 28)).shape))
    return result.scores


if __name__ == "__main__":
    main()
