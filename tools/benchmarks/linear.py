#!/usr/bin/env python3
"""Linear heads stacked into one product, against the same heads trained one by one.

Run: tools/benchmark.py linear [heads=13] [width=384] [classes=100] [batch=256] [steps=200]
     [num=20000] [rounds=3] [threads=1]

The separate heads are torch.nn.Linear under torch.optim.SGD with autograd, each over the same
batches. Printed: seconds (best of alternating rounds) and the largest difference of any weight.
"""

import time

import torch
from benchmarks._settings import read_settings

from ssl_vision.evaluation.linear_config import LinearConfig
from ssl_vision.evaluation.linear_probe import ProbeData, fit_heads
from ssl_vision.evaluation.stacked_heads import BatchPlan, HeadSetting, ProbeHeads, head_grid
from ssl_vision.randomness import keyed_generator

DEFAULTS = {
    "heads": 13, "width": 384, "classes": 100, "batch": 256, "steps": 200, "num": 20_000,
    "rounds": 3, "threads": 1,
}  # fmt: skip


def train_separately(
    data: ProbeData, grid: list[HeadSetting], config: LinearConfig, width: int
) -> list[torch.Tensor]:
    """Weights of heads trained one after the other."""
    plan = BatchPlan.of(len(data.labels), config)
    weights = []
    for setting in grid:
        head = torch.nn.Linear(width, data.num_classes)
        generator = keyed_generator(0, "linear head", setting.features)
        head.weight.data = 0.01 * torch.randn(data.num_classes, width, generator=generator)
        head.bias.data.zero_()
        lr = setting.base_lr * config.batch_size / 256
        sgd = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9)
        for step, rows in enumerate(plan.batches(0)):
            sgd.param_groups[0]["lr"] = lr * plan.lr_factor(step)
            logits = head(data.train["f"].take(rows))
            loss = torch.nn.functional.cross_entropy(logits, data.labels[rows])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        weights.append(head.weight.data)
    return weights


def main(argv: list[str]) -> None:
    """Measure and print."""
    settings = read_settings(argv, DEFAULTS)
    torch.set_num_threads(settings["threads"])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(settings["num"], settings["width"], generator=generator)
    labels = torch.randint(0, settings["classes"], (settings["num"],), generator=generator)
    lrs = tuple(
        10.0 ** (-4 + 3 * i / max(1, settings["heads"] - 1)) for i in range(settings["heads"])
    )
    config = LinearConfig(
        base_lrs=lrs, batch_size=settings["batch"], epochs=1, steps_per_epoch=settings["steps"]
    )
    sets = {"f": (rows,)}
    data = ProbeData.of(sets, labels, sets, labels, settings["classes"], "cpu")
    grid = head_grid(sets, config)
    stacked_times, separate_times = [], []
    for _ in range(settings["rounds"]):
        start = time.perf_counter()
        heads: ProbeHeads = fit_heads(data, grid, torch.arange(len(labels)), config, 0)
        stacked_times.append(time.perf_counter() - start)
        start = time.perf_counter()
        weights = train_separately(data, grid, config, settings["width"])
        separate_times.append(time.perf_counter() - start)
    gap = max(
        float((heads.as_linear(i)[0] - weight).abs().max()) for i, weight in enumerate(weights)
    )
    stacked, separate = min(stacked_times), min(separate_times)
    print(f"{settings['heads']} heads of {settings['classes']} x {settings['width']}, "
          f"{settings['steps']} steps of {settings['batch']}\n")  # fmt: skip
    print(
        "| stacked, s | one by one, s | ratio | largest difference of a weight |\n|---|---|---|---|"
    )
    print(f"| {stacked:.2f} | {separate:.2f} | {separate / stacked:.1f} | {gap:.1e} |")
