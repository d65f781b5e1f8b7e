"""Rank, world size and collectives; every function is the identity on one process.

The collectives are differentiable: the backward of a sum over processes is the sum of the
incoming gradients over processes. A loss computed from them on every process has, after DDP's
averaging, the gradient of the same loss on the joined batch. A plain `dist.all_reduce` is outside
autograd and silently divides that gradient by the number of processes.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")


def usable_cores() -> int:
    """Cores this process may run on; all of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes this process may have at most: of the machine, or of its control group."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or "max"
            found = min(found, int(Path(path).read_text()))
    return found


def is_distributed() -> bool:
    """Whether a process group of more than one process is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Index of this process, 0 on one process."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class _SharedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale if ctx.scale != 1 else gradients[0], None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.num_rows = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.num_rows
        return total[start : start + ctx.num_rows]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over processes, same shape; differentiable."""
    if not is_distributed():
        return tensor
    return _AllReduceSum.apply(tensor)


def shared_sum(tensor: Tensor, *, is_true: bool = True) -> Tensor:
    """`all_reduce_sum` whose result every process uses alike: no collective on the way back.

    Every process then holds the same gradient, and the sum of W equal ones is a factor W.

    Args:
        tensor: What is summed.
        is_true: Whether the gradient has the factor; without it, it is 1/W of the true one, as in
            codes whose all-reduce is outside autograd.
    """
    if not is_distributed():
        return tensor
    return cast(Tensor, _SharedSum.apply(tensor, float(world_size()) if is_true else 1.0))


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Mean over processes, same shape; differentiable."""
    return all_reduce_sum(tensor) / world_size()


def all_gather(tensor: Tensor) -> Tensor:
    """Rows of all processes in rank order, (B, ...) -> (W*B, ...); differentiable.

    Every process must hold the same number of rows.
    """
    if not is_distributed():
        return tensor
    return _AllGather.apply(tensor)


def any_rank(flag: bool, *, device: torch.device | str = "cpu") -> bool:
    """Whether `flag` is true on any process; a collective, so every process must call it."""
    return any_rank_each([flag], device=device)[0]


def any_rank_each(flags: Sequence[bool], *, device: torch.device | str = "cpu") -> list[bool]:
    """Whether each flag is true on any process; one collective for all flags."""
    if not is_distributed():
        return list(flags)
    values = torch.tensor([int(flag) for flag in flags], device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def broadcast_object(value: _T) -> _T:
    """`value` of rank 0 on every process; a collective."""
    if not is_distributed():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def all_gather_object(value: _T) -> list[_T]:
    """Values of all processes in rank order, on each; a collective."""
    if not is_distributed():
        return [value]
    values: list[_T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return cast(list[_T], values)


def barrier() -> None:
    """Wait for every process."""
    if is_distributed():
        dist.barrier()
