"""Fixtures of the whole suite: golden values, and functions run on several gloo processes."""

import os
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest_plugins = ["tests.runs"]

torch.set_num_threads(1)  # two pytest workers on two cores; also makes sums reproducible


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where no CUDA device is found."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed_global_generators() -> None:
    """Every test draws the same numbers whatever ran before it, in whichever worker."""
    torch.manual_seed(0)
    np.random.seed(0)


def golden_folders() -> list[Path]:
    """Where golden values may lie, the first that has a file giving it."""
    here = Path(__file__).resolve().parent
    promised = os.environ.get("SSL_VISION_GOLDEN")
    first = [Path(promised)] if promised else []
    return [*first, here.parents[1] / "shared" / "golden", here / "golden"]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden("mae")` -> arrays of the authors' official code.

    Skips where no folder has the file, but fails where SSL_VISION_GOLDEN promised it.
    """

    def load(name: str) -> dict[str, np.ndarray]:
        for folder in golden_folders():
            if (folder / f"{name}.npz").exists():
                with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                    return dict(arrays)
        if os.environ.get("SSL_VISION_GOLDEN"):
            pytest.fail(
                f"no {name}.npz in any of {golden_folders()}, though SSL_VISION_GOLDEN is set"
            )
        pytest.skip(f"{name}.npz is not in the repository for its licence (tests/golden/README.md)")

    return load


# Imported once, by the server that processes are forked from. Nothing else may happen there.
_PRELOADED = ["torch", "numpy", "pytest", "ssl_vision.engine.train", "ssl_vision.tasks.evaluate"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _entry(rank: int, world_size: int, port: int, function: Any, args: Any, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size)
    )
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        results[rank] = function(*args)
    finally:
        dist.destroy_process_group()


@pytest.fixture
def run_distributed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """`run_distributed(function, *args, world_size=2)` -> what each gloo process returned.

    `function` may be any top-level function of a test file; it must return something picklable
    (tensors as NumPy arrays or lists). Processes are forked from a server that has imported this
    package and nothing else happened in: a fork of this process could not run autograd once a test
    before has exported or compiled a network.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1]))  # finds `tests.*`

    def run(function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        with context.Manager() as manager:
            results = manager.dict()
            mp.start_processes(
                _entry,
                args=(world_size, _free_port(), function, args, results),
                nprocs=world_size,
                start_method="forkserver",
            )
            return [results[rank] for rank in range(world_size)]

    return run


@pytest.fixture
def official_weights() -> Callable[[torch.nn.Module, list[str]], None]:
    """`official_weights(module, names)` fills a point network or method by the golden files' rule.

    Each tensor holds 0.06 times normal numbers seeded with the CRC of its official name, plus 1
    where it is a one-dimensional weight.
    """
    from ssl_vision.zoo.convert_points import rename_finetuned, rename_pretrained

    def fill(module: torch.nn.Module, names: list[str]) -> None:
        marks = {name: torch.tensor([float(i)]) for i, name in enumerate(names)}
        if any(name.startswith("MAE_encoder.") for name in names):
            _, encoder, others = rename_pretrained(marks)
        else:
            encoder, others = rename_finetuned(marks)
        inside = "backbone.model." if hasattr(module, "backbone") else ""
        ours = {inside + name: mark for name, mark in encoder.items()} | others
        state = module.state_dict()
        for name, value in state.items():
            if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                continue
            official = names[int(ours[name])]
            random = np.random.RandomState(zlib.crc32(official.encode()))
            drawn = 0.06 * random.standard_normal(value.numel())
            if value.ndim == 1 and official.endswith("weight"):
                drawn += 1
            state[name] = torch.from_numpy(drawn.astype(np.float32)).view_as(value)
        module.load_state_dict(state)

    return fill
