"""Pretrain without labels, fine-tune with some, predict, and deploy without this package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits

import ssl_vision


def main(run_dir: str = "runs/fine_tune", **settings: Any) -> float:
    """Train twice, predict images that neither run has seen, export; the share of right ones."""
    digits = load_digits()
    images, labels = (digits.images * 15.9).astype(np.uint8), digits.target  # (N, 8, 8), (N,)
    train, test = slice(0, 1497), slice(1497, None)
    folder = Path(run_dir)
    pretrained = ssl_vision.train(
        "barlow_twins/tiny_cpu",
        data=images[train],
        run_dir=folder / "pretrained",
        **{"trainer.epochs": 10, **settings},
    )
    # The network comes from `init_from`, whatever the recipe says.
    tuned = ssl_vision.train(
        "supervised/tiny_cpu",
        data=(images[train], labels[train]),
        run_dir=folder / "classes",
        init_from=str(pretrained.run_dir),
        **{"trainer.epochs": 10, "method.mixing.name": "none", **settings},
    )
    found = ssl_vision.predict(tuned.run_dir, images[test])
    found.to_csv(folder / "predictions.csv")
    right = np.mean([int(name) for name in found.classes] == labels[test])
    print(f"{right:.1%} of {len(found.names)} images")

    # To deploy: a plain timm model with its head and the names of its classes.
    ssl_vision.export(tuned.run_dir, folder / "deploy")
    model = timm.create_model(f"local-dir:{folder / 'deploy'}", pretrained=True).eval()
    names = json.loads((folder / "deploy" / "config.json").read_text())["label_names"]
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, 28, 28))
    print("an empty image is a", names[int(logits.argmax())])
    return float(right)


if __name__ == "__main__":
    main()
