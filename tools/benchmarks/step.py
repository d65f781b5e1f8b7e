#!/usr/bin/env python3
"""One training step side by side: our engine, a bare loop, lightly, stable-pretraining.

Run: tools/benchmark.py step [method=barlow_twins|mae|dino|poa|all] [recipe=FILE.yaml]
     [batch=32] [steps=12] [rounds=3] [device=cpu|cuda] [precision=32|bf16] [threads=1] [out=FILE]
     [contenders=bare,ours,lightly,spt,turns]

Every contender trains on the same batches in memory, so that loaders do not count. `bare` is our
method in a loop written by hand (forward, backward, optimizer, teacher: no Lightning, no checks, no
logs). `lightly` is the method as lightly's examples write it (their head and loss, our backbone,
Lightning), `spt` is stable-pretraining's module. Contenders that are not installed are left out.
Figures are medians of the steps of alternating rounds, each in a process of its own: seconds of the
wall, and seconds of the CPU, which other programs on the machine disturb less. Memory is the peak
of such a process.

What the engine costs, `ours` over `bare`, is too little to be seen between processes, whose memory
lies differently: a step of each takes turns in one process, and the median of the differences of
neighbours is shown, with its standard error.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from io import StringIO
from pathlib import Path
from statistics import median, stdev
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks._settings import read_settings
from rich.console import Console

from ssl_vision.config import TrainConfig, load_train_config
from ssl_vision.engine.exporter import Exporter
from ssl_vision.engine.run import Run
from ssl_vision.engine.run_dir import RunFolder
from ssl_vision.engine.strategy import build_fabric
from ssl_vision.engine.stream import BatchStream
from ssl_vision.engine.train import build_method, fit
from ssl_vision.methods.base import TrainPlan
from ssl_vision.optim.recipe import apply_schedules
from ssl_vision.types import Batch

DEFAULTS: dict[str, Any] = {
    "method": "all", "recipe": "", "batch": 32, "steps": 12, "rounds": 3, "device": "cpu",
    "precision": "32", "threads": 1, "out": "", "alone": "", "contenders": "all",
}  # fmt: skip
METHODS = (
    "barlow_twins",
    "simclr",
    "vicreg",
    "lejepa",
    "mae",
    "ijepa",
    "dino",
    "poa",
    "random_teacher",
    "supervised",
)
NUM_CLASSES = 10  # of the labels that `supervised` reads
WARMUP_STEPS = 3  # of each round, not counted
Clock = list[tuple[float, float]]  # wall and CPU seconds at the start of each step
TURNS = "turns"  # stands among the contenders for what the engine costs


class FixedLoader:
    """The same few batches, over and over; notes when each is asked for."""

    def __init__(
        self,
        batches: list[Batch],
        steps: int,
        clock: Clock,
        between: Callable[[Batch], None] | None = None,
    ) -> None:
        self._batches, self._steps, self._clock = batches, steps, clock
        self._between = between

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Generator[Batch, None, None]:
        for step in range(self._steps):
            if self._batches[0].index.is_cuda:
                torch.cuda.synchronize()
            batch = self._batches[step % len(self._batches)]
            if self._between is not None:
                self._between(batch)
            self._clock.append((time.perf_counter(), time.process_time()))
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class NoData:
    """Stands in for the data module: batches are normalised already."""

    train_source: tuple[()] = ()

    def prepare(self, batch: Batch) -> Batch:
        """The batch."""
        return batch

    def train_loader(self) -> SimpleNamespace:
        """A loader that has nothing to report of unreadable samples."""
        return SimpleNamespace(on_error="raise")


def configure(settings: dict[str, Any], method: str) -> TrainConfig:
    """The method's tiny recipe, or the one given, without scores and at the size asked for."""
    recipe = settings["recipe"] or f"configs/{method}/tiny_cpu.yaml"
    return load_train_config(
        [recipe],
        [
            f"data.global_batch_size={settings['batch']}",
            "online_eval.every_epochs=0",
            f"trainer.precision={settings['precision']}",
            f"trainer.accelerator={'gpu' if settings['device'] == 'cuda' else 'cpu'}",
            "trainer.devices=1",
        ],
    )


def make_batches(config: TrainConfig, *, device: str) -> list[Batch]:
    """Four batches of noise with the recipe's views."""
    size = config.data.global_batch_size
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(4):
        views = {
            name: torch.randn(view.count * size, 3, view.size_px, view.size_px, generator=generator)
            for name, view in config.data.views.items()
        }
        index = torch.arange(size) + number * size
        batches.append(Batch(views=views, index=index, label=index % NUM_CLASSES).to(device))
    return batches


def make_plan(config: TrainConfig, steps: int) -> TrainPlan:
    """A run of as many steps as are timed."""
    return TrainPlan(
        steps_per_epoch=steps,
        epochs=config.trainer.epochs,
        global_batch_size=config.data.global_batch_size,
        input_size=config.data.input_size,
        num_classes=NUM_CLASSES,
    )


def run_ours(
    config: TrainConfig,
    steps: int,
    device: str,
    clock: Clock,
    between: Callable[[Batch], None] | None = None,
) -> None:
    """The engine as it is, with checkpoints and logs at their usual distance."""
    plan, fabric = make_plan(config, steps), build_fabric(config)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            config=config,
            folder=RunFolder(Path(folder)),
            stream=BatchStream(
                FixedLoader(make_batches(config, device=device), steps, clock, between),
                seed=0,
                steps_per_epoch=steps,
                accumulate=1,
                global_batch_size=plan.global_batch_size,
                stop_step=steps,
                device=fabric.device,
            ),
            fabric=fabric,
            console=Console(file=StringIO()),
            stop_step=steps,
        )
        method = build_method(config, plan)
        data: Any = NoData()
        fit(run, method, data, Exporter(run, method))


class Bare:
    """The same method in ten lines."""

    def __init__(self, config: TrainConfig, steps: int, device: str) -> None:
        self._method = build_method(config, make_plan(config, steps)).to(device).train()
        self._optimizer = self._method.make_optimizer()
        self._device, self._is_mixed = device, config.trainer.precision == "bf16"

    def step(self, batch: Batch) -> None:
        """One update."""
        method, optimizer = self._method, self._optimizer
        apply_schedules(optimizer, method.optim, plan=method.plan, step=method.step)
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._is_mixed):
            loss = method.compute_loss(batch).loss
        optimizer.zero_grad()
        loss.backward()
        method.before_update(method.step)
        optimizer.step()
        method.after_update(method.step)
        method.step += 1


def run_bare(config: TrainConfig, steps: int, device: str, clock: Clock) -> None:
    """The method by hand, alone."""
    bare = Bare(config, steps, device)
    for batch in FixedLoader(make_batches(config, device=device), steps, clock):
        bare.step(batch)


def run_turns(config: TrainConfig, steps: int, device: str) -> list[float]:
    """CPU seconds of a step of the engine over the one by hand before it, in the same process."""
    bare = Bare(config, steps, device)
    ours: Clock = []
    by_hand: list[tuple[float, float]] = []  # when it began, and its seconds

    def step(batch: Batch) -> None:
        end = time.process_time()
        bare.step(batch)
        by_hand.append((end, time.process_time() - end))

    run_ours(config, steps, device, ours, between=step)
    turns = zip(ours, by_hand, by_hand[1:], strict=False)
    return [end - begin[1] - seconds for begin, (_, seconds), (end, _) in turns][WARMUP_STEPS:]


def run_peer(
    build: Callable[..., Any], config: TrainConfig, steps: int, device: str, clock: Clock
) -> None:
    """A peer's module around our backbone, in Lightning as its examples have it."""
    import lightning as L

    module = build(config, build_method(config, make_plan(config, steps)))
    L.Trainer(
        max_epochs=1, accelerator="gpu" if device == "cuda" else "cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
    ).fit(module, FixedLoader(make_batches(config, device=device), steps, clock))  # fmt: skip


def run_lightly(config: TrainConfig, steps: int, device: str, clock: Clock) -> None:
    """Lightly's head and loss."""
    from benchmarks._step_lightly import build

    run_peer(build, config, steps, device, clock)


def run_spt(config: TrainConfig, steps: int, device: str, clock: Clock) -> None:
    """stable-pretraining's method class."""
    from benchmarks._step_spt import build

    run_peer(build, config, steps, device, clock)


CONTENDERS: dict[str, Callable[[TrainConfig, int, str, Clock], None]] = {
    "bare": run_bare,
    "ours": run_ours,
    "lightly": run_lightly,
    "spt": run_spt,
}


def time_here(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Wall and CPU seconds of each step of one round in this process, and its peak memory."""
    clock: Clock = []
    config = configure(settings, settings["method"])
    if name == TURNS:
        return {"over": run_turns(config, settings["steps"] + WARMUP_STEPS, settings["device"])}
    CONTENDERS[name](config, settings["steps"] + WARMUP_STEPS, settings["device"], clock)
    if settings["device"] == "cuda":
        peak_mb = torch.cuda.max_memory_allocated() / 1e6
    else:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    steps = [
        (after[0] - before[0], after[1] - before[1])
        for before, after in zip(clock[WARMUP_STEPS:], clock[WARMUP_STEPS + 1 :], strict=False)
    ]
    return {"steps": steps, "peak_mb": peak_mb}


def time_alone(name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """One round in a process of its own; None where the contender is missing or lacks the method.

    By itself: stable-pretraining changes Lightning's Trainer for everybody when imported.
    """
    words = [f"{key}={value}" for key, value in settings.items() if key not in ("out", "alone")]
    command = [sys.executable, "tools/benchmark.py", "step", *words, f"alone={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{name} is left out of {settings['method']}: {reason}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Medians of all contenders that are installed, for one method."""
    settings = settings | {"method": method}
    asked = settings["contenders"]
    names = (*CONTENDERS, TURNS) if asked == "all" else tuple(asked.split(","))
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(settings["rounds"]):
        for name in list(rounds):
            found = time_alone(name, settings)
            if found is None:
                del rounds[name]
            else:
                rounds[name].append(found)
    over = [1e3 * value for found in rounds.pop(TURNS, []) for value in found["over"]]
    results: dict[str, Any] = {}
    for name, found_rounds in rounds.items():
        steps = [step for found in found_rounds for step in found["steps"]]
        results[name] = {
            "wall_ms": 1e3 * median(wall for wall, _ in steps),
            "cpu_ms": 1e3 * median(cpu for _, cpu in steps),
            "peak_mb": max(found["peak_mb"] for found in found_rounds),
        }
    if over:
        results[TURNS] = {
            "over_ms": median(over),
            "error_ms": 1.25 * stdev(over) / len(over) ** 0.5,
        }
    return results


def show(method: str, found: dict[str, Any]) -> None:
    """A table row per contender, then what the engine costs."""
    for name, row in found.items():
        if name != TURNS:
            print(
                f"| {method} | {name} | {row['wall_ms']:.2f} | {row['cpu_ms']:.2f} | "
                f"{row['peak_mb']:.0f} |"
            )
    if TURNS in found:
        over = found[TURNS]
        print(f"{method}: ours over bare {over['over_ms']:+.2f} +- {over['error_ms']:.2f} CPU ms")


def main(arguments: list[str]) -> int:
    """Run the comparison."""
    settings = read_settings(arguments, DEFAULTS)
    torch.set_num_threads(settings["threads"])
    if settings["alone"]:
        print(json.dumps(time_here(settings["alone"], settings)))
        return 0
    methods = METHODS if settings["method"] == "all" else (settings["method"],)
    print("| method | contender | wall ms | CPU ms | peak MB |\n|---|---|---|---|---|")
    results = {}
    for method in methods:
        results[method] = compare(method, settings)
        show(method, results[method])
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps({"settings": settings, **results}, indent=1))
    return 0
