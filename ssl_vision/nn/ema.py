"""Teachers: an exponential moving average of a student's weights, or a copy that never moves."""

import copy
from typing import Any, Generic, Self, TypeVar

import torch
from torch import nn


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Set the teacher to momentum * teacher + (1 - momentum) * student, parameters only.

    Buffers stay the teacher's own: its batch norms keep statistics of what it sees itself, as in
    DINO's code.

    Args:
        teacher: Network of the student's shape.
        student: Network to follow.
        momentum: m; 1 freezes the teacher, 0 copies the student.
    """
    averages = [p.data for p in teacher.parameters()]
    values = [p.data for p in student.parameters()]
    if averages:
        torch._foreach_mul_(averages, momentum)
        torch._foreach_add_(averages, values, alpha=1 - momentum)


Network_co = TypeVar("Network_co", bound=nn.Module, covariant=True)


class EmaTeacher(nn.Module, Generic[Network_co]):
    """A frozen copy of a network that follows it.

    It stays in training mode with its student: batch norms use the statistics of the batch, as
    DINO's teacher does. Switch its stochastic depth off with `backbones.build.set_drop_path`.

    Attributes:
        network: The copy.
    """

    def __init__(self, student: Network_co) -> None:
        super().__init__()
        self.network = copy.deepcopy(student)
        self.network.requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: object, **kwargs: object) -> Any:
        """What the copy makes of the arguments, without gradient."""
        return self.network(*args, **kwargs)

    def update(self, student: nn.Module, *, momentum: float) -> None:
        """Follow the student by one step; see `ema_update`."""
        ema_update(self.network, student, momentum=momentum)

    @torch.no_grad()
    def restart(self, student: nn.Module) -> None:
        """Become a copy of the student again, buffers included."""
        self.network.load_state_dict(student.state_dict())


class FrozenCopy(EmaTeacher[Network_co]):
    """A copy that nobody moves, always in evaluation mode: batch norms use what they have stored.

    Its weights belong to the state of whoever holds it; they change by `restart` alone.
    """

    def __init__(self, student: Network_co) -> None:
        super().__init__(student)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def update(self, student: nn.Module, *, momentum: float) -> None:
        """Refuse: it follows nobody."""
        raise RuntimeError("a frozen copy does not follow; use EmaTeacher.")
