"""How kernels are compiled and cached, and how they reach memory by its address."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]
Number = Any  # a NumPy scalar inside compiled code


@cache
def _sources() -> str:
    """Digest of all kernels' source files."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class _Cache(FunctionCache):
    """numba's cache, which forgets when the file of a function changes, or that of a callee."""

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), _sources())


def jit(function: Callable[..., Any], *, is_cached: bool = True, **options: Any) -> Any:
    """Compile without the GIL, cached on disk where any cache folder can be written.

    Fast-math is off in so many words: a function that leaves it open inherits it from a caller,
    and ffcv compiles its pipelines with it.
    """
    options |= {"nogil": True, "error_model": "numpy", "fastmath": False}
    compiled = njit(**options)(function)
    if not is_cached:  # a closure: kept within the cached kernels that call it
        return compiled
    with suppress(RuntimeError):  # numba found no writable cache folder
        compiled._cache = _Cache(function)
    return compiled


def _is_kernel(call: Any, caller: Any, callee: Any) -> bool:
    return str(caller.func_id.modname).startswith(__package__)


def jit_inline(function: Callable[..., Any], *, is_cached: bool = True) -> Any:
    """Compile as part of each kernel that calls it.

    Not of others: code written into ffcv's pipelines would be compiled with fast-math.
    """
    return jit(function, is_cached=is_cached, inline=_is_kernel)


def _to_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


def _pointer(typing_context: Any, address: Any) -> Any:
    """Address (int64) as a pointer to uint8."""
    return types.CPointer(types.uint8)(types.int64), _to_pointer


def _pointer64(typing_context: Any, address: Any) -> Any:
    """Address (int64) as a pointer to int64."""
    return types.CPointer(types.int64)(types.int64), _to_pointer


pointer: Any = intrinsic(_pointer)
pointer64: Any = intrinsic(_pointer64)
