"""Methods trained by the real Lightning trainer on batches made by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_vision.methods.base import Method
from ssl_vision.types import Batch


class _Batches(Dataset):
    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


@pytest.fixture
def fit() -> Callable[..., L.Trainer]:
    """`fit(method, batches, epochs=1, accumulate=1)`: train on these batches, in this order."""

    def run(
        method: Method, batches: Sequence[Batch], *, epochs: int = 1, accumulate: int = 1, **kw: Any
    ) -> L.Trainer:
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            accumulate_grad_batches=accumulate,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **kw,
        )
        trainer.fit(method, DataLoader(_Batches(batches), batch_size=None, shuffle=False))
        return trainer

    return run


@pytest.fixture
def random_views() -> Callable[..., Batch]:
    """`random_views({"a": 32}, num=4, seed=0)` -> Batch of normal images of these sizes."""

    def make(
        sizes: dict[str, int | tuple[int, int]],
        *,
        num: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        views = {}
        for name, size in sizes.items():
            side, count = size if isinstance(size, tuple) else (size, 1)
            views[name] = torch.randn(count * num, 3, side, side, generator=generator).to(dtype)
        return Batch(views=views, index=torch.arange(num) + 100 * seed)

    return make
