"""Interrupted runs against straight ones, bit for bit: methods x places of the interruption.

Run: tools/benchmark.py resume [methods=barlow_twins,mae,...] [kills=5] [start=shell|fork]
     [seed=0] [out=FILE]

Each method's tiny recipe, with a network of a few thousand parameters, trains on some thirty
samples of built-in data, straight through and interrupted. A signal ends the process (SIGTERM and
SIGUSR1 save first, SIGKILL does not), and the same command goes on in a new one. Last, the run is
killed `kills` times at random moments, every other time while it saves: `tools/train.py` as started
from a shell, or (start=fork, which spares it importing PyTorch) the same command in a fork of this
process, as everywhere else here.

Compared are: the samples of every batch, the whole last checkpoint (weights, averages, centres,
statistics, moments, counters, place in the data) and metrics.jsonl (losses, learning rates). A
cell says "equal", or names the first thing that differs. The exit status is 1 if any does.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from benchmarks import _witness
from benchmarks._children import fork, wait
from benchmarks._settings import read_settings
from benchmarks._witness import Stop, samples, witness

from ssl_vision.commands import main as cli
from ssl_vision.engine.checkpoint import list_checkpoints, load_state

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS: dict[str, Any] = {"methods": "", "kills": 5, "start": "shell", "seed": 0, "out": ""}

STEPS_PER_EPOCH = 3  # 30 samples in batches of 8; some are left over
_COMMON = (
    "data.path=digits", "data.train_fraction=0.02", "data.global_batch_size=8",
    "data.num_threads=1", "trainer.accelerator=cpu", "trainer.epochs=2",
    "trainer.log_every_steps=1", "online_eval.every_epochs=0",
)  # fmt: skip
_CONV = ("backbone.args.channels=[8,8,8,8]", "backbone.args.stem_width=4")
_VIT = ("backbone.args.embed_dim=24", "backbone.args.depth=2", "backbone.args.num_heads=2",
        "backbone.drop_path=0.1")  # fmt: skip
_HEAD = ("method.hidden_dim=16", "method.bottleneck_dim=8", "method.teacher_temperature_epochs=1")
_POINTS = (
    "backbone.args={embed_dim: 24, depth: 2, num_heads: 2, num_groups: 8, group_size: 8, "
    "patch_hidden: 16}",
    "method.decoder_depth=1", "method.decoder_heads=2", "data.views.cloud.num_points=64",
    "data.path=shapes", "data.train_fraction=0.03",
)  # fmt: skip
# Method -> what makes its tiny recipe one of milliseconds. What changes with time changes in
# these two epochs: temperatures, frozen layers, masked patches.
METHODS: dict[str, tuple[str, ...]] = {
    "barlow_twins": ("method.projector_dims=[16,16]", *_CONV),
    "simclr": ("method.projection_dim=8", "method.memory_size=12", "method.memory_momentum=0.9",
               "method.is_temperature_learned=true", *_CONV),
    "vicreg": ("method.projector_dims=[16,16]", *_CONV),
    "lejepa": ("method.projector_dims=[16,8]", "method.num_directions=16", *_CONV),
    "mae": ("method.decoder_width=16", "method.decoder_num_heads=2", *_VIT),
    "ijepa": ("method.predictor_width=16", "method.predictor_num_heads=2", *_VIT,
              "backbone.args.patch_size=7"),
    "croco": ("method.decoder_width=16", "method.decoder_num_heads=2", "method.decoder_depth=1",
              "data.path=blocks", "data.train_fraction=0.025", *_VIT),
    # Features, of a network with batch norms that must not move.
    "distill": ("method.teachers.one.weights=timm:resnet10t?pretrained=false", *_CONV),
    "dino": ("method.num_prototypes=32", *_HEAD, *_CONV),
    "poa": ("method.num_prototypes=[16,32]", "method.patch_start_epochs=1", *_HEAD, *_VIT,
            "method.elastic={min_width: 12, min_depth: [1]}"),
    "random_teacher": ("method.num_prototypes=32", "method.hidden_dim=16",
                       "method.bottleneck_dim=8", "method.student_init=between",
                       "method.student_distance=0.5", *_CONV),
    "point_mae": _POINTS,
    "point_cmae": _POINTS,
    "supervised": ("method.ema_momentum=0.9", "method.mixing.map_from=teacher", *_VIT),
}  # fmt: skip

_KILL, _TERM, _USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1
_MID = "mid-accumulation"
# Place -> signals, each to one process; in the order of the run, so that one run can have them all.
PLACES: dict[str, tuple[Stop, ...]] = {
    "step 0": (Stop(1, _KILL),),  # nothing was saved: from the start
    "mid-epoch": (Stop(1, _TERM), Stop(2, _USR1)),  # then one batch of the epoch is left
    "last batch": (Stop(STEPS_PER_EPOCH, _TERM),),  # saved where the epoch ends
    "epoch edge": (Stop(STEPS_PER_EPOCH + 1, _KILL),),  # at the first batch of the next epoch
    _MID: (Stop(STEPS_PER_EPOCH + 2, _KILL, batch=1), Stop(STEPS_PER_EPOCH + 2, _TERM, batch=1)),
}


def command(method: str, run: Path, *extra: str) -> list[str]:
    """Arguments of `tools/train.py` for a method's run of milliseconds."""
    recipe = str(ROOT / "configs" / method / "tiny_cpu.yaml")
    return [recipe, *_COMMON, *METHODS[method], f"run_dir={run}", *extra]


def notes_of(run: Path) -> Path:
    """Where the samples of a run are noted."""
    return run.with_name(f"{run.name}.notes")


def start_here(arguments: Sequence[str], run: Path, stop: Stop | None = None) -> int:
    """Train in a process forked from this one; its id."""

    def go() -> int:
        log = os.open(run.with_name(f"{run.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        witness(notes_of(run), stop)
        return cli.main(["train", *arguments])

    return fork(go)


def start_anew(arguments: Sequence[str], run: Path) -> int:
    """Train by `tools/train.py`, as from a shell; the process's id."""
    log = str(run.with_name(f"{run.name}.log"))
    line = [sys.executable, str(_witness.__file__), str(notes_of(run)), "tools/train.py"]
    output = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.posix_spawn(
        sys.executable,
        [*line, *arguments],
        os.environ | {"PYTHONPATH": path},
        file_actions=[output, (os.POSIX_SPAWN_DUP2, 1, 2)],
    )


def expect(status: int, wanted: int, run: Path) -> None:
    """Raise RuntimeError, with what the run printed, unless it ended as it should."""
    if status != wanted:
        printed = run.with_name(f"{run.name}.log").read_text()[-2000:]
        raise RuntimeError(f"{run.name} ended with status {status}, not {wanted}:\n{printed}")


def run_straight(method: str, run: Path, *extra: str) -> Path:
    """Train to the end at once; the run's folder."""
    expect(wait(start_here(command(method, run, *extra), run)), 0, run)
    return run


def run_interrupted(method: str, run: Path, stops: Iterable[Stop], *extra: str) -> Path:
    """Train to the end, stopped again and again; the run's folder."""
    arguments = command(method, run, *extra)
    for stop in stops:
        status = wait(start_here(arguments, run, stop))
        expect(status, -stop.by if stop.by == _KILL else 128 + stop.by, run)
    expect(wait(start_here(arguments, run)), 0, run)
    return run


def extra_of_kills(kills: int) -> tuple[str, ...]:
    """Settings of a run long enough to be killed so often, that saves all the time."""
    return ("trainer.accumulate=2", f"trainer.epochs={kills + 1}",
            "trainer.checkpoint_every_steps=1")  # fmt: skip


def run_killed(run: Path, start: Callable[[], int], *, kills: int, seed: int) -> int:
    """Train to the end, killed at random moments; how many kills cut a save off.

    Args:
        run: Folder of the run.
        start: Starts, or goes on with, the run; the id of its process.
        kills: How often it is killed; every other time once it is seen to save.
        seed: Of the moments.
    """
    random, num_cut = Random(seed), 0
    for number in range(kills):
        pid = start()
        _await(_num_batches(run) + 1 + random.randrange(4), run, pid)
        if number % 2:
            _await_save(run, pid)
        time.sleep(random.uniform(0, 0.004 if number % 2 else 0.05))
        os.kill(pid, _KILL)
        expect(wait(pid), -_KILL, run)
        num_cut += bool(_saves_under_way(run))
    expect(wait(start()), 0, run)
    return num_cut


def _num_batches(run: Path) -> int:
    notes = notes_of(run)
    return notes.read_bytes().count(b"\n") if notes.exists() else 0


def _await(num_batches: int, run: Path, pid: int) -> None:
    while _num_batches(run) < num_batches and _is_alive(pid):
        time.sleep(0.001)


def _await_save(run: Path, pid: int) -> None:
    while not _saves_under_way(run) and _is_alive(pid):
        time.sleep(0.0002)


def _saves_under_way(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".tmp-*"))


def _is_alive(pid: int) -> bool:
    """Whether a child runs; its exit status stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def last_state(run: Path) -> dict[str, Any]:
    """All of a run's last checkpoint."""
    return load_state(list_checkpoints(run / "checkpoints")[-1])


def compare(straight: Path, other: Path) -> str:
    """`equal`, or the name of the first thing that differs between two runs."""
    return next((n for n in map(first_difference, *_contents(straight, other)) if n), "equal")


def _contents(*runs: Path) -> Iterable[list[dict[str, Any]]]:
    """What is compared of each run: samples, the checkpoint, the lines of the log."""
    for run in runs:
        state = last_state(run)
        state["config"] = yaml.safe_load(state["config"])
        state["config"].pop("run_dir")
        lines = (run / "metrics.jsonl").read_text().splitlines()
        yield [{"samples": samples(notes_of(run))}, {"checkpoint": state}, {"metrics": lines}]


def first_difference(a: Any, b: Any, where: str = "") -> str | None:
    """Name of the first entry of nested containers in which two of them differ; None if equal."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else where
    if isinstance(a, dict) and isinstance(b, dict):
        found = (
            first_difference(a[key], b[key], f"{where}.{key}".lstrip("."))
            if key in a and key in b
            else f"{where}.{key} (only in one)".lstrip(".")
            for key in {**a, **b}
        )
        return next((name for name in found if name), None)
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        found = (first_difference(x, y, f"{where}[{i}]") for i, (x, y) in pairs)
        return next((name for name in found if name), None)
    return None if type(a) is type(b) and a == b else where


def row(
    method: str, folder: Path, *, kills: int, start: Callable[..., int], seed: int
) -> list[str]:
    """The cells of a method."""
    # Every update of two batches where one is cut in half.
    extras = {False: (), True: ("trainer.accumulate=2",)}
    straight = {
        halved: run_straight(method, folder / f"straight-{halved}", *extra)
        for halved, extra in extras.items()
    }
    cells = []
    for place, stops in PLACES.items():
        halved = place == _MID
        run = run_interrupted(method, folder / place.replace(" ", "_"), stops, *extras[halved])
        cells.append(compare(straight[halved], run))
    if kills:
        never = run_straight(method, folder / "never", *extra_of_kills(kills))
        run = folder / "killed"
        often = command(method, run, *extra_of_kills(kills))
        num_cut = run_killed(run, lambda: start(often, run), kills=kills, seed=seed)
        cells.append(f"{compare(never, run)} ({num_cut} in a save)")
    return cells


def warm_up(folder: Path) -> None:
    """Compile kernels and import modules here, for all processes forked from this one."""
    for method in ("dino", "point_mae"):
        arguments = command(method, folder / method, "trainer.max_steps=1")
        with redirect_stdout(StringIO()):
            status = cli.main(["train", *arguments])
        if status:
            raise RuntimeError(f"the tiny run of {method} ended with status {status}")


def main(arguments: list[str]) -> int:
    """Run the matrix; 1 if something differs."""
    settings = read_settings(arguments, DEFAULTS)
    kills = settings["kills"]
    start = {"shell": start_anew, "fork": start_here}[settings["start"]]
    methods = settings["methods"].split(",") if settings["methods"] else list(METHODS)
    for method in methods:
        if method not in METHODS:
            print(f"{method!r} is unknown; choose from {', '.join(METHODS)}", file=sys.stderr)
            return 2
    os.chdir(ROOT)
    torch.set_num_threads(1)
    titles = ["method", *PLACES, *([f"{kills} random kills"] if kills else [])]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    all_cells = []
    with tempfile.TemporaryDirectory() as name:
        warm_up(Path(name))
        print("\n".join(lines), flush=True)
        for method in methods:
            folder = Path(name) / f"matrix-{method}"
            folder.mkdir()
            seed = settings["seed"] + list(METHODS).index(method)
            cells = row(method, folder, kills=kills, start=start, seed=seed)
            lines.append(f"| {' | '.join([method, *cells])} |")
            print(lines[-1], flush=True)
            all_cells += cells
    if settings["out"]:
        Path(settings["out"]).write_text("\n".join(lines) + "\n")
    return int(not all(cell.startswith("equal") for cell in all_cells))
