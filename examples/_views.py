"""What the two loops share: digits, two views of each, and Barlow Twins on a small ResNet."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

import ssl_vision
from ssl_vision.backbones import BackboneConfig, build_backbone
from ssl_vision.methods import TrainPlan
from ssl_vision.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from ssl_vision.optim import OptimConfig
from ssl_vision.views import BlurConfig, ViewConfig

_VIEW = ViewConfig(size_px=28, crop_area=(0.4, 1.0), flip_prob=0.0, blur=BlurConfig(prob=0.5))


class TwoViews(Dataset[Any]):
    """Samples are (index, views): what `Batch.collate` makes batches of."""

    def __init__(self) -> None:
        self.images = (load_digits().images * 15.9).astype(np.uint8)
        self.views = ssl_vision.views.transform({"a": _VIEW, "b": _VIEW})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return index, self.views(self.images[index])


def make(batch_size: int, epochs: int) -> tuple[BarlowTwins, DataLoader[Any]]:
    """The method and batches for it."""
    images = TwoViews()
    loader = DataLoader(
        images, batch_size, shuffle=True, drop_last=True, collate_fn=ssl_vision.Batch.collate
    )
    plan = TrainPlan(steps_per_epoch=len(loader), epochs=epochs, global_batch_size=batch_size)
    backbone = build_backbone(
        BackboneConfig(name="resnet10t", args={"channels": [16, 32, 64, 128]}), input_size=28
    )
    config = BarlowTwinsConfig(projector_dims=(128, 128), redundancy_weight=0.02)
    return BarlowTwins(config, backbone, optim=OptimConfig(name="adamw"), plan=plan), loader
