"""What decides features beside weights and data: the network's settings, and the code."""

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

_CODE = ("data", "points", "backbones", "nn", "views.py", "types.py", "evaluation/features.py")
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "pillow")
_PLAIN = (bool, int, float, str, type(None))


def network_digest(network: nn.Module) -> str:
    """Digest of modules, their plain settings and buffers that no file of weights holds.

    Equal weights give other features with another pooling, rate, size or rule of positions.
    """
    state = hashlib.sha256()
    for name, module in network.named_modules():
        own = {key: _plain(value) for key, value in vars(module).items() if key != "training"}
        known = sorted((key, value) for key, value in own.items() if value is not None)
        state.update(repr((name, type(module).__qualname__, known)).encode())
    kept = network.state_dict().keys()
    for name, buffer in network.named_buffers():
        if name not in kept:
            state.update(name.encode() + buffer.detach().cpu().float().numpy().tobytes())
    return state.hexdigest()


def _plain(value: Any) -> str | None:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple) and all(_plain(each) is not None for each in value):
        return repr(value)
    if isinstance(value, dict):
        return repr(sorted((str(key), _plain(each)) for key, each in value.items()))
    return getattr(value, "__qualname__", None)


@cache
def code_digest() -> str:
    """Digest of the code between a file and a feature: ours by content, others' by version."""
    state = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for name in _CODE:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            state.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    for package in _PACKAGES:
        state.update(f"{package} {metadata.version(package)}".encode())
    return state.hexdigest()
