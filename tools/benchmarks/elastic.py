#!/usr/bin/env python3
"""Cost of an elastic branch beside a plain model of the extracted size, forward and backward.

    tools/benchmarks/elastic.py [rounds=5] [size_px=224]

Contenders alternate; the time of each is its fastest CPU time, which other processes disturb
least. Prints one Markdown row per case.
"""

import sys
import time
from collections.abc import Callable

import torch

from ssl_vision.backbones import elastic
from ssl_vision.backbones.build import BackboneConfig, build_backbone

# (timm name, arguments, size, batch): the parent's size is in the arguments.
CASES = [
    ("vit_small_patch16_224", {}, (192, 6), 4),
    ("vit_small_patch16_224", {}, (192, 6), 16),
    ("vit_small_patch16_224", {}, (192, 12), 4),
    ("vit_small_patch16_224", {}, (192, 12), 16),
    ("swin_tiny_patch4_window7_224", {"embed_dim": 64, "num_heads": (2, 4, 8, 16)}, (32, 2), 4),
    ("resnet50", {"norm_layer": "groupnorm", "base_width": 128}, (64, 2, 3), 4),
]


def step(forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    """CPU seconds of one forward and backward."""
    start = time.process_time()
    forward(images).sum().backward()
    return time.process_time() - start


def main(arguments: list[str]) -> None:
    """Run the cases."""
    given = dict(argument.split("=") for argument in arguments)
    rounds, size_px = int(given.get("rounds", 5)), int(given.get("size_px", 224))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| parent | size | batch | plain ms | elastic ms | overhead |")
    print("|---|---|---:|---:|---:|---:|")
    for name, args, size, batch in CASES:
        parent = build_backbone(BackboneConfig(name=name, args=args), input_size=size_px)
        small = elastic.extract(parent, size)
        images = torch.randn(batch, 3, size_px, size_px)
        contenders = {
            "plain": lambda x, small=small: small(x).pooled,
            "elastic": lambda x, parent=parent, size=size: elastic.forward(parent, x, size).pooled,
        }
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(rounds + 1):  # the first builds the skeleton; the minimum leaves it out
            for kind, forward in contenders.items():
                best[kind] = min(best[kind], step(forward, images))
        plain, narrow = 1e3 * best["plain"], 1e3 * best["elastic"]
        label = ",".join(map(str, size))
        extra = 100 * (narrow / plain - 1)
        print(f"| {name} | {label} | {batch} | {plain:.0f} | {narrow:.0f} | {extra:+.1f} % |")


if __name__ == "__main__":
    main(sys.argv[1:])
