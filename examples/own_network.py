"""Pretrain a network of your own: any module of images -> a vector or a map."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ssl_vision


class TinyNet(nn.Module):
    """Images (B, 3, S, S) -> map (B, width, S/4, S/4)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        """One pass."""
        return self.layers(images)


def main(run_dir: str = "runs/own_network", **settings: Any) -> dict[str, float]:
    """Train, evaluate, load the exported weights into a new network; the run's last scores."""
    network = ssl_vision.backbones.wrap(TinyNet(), width=32, kwargs={"width": 32})
    result = ssl_vision.train(
        "dino/tiny_cpu",
        data="digits",
        backbone=network,  # a copy of it is trained
        run_dir=run_dir,
        **{"trainer.epochs": 10, **settings},
    )
    trained = result.load_backbone()  # a TinyNet
    report = ssl_vision.evaluate(
        trained, data="digits", transform=result.run_dir, tasks=["knn"], out=Path(run_dir) / "knn"
    )
    print("kNN", report.tasks["knn"].main.value)
    again = ssl_vision.load_backbone(result.run_dir, into=TinyNet(width=32))
    images = torch.randn(2, 3, 28, 28)
    assert torch.equal(again(images), trained(images))
    return result.scores


if __name__ == "__main__":
    main()
