#!/usr/bin/env python3
"""Cost of mixing: a training step with none, CutMix or SMMix, and a forward pass with the map.

Run: tools/benchmark.py mixing [backbone=deit_small_patch16_224] [batch=32] [size_px=224]
     [rounds=3] [threads=2] [device=cpu] [precision=32|bf16] [out=mixing.json]

Contenders take turns in one process on the same images, so that a busy machine slows all alike;
ratios are taken within a round, and their median is reported. A step is loss, backward and AdamW.
`smmix_step` is a step in which SMMix happens: half of the steps of its recipe, the others are
Mixup; the recipe's mean cost is the mean of the two. `map` is the forward pass without gradient
that also reads the attention of the last block, beside the plain one.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks._settings import read_settings

DEFAULTS = {
    "backbone": "deit_small_patch16_224", "batch": 32, "size_px": 224, "rounds": 3, "threads": 2,
    "device": "cpu", "precision": "32", "out": "",
}  # fmt: skip
MIXINGS = {"none": {}, "cutmix": {}, "mixup": {}, "smmix_step": {"switch_prob": 1.0}}


def build(mixing: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """A supervised method of one mixing, and its optimizer."""
    from ssl_vision.backbones.build import BackboneConfig, build_backbone
    from ssl_vision.methods.base import TrainPlan
    from ssl_vision.methods.supervised import MixingConfig, Supervised, SupervisedConfig
    from ssl_vision.optim.recipe import OptimConfig

    torch.manual_seed(0)
    config = MixingConfig(name=mixing.removesuffix("_step"), **MIXINGS[mixing])
    backbone = build_backbone(
        BackboneConfig(name=settings["backbone"], drop_path=0.1),
        input_size=settings["size_px"],
    )
    method = Supervised(
        SupervisedConfig(mixing=config),
        backbone,
        optim=OptimConfig(),
        plan=TrainPlan(
            steps_per_epoch=100, epochs=1, global_batch_size=settings["batch"], num_classes=1000
        ),
    ).to(settings["device"])
    return method, method.configure_optimizers()


def timed(work: Any, device: str) -> float:
    """Seconds of a call, the device's work included."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def contenders(settings: dict[str, Any]) -> dict[str, Any]:
    """Name -> a function that does it once."""
    from ssl_vision.backbones.attention import forward_with_attention
    from ssl_vision.types import Batch

    size, num, device = settings["size_px"], settings["batch"], settings["device"]
    batch = Batch(
        views={"train": torch.randn(num, 3, size, size)},
        index=torch.arange(num),
        label=torch.randint(1000, (num,)),
    ).to(device)
    is_half = settings["precision"] == "bf16"

    def step(method: Any, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_half):
            loss = method.compute_loss(batch).loss
        loss.backward()
        optimizer.step()
        method.step += 1

    def forward(*, with_map: bool) -> None:
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_half),
        ):
            if with_map:
                forward_with_attention(backbone, batch.views["train"])
            else:
                backbone(batch.views["train"])

    built = {name: build(name, settings) for name in MIXINGS}
    backbone = built["none"][0].backbone
    works: dict[str, Any] = {}
    for name, (method, optimizer) in built.items():
        works[name] = lambda m=method, o=optimizer: step(m, o)
    works["forward"] = lambda: forward(with_map=False)
    works["forward_with_map"] = lambda: forward(with_map=True)
    return works


def main(arguments: list[str]) -> int:
    """Run and print; the exit status."""
    settings = read_settings(arguments, DEFAULTS)
    torch.set_num_threads(settings["threads"])
    works = contenders(settings)
    times: dict[str, list[float]] = {name: [] for name in works}
    works["forward"]()
    for number in range(settings["rounds"]):
        for name, work in works.items():
            times[name].append(timed(work, settings["device"]))
        shown = ", ".join(f"{name} {seconds[-1]:.3f}" for name, seconds in times.items())
        print(f"round {number + 1}, seconds: {shown}", flush=True)

    def ratio(name: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))

    result = {
        "settings": settings,
        "median_s": {name: statistics.median(seconds) for name, seconds in times.items()},
        "smmix_step / cutmix": ratio("smmix_step", "cutmix"),
        "smmix recipe / cutmix": (ratio("smmix_step", "cutmix") + ratio("mixup", "cutmix")) / 2,
        "cutmix / none": ratio("cutmix", "none"),
        "forward_with_map / forward": ratio("forward_with_map", "forward"),
    }
    print(json.dumps(result, indent=1))
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(result, indent=1) + "\n")
    return 0
