"""Fixtures of the whole suite: golden values, and functions run on several gloo processes."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden("mae")` -> arrays of the authors' official code.

    Skips where the files are absent, but fails where SSL_VISION_GOLDEN promised them.
    """
    promised = os.environ.get("SSL_VISION_GOLDEN")
    folder = Path(promised or Path(__file__).resolve().parents[2] / "shared" / "golden")

    def load(name: str) -> dict[str, np.ndarray]:
        path = folder / f"{name}.npz"
        if not path.exists():
            message = f"golden values {path} not found"
            if promised:
                pytest.fail(f"{message}, though SSL_VISION_GOLDEN is set")
            pytest.skip(f"{message}; set SSL_VISION_GOLDEN to their folder")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return load


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
def run_distributed() -> Callable[..., list[Any]]:
    """`run_distributed(function, *args, world_size=2)` -> what each gloo process returned.

    Processes are forked, so `function` may be any function of a test file; it must return
    something picklable (tensors as NumPy arrays or lists).
    """

    def run(function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
        context = mp.get_context("fork")
        with context.Manager() as manager:
            results = manager.dict()
            mp.start_processes(
                _entry,
                args=(world_size, _free_port(), function, args, results),
                nprocs=world_size,
                start_method="fork",
            )
            return [results[rank] for rank in range(world_size)]

    return run
