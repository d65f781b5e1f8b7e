import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ssl_vision.distributed import (
    all_gather,
    all_reduce_mean,
    all_reduce_sum,
    any_rank,
    rank,
    usable_cores,
)

ROWS = torch.arange(8.0).reshape(4, 2) / 7  # rows of both processes


def loss_of_sum(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(dim=0).pow(3).sum()


def on_one_rank() -> dict[str, Any]:
    mine = ROWS[rank() * 2 : rank() * 2 + 2].clone().requires_grad_()
    summed = all_reduce_sum(mine.square().sum(dim=0)).pow(3).sum()
    (through_sum,) = torch.autograd.grad(summed, mine)
    gathered = loss_of_sum(all_gather(mine))
    (through_gather,) = torch.autograd.grad(gathered, mine)
    return {
        "values": (summed.item(), gathered.item(), all_reduce_mean(torch.ones(1)).item()),
        "through_sum": through_sum.numpy(),
        "through_gather": through_gather.numpy(),
        "any": (any_rank(rank() == 1), any_rank(False)),
    }


@pytest.mark.distributed
def test_collectives_give_the_joined_batch_in_value_and_gradient(
    run_distributed: Callable[..., list[Any]],
) -> None:
    joined = ROWS.clone().requires_grad_()
    loss = loss_of_sum(joined)
    (gradient,) = torch.autograd.grad(loss, joined)
    results = run_distributed(on_one_rank)
    for process, result in enumerate(results):
        assert result["values"] == pytest.approx((loss.item(), loss.item(), 1.0), rel=1e-6)
        assert result["any"] == (True, False)
        # Every process computes the same loss; DDP's averaging divides the sum over them by 2.
        expected = 2 * gradient[process * 2 : process * 2 + 2].numpy()
        np.testing.assert_allclose(result["through_sum"], expected, rtol=1e-6)
        np.testing.assert_allclose(result["through_gather"], expected, rtol=1e-6)


def test_one_process_is_the_identity() -> None:
    rows = ROWS.clone()
    assert all_reduce_sum(rows) is rows
    assert all_gather(rows) is rows
    assert any_rank(True)


def test_cores_are_counted_where_the_system_does_not_say_which(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
