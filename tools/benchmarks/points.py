#!/usr/bin/env python3
"""Point clouds side by side: sampling, grouping, chamfer distance, one training step, memory.

Run: tools/benchmarks/points.py [clouds=8] [points=1024] [groups=64] [k=32] [rounds=5] [threads=1]
     [device=cpu] [large=1] [out=points.json]

Contenders: torch_cluster (fps, knn; what torch-geometric uses) and pytorch3d where they are
installed, and the plain torch forms that most ports of PointNet++ use (written here from their
description: points as triples, all distances at once, a full sort; a chamfer distance that keeps
every pair for its backward pass). Rounds alternate; the best of each counts. `large` adds the
memory of 8192 points x 32 clouds, one fresh process per contender: growth of its peak.
"""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks._settings import read_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

DEFAULTS = {
    "clouds": 8, "points": 1024, "groups": 64, "k": 32, "rounds": 5, "threads": 1,
    "device": "cpu", "large": 1, "out": "", "alone": "",
}  # fmt: skip
Run = Callable[[], Any]
BENCHMARK = str(Path(__file__).resolve().parents[1] / "benchmark.py")


def plain_fps(points: torch.Tensor, num: int) -> torch.Tensor:
    """Triples and differences, one gather per step."""
    rows = torch.arange(len(points), device=points.device)
    chosen = torch.zeros(len(points), num, dtype=torch.int64, device=points.device)
    distance = torch.full(points.shape[:2], 1e10, device=points.device)
    farthest = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for i in range(num):
        chosen[:, i] = farthest
        centre = points[rows, farthest][:, None]
        step = ((points - centre) ** 2).sum(dim=-1)
        distance = torch.minimum(distance, step)
        farthest = distance.max(dim=-1)[1]
    return chosen


def plain_knn(queries: torch.Tensor, points: torch.Tensor, k: int) -> torch.Tensor:
    """All squared distances by dot products, then a full sort."""
    distance = -2 * queries @ points.transpose(1, 2)
    distance += (queries**2).sum(-1)[:, :, None] + (points**2).sum(-1)[:, None]
    return distance.sort(dim=-1)[1][:, :, :k]


def plain_chamfer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Every pair of differences, kept for the backward pass."""
    pairs = ((a[:, :, None] - b[:, None]) ** 2).sum(dim=-1)
    return pairs.min(dim=2)[0].mean() + pairs.min(dim=1)[0].mean()


def with_backward(chamfer: Callable[..., torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> None:
    """Value and gradient."""
    a = a.detach().requires_grad_()
    chamfer(a, b).backward()


def contenders(s: dict[str, Any]) -> dict[str, dict[str, Run]]:
    """Task -> contender -> what is timed."""
    from ssl_vision.losses import chamfer_distance
    from ssl_vision.points.grouping import nearest_neighbors
    from ssl_vision.points.sampling import farthest_point_sample, take_points

    torch.manual_seed(0)
    points = torch.randn(s["clouds"], s["points"], 3, device=s["device"])
    centers = take_points(points, farthest_point_sample(points, s["groups"]))
    patches = torch.randn(2, s["clouds"] * s["groups"] * 6 // 10, s["k"], 3, device=s["device"])
    whole = torch.randn(2, s["clouds"], s["points"], 3, device=s["device"])

    def ours_chamfer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return chamfer_distance(a, b, power=2)

    table: dict[str, dict[str, Run]] = {
        "farthest points": {
            "ours": lambda: farthest_point_sample(points, s["groups"]),
            "plain torch": lambda: plain_fps(points, s["groups"]),
        },
        "neighbours": {
            "ours": lambda: nearest_neighbors(centers, points, s["k"]),
            "plain torch": lambda: plain_knn(centers, points, s["k"]),
        },
        "chamfer of patches": {
            "ours": lambda: with_backward(ours_chamfer, *patches),
            "plain torch": lambda: with_backward(plain_chamfer, *patches),
        },
        "chamfer of clouds": {
            "ours": lambda: with_backward(ours_chamfer, *whole),
            "plain torch": lambda: with_backward(plain_chamfer, *whole),
        },
    }
    if importlib.util.find_spec("torch_cluster"):
        add_torch_cluster(table, points, centers, s)
    if importlib.util.find_spec("pytorch3d"):
        add_pytorch3d(table, points, centers, patches, whole, s)
    table["step of point_vit_small"] = {"point_mae": step_of("point_mae", s),
                                        "point_cmae": step_of("point_cmae", s)}  # fmt: skip
    return table


def add_torch_cluster(
    table: dict[str, dict[str, Run]], points: torch.Tensor, centers: torch.Tensor, s: dict[str, Any]
) -> None:
    """Ragged batches: flat points and the cloud of each."""
    import torch_cluster

    flat, queries = points.flatten(0, 1), centers.flatten(0, 1)
    batch = torch.arange(s["clouds"]).repeat_interleave(s["points"]).to(points.device)
    of_query = torch.arange(s["clouds"]).repeat_interleave(s["groups"]).to(points.device)
    ratio = s["groups"] / s["points"]
    table["farthest points"]["torch_cluster"] = lambda: torch_cluster.fps(
        flat, batch, ratio=ratio, random_start=False
    )
    table["neighbours"]["torch_cluster"] = lambda: torch_cluster.knn(
        flat, queries, s["k"], batch, of_query
    )


def add_pytorch3d(
    table: dict[str, dict[str, Run]],
    points: torch.Tensor,
    centers: torch.Tensor,
    patches: torch.Tensor,
    whole: torch.Tensor,
    s: dict[str, Any],
) -> None:
    """Its compiled CPU or CUDA operations."""
    from pytorch3d.loss import chamfer_distance
    from pytorch3d.ops import knn_points, sample_farthest_points

    def chamfer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return chamfer_distance(a, b)[0]

    table["farthest points"]["pytorch3d"] = lambda: sample_farthest_points(points, K=s["groups"])
    table["neighbours"]["pytorch3d"] = lambda: knn_points(centers, points, K=s["k"])
    table["chamfer of patches"]["pytorch3d"] = lambda: with_backward(chamfer, *patches)
    table["chamfer of clouds"]["pytorch3d"] = lambda: with_backward(chamfer, *whole)


def step_of(name: str, s: dict[str, Any]) -> Run:
    """Forward and backward pass of a method at paper scale."""
    from ssl_vision.backbones.build import BackboneConfig, build_backbone
    from ssl_vision.methods import METHODS
    from ssl_vision.methods.base import TrainPlan
    from ssl_vision.optim.recipe import OptimConfig
    from ssl_vision.types import Batch

    args = {"num_groups": s["groups"], "group_size": s["k"]}
    backbone = build_backbone(
        BackboneConfig(name="point_vit_small", args=args), input_size=s["points"]
    )
    entry = METHODS[name]
    plan = TrainPlan(steps_per_epoch=1, epochs=1, global_batch_size=s["clouds"])
    config = entry.config()  # type: ignore[call-arg]  # each method has its name
    method = entry.module(config, backbone, optim=OptimConfig(), plan=plan)
    method.to(s["device"]).train()
    points = torch.randn(s["clouds"], s["points"], 3, device=s["device"])
    batch = Batch(views={"cloud": points}, index=torch.arange(s["clouds"], device=s["device"]))

    def run() -> None:
        method.zero_grad()
        method.compute_loss(batch).loss.backward()

    return run


def measure(s: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Best seconds of alternating rounds, per task and contender."""
    found: dict[str, dict[str, float]] = {}
    for task, runs in contenders(s).items():
        rounds = 2 if task.startswith("step") else s["rounds"]
        best = dict.fromkeys(runs, float("inf"))
        for run in runs.values():
            run()
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if s["device"] != "cpu":
                    torch.cuda.synchronize()
                best[name] = min(best[name], time.perf_counter() - start)
        found[task] = best
        others = {n: t for n, t in best.items() if n != "ours"}
        note = ", ".join(f"{n} x{t / best['ours']:.1f}" for n, t in others.items()
                         if "ours" in best)  # fmt: skip
        print(task, {n: f"{1e3 * t:.2f} ms" for n, t in best.items()}, note)
    return found


def large_alone(name: str) -> None:
    """Group, and compare, 32 clouds of 8192 points once; print the growth of the peak in MiB."""
    from ssl_vision.losses import chamfer_distance
    from ssl_vision.points.grouping import group_points

    points, other = torch.randn(2, 32, 8192, 3)
    torch.randn(64, 64) @ torch.randn(64, 64)  # libraries are loaded before the start is taken
    with_backward(lambda a, b: chamfer_distance(a, b, power=2), points[:1, :64], other[:1, :64])
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    if name == "ours group":
        group_points(points, num_groups=512, group_size=32)
    elif name == "plain group":
        plain_knn(points[:, :512], points, 32)
    elif name == "ours chamfer":
        with_backward(lambda a, b: chamfer_distance(a, b, power=2), points, other)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"mib": (peak - start) / 1024, "seconds": seconds}))


def measure_large() -> dict[str, dict[str, float]]:
    """Peak memory per contender; the plain chamfer is computed: its 32 x 8192^2 x 3 floats."""
    found = {}
    for name in ("ours group", "plain group", "ours chamfer"):
        output = subprocess.run(
            [sys.executable, BENCHMARK, "points", f"alone={name}"],
            capture_output=True,
            text=True,
            check=True,
        )
        found[name] = json.loads(output.stdout.strip().splitlines()[-1])
    found["plain chamfer (by arithmetic)"] = {"mib": 32 * 8192**2 * 3 * 4 / 2**20}
    for name, values in found.items():
        print(name, values)
    return found


def main(arguments: list[str]) -> int:
    """Run with `key=value` settings."""
    settings = read_settings(arguments, DEFAULTS)
    torch.set_num_threads(settings["threads"])
    if settings["alone"]:
        large_alone(settings["alone"])
        return 0
    found: dict[str, Any] = {"settings": settings, "seconds": measure(settings)}
    if settings["large"]:
        found["large"] = measure_large()
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(found, indent=1))
    return 0
