"""What a checkpoint holds, taken from and put back into a method and its optimizer.

Only what cannot be derived is saved: weights and buffers (teachers and centres among them), the
optimizer's moments, the loss scaler, counters. Schedules and random draws are functions of the
step. Tensors are saved whole, also where FSDP2 shards them, so that a checkpoint fits any number
of processes and any strategy.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ssl_vision.engine.checkpoint import SCHEMA, State
from ssl_vision.errors import CheckpointError
from ssl_vision.methods.base import Method

Value = TypeVar("Value")
_MAX_NAMES = 5  # of differing tensors in a message


def capture(method: Method, optimizer: Optimizer, *, scaler: GradScaler | None = None) -> State:
    """CPU copy of the training state; a collective under FSDP2.

    Args:
        method: The method being trained.
        optimizer: Its optimizer.
        scaler: Gradient scaler of fp16 training, if any.
    """
    counters: dict[str, object] = {}
    method.on_save_checkpoint(counters)
    return {
        "schema": SCHEMA,
        "step": method.step,
        "method": counters,
        "state_dict": {name: _copy(value) for name, value in method.state_dict().items()},
        "optimizer": _optimizer_state(method, optimizer),
        "scaler": None if scaler is None else dict(scaler.state_dict()),
    }


def restore(
    state: State, method: Method, optimizer: Optimizer, *, scaler: GradScaler | None = None
) -> None:
    """Put a captured state back, in place.

    Raises:
        CheckpointError: The model has other tensors than the checkpoint; the message lists them.
    """
    check_model(state["state_dict"], method)
    for name, tensor in method.state_dict().items():
        _assign(tensor, state["state_dict"][name])
    _restore_optimizer(state["optimizer"], method, optimizer)
    method.on_load_checkpoint(dict(state["method"]))
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])


def check_model(saved: Mapping[str, Tensor], method: Method) -> None:
    """Raise CheckpointError unless names and shapes of all tensors agree."""
    own = {name: tuple(value.shape) for name, value in method.state_dict().items()}
    other = {name: tuple(value.shape) for name, value in saved.items()}
    if own == other:
        return
    lines = [
        f"{n} {list(other[n])} -> {list(own[n])}" for n in own if other.get(n, own[n]) != own[n]
    ]
    lines += [f"{n} is new" for n in own.keys() - other.keys()]
    lines += [f"{n} is gone" for n in other.keys() - own.keys()]
    more = f" and {len(lines) - _MAX_NAMES} more" if len(lines) > _MAX_NAMES else ""
    raise CheckpointError(
        f"the checkpoint is of another model: {'; '.join(sorted(lines)[:_MAX_NAMES])}{more}. "
        "Set the old method and backbone again, or a new run_dir; init_from takes over a backbone."
    )


def _names(method: Method) -> dict[int, str]:
    return {id(parameter): name for name, parameter in method.named_parameters()}


def _optimizer_state(method: Method, optimizer: Optimizer) -> dict[str, dict[str, object]]:
    """Moments by parameter name: the order of parameters may change, names do not."""
    names = _names(method)
    return {
        names[id(parameter)]: {key: _copy(value) for key, value in moments.items()}
        for parameter, moments in optimizer.state.items()
    }


def _restore_optimizer(
    saved: Mapping[str, Mapping[str, object]], method: Method, optimizer: Optimizer
) -> None:
    names = _names(method)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = saved.get(names[id(parameter)])
            if moments is not None:
                # As PyTorch has it: Adam's counter is on the CPU unless its kernels are fused.
                counter_on_cpu = not (group.get("fused") or group.get("capturable"))
                optimizer.state[parameter] = {
                    key: value.clone()
                    if isinstance(value, Tensor) and key == "step" and counter_on_cpu
                    else _like(value, parameter)
                    for key, value in moments.items()
                }


def whole(tensor: Tensor) -> Tensor:
    """The tensor, put together where FSDP2 shards it; a collective then."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _copy(value: Value) -> Value | Tensor:
    """CPU copy of a tensor, whole; other values as they are."""
    return whole(value.detach()).to("cpu", copy=True) if isinstance(value, Tensor) else value


def _assign(target: Tensor, source: Tensor) -> None:
    with torch.no_grad():
        if isinstance(target, DTensor):
            source = distribute_tensor(
                source.to(target.device), target.device_mesh, target.placements
            )
        target.copy_(source)


def _like(value: Value, parameter: Tensor) -> Value | Tensor:
    """A saved moment in the place and layout of its parameter; scalars only in its place."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements
        )
    return value.to(parameter.device, copy=True)
