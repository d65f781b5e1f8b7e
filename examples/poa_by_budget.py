"""Train once with POA, then take the best network that fits a budget of parameters."""

from pathlib import Path
from typing import Any

import timm

import ssl_vision


def main(run_dir: str = "runs/poa", max_params: float = 150_000, **settings: Any) -> int:
    """Train, list the sizes, extract the best within the budget; its number of parameters."""
    run = ssl_vision.train(
        "poa/tiny_cpu", data="digits", run_dir=run_dir, **{"trainer.epochs": 10, **settings}
    )
    for card in ssl_vision.extract(run.run_dir):  # nothing is written without a folder
        print(f"{card.label:>6}: {card.num_parameters:9,} parameters, {card.gflops:.4f} GFLOPs")

    # By kNN on the run's own images; max_latency_ms= is a budget of time on this machine.
    folder = Path(run_dir) / "small"
    (best,) = ssl_vision.extract(run.run_dir, folder, max_params=max_params)
    print(f"best within {max_params:,.0f}: {best.label}, kNN {best.knn_top1:.3f}")
    network = timm.create_model(f"local-dir:{folder / best.label}", pretrained=True).eval()
    return sum(each.numel() for each in network.parameters())


if __name__ == "__main__":
    main()
