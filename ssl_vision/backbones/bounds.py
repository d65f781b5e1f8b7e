"""A bound on what a constructor takes: a small file must not ask for a network of terabytes."""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch.nn.modules import module as torch_module

from ssl_vision.errors import ConfigError


@contextlib.contextmanager
def bounded_network(max_elements: int) -> Iterator[None]:
    """Within it, networks built by this thread have at most so many parameters and buffers.

    A layer registers its memory before it is first written to, so that what is too large is
    refused while the system has not given it yet.

    Raises:
        ConfigError: One more is registered.
    """
    thread, seen = threading.get_ident(), 0

    def count(_: torch.nn.Module, name: str, value: torch.Tensor | None) -> None:
        nonlocal seen
        if threading.get_ident() != thread or value is None:
            return
        seen += value.numel()
        if seen > max_elements:
            raise ConfigError(
                f"the network would have more than the {max_elements:,} numbers that its weights "
                "can fill"
            )

    hooks = [
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
