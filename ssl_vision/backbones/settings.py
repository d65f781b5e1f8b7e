"""Which settings a recipe or a stranger's file may hand to a network's constructor.

timm's `create_model` takes what it does not know itself on to the loader of weights: paths, URLs
and caches, of which some timm versions unpickle what they find. So only what the classes of the
network's own module take is let through.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache

from timm.models import build_model_with_cfg, create_model, model_entrypoint
from torch import nn

from ssl_vision.bounds import check_bounds
from ssl_vision.errors import ConfigError, did_you_mean
from ssl_vision.files import shown

_MAX_NUMBER = 1 << 16  # of widths, depths, sides
_MAX_DEPTH = 8  # of lists in lists
_COUNTS = (  # of which less than 1 is none, or divides by zero
    *("layers", "depths", "depth", "channels", "in_chans", "dims", "embed_dim", "embed_dims"),
    *("num_heads", "patch_size", "patch_sizes", "img_size", "stem_width"),
)
_NEVER = frozenset(
    {"self", "args", "kwargs", "device", "dtype", "model", "module", "checkpoint_path", "cache_dir"}
)


def check_model_args(name: str, args: Mapping[str, object], *, key: str) -> None:
    """Raise ConfigError unless all settings are the network's own, and plain.

    Args:
        name: Of an architecture that timm knows.
        args: What `timm.create_model` is to be given.
        key: What the message calls them, e.g. "backbone.args".
    """
    known = allowed_settings(name.split(".")[0])
    for setting, value in args.items():
        if setting not in known:
            full = f"{key}.{shown(str(setting))[:80]}"
            away = f"it ({full}=null), or all args ({key}=null)" if key == "backbone.args" else "it"
            raise ConfigError(
                f"{full} is not a setting of {name}.{did_you_mean(setting, known)} Remove {away}."
            )
        _check_plain(value, f"{key}.{setting}")
        if setting in _COUNTS and isinstance(value, int | float) and value < 1:
            raise ConfigError(
                f"{key}.{setting}={value} does not fit {name}: it must be at least 1."
            )
        if setting in _COUNTS and isinstance(value, list | tuple):
            numbers = [each for each in value if isinstance(each, int | float)]
            check_bounds(f"{key}.{setting}", numbers, least=1)


@cache
def allowed_settings(architecture: str) -> frozenset[str]:
    """Names that the classes behind an architecture take, without those of timm's loader."""
    module = sys.modules[model_entrypoint(architecture).__module__]
    names: set[str] = set()
    for kind in vars(module).values():
        if inspect.isclass(kind) and (
            issubclass(kind, nn.Module) or dataclasses.is_dataclass(kind)
        ):
            for base in kind.__mro__:
                if base.__module__.partition(".")[0] in ("timm", "ssl_vision"):
                    names |= inspect.signature(vars(base).get("__init__", object)).parameters.keys()
    loader = {
        name
        for function in (create_model, build_model_with_cfg)
        for name in inspect.signature(function).parameters
    }
    return frozenset(names - loader - _NEVER)


def _check_plain(value: object, key: str, *, depth: int = 0) -> None:
    """Objects of a program (norm layers as classes) pass; no file can hold one."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{key} is nested more than {_MAX_DEPTH} deep.")
    if isinstance(value, str) and not re.fullmatch(r"[\w.+-]*", value):
        raise ConfigError(f"{key}={value[:80]!r} must be a plain word.")
    if isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:
        raise ConfigError(f"{key} must be a number up to {_MAX_NUMBER}.")
    if isinstance(value, list | tuple | dict):
        if len(value) > 1024:
            raise ConfigError(f"{key} has {len(value)} entries, more than 1024.")
        items: Iterable[object] = value.values() if isinstance(value, dict) else value
        for item in items:
            _check_plain(item, key, depth=depth + 1)
