"""Files mapped into memory that may be cut short by others while they are read.

Touching a page that the file no longer has is a SIGBUS, which ends the process; copying every
image out of the file instead would cost the loader a sixth of its speed. So the handler below puts
zeros where the file's pages were and lets the reader go on, and `GuardedMap.is_intact` tells
afterwards that what was read is void. (Wayland's shared buffers are guarded in the same way.)
"""

import ctypes
import os
import signal
import sys
import threading
import weakref
from functools import cache
from typing import Any, cast

import numpy as np
from numba import cfunc, types
from numba.np.numpy_support import carray

from ssl_vision.data.kernels.compiling import pointer64

_NUM_SLOTS = 4096  # maps at a time; a file beyond them is read without one
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Read by the handler: of each map its first byte, the first behind it, and how often it was hit.
_slots = np.zeros((_NUM_SLOTS, 3), np.int64)
_lock = threading.Lock()


class GuardedMap:
    """The first bytes of an open file, mapped for reading.

    Attributes:
        address: Of the first byte.
    """

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._descriptor, self._num_bytes = descriptor, num_bytes
        self.address, self._slot = _map(descriptor, num_bytes)
        weakref.finalize(self, _unmap, self.address, num_bytes, self._slot)

    def is_intact(self) -> bool:
        """Whether the file still has every byte, and had it in all that was read so far."""
        is_whole = os.fstat(self._descriptor).st_size >= self._num_bytes
        return is_whole and _slots[self._slot, 2] == 0


def guarded_map(descriptor: int, num_bytes: int) -> GuardedMap | None:
    """Map of a file, or None where this system or process cannot guard one."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32 or not _install():
        return None
    try:
        return GuardedMap(descriptor, num_bytes)
    except OSError:  # no address space, no slot
        return None


def _map(descriptor: int, num_bytes: int) -> tuple[int, int]:
    with _lock:
        free = np.flatnonzero(_slots[:, 0] == 0)
        if len(free) == 0:
            raise OSError("all slots are taken")
        slot = int(free[0])
        address = _libc().mmap(None, num_bytes, _PROT_READ, _MAP_PRIVATE, descriptor, 0)
        if address in (None, _MAP_FAILED):
            raise OSError(ctypes.get_errno(), "mmap")
        end = address + -(-num_bytes // _PAGE) * _PAGE
        _slots[slot, 1:] = end, 0
        _slots[slot, 0] = address  # last: from here on the handler knows it
    return address, slot


def _unmap(address: int, num_bytes: int, slot: int) -> None:
    with _lock:
        _slots[slot] = 0
        _libc().munmap(address, num_bytes)


# The handler -----------------------------------------------------------------------------

_PROT_READ, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 1, 2, 0x10, 0x20  # Linux
_MAP_FAILED = (1 << 64) - 1
_SA_SIGINFO = 4
_SI_ADDR = 2  # place of the faulting address in siginfo_t, in 8 bytes


class _SigAction(ctypes.Structure):
    """struct sigaction as glibc and musl lay it out on 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@cache
def _libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64,
    ]  # fmt: skip
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return library


@cache
def _install() -> bool:
    """Take SIGBUS; other people's faults go on to whoever had it before."""
    libc, before = _libc(), _SigAction()
    if libc.sigaction(signal.SIGBUS, None, ctypes.byref(before)) != 0:
        return False
    # Alive as long as the process: the handler's code and the action it hands on to.
    _alive.extend([before, code := _compile(ctypes.addressof(before))])
    action = _SigAction(handler=code.address, flags=_SA_SIGINFO)
    return bool(libc.sigaction(signal.SIGBUS, ctypes.byref(action), None) == 0)


_alive: list[Any] = []


def _compile(before: int) -> Any:
    """Machine code of the handler: only system calls and plain memory, as a handler must be."""
    slots_address = _slots.ctypes.data
    kinds = cast(Any, types)  # called, they make signatures
    word, number32 = kinds.intp, kinds.int32
    mmap = kinds.ExternalFunction("mmap", word(word, word, *[number32] * 3, word))
    sigaction = kinds.ExternalFunction("sigaction", number32(number32, word, word))

    @cfunc(kinds.void(number32, word, word))
    def on_bus_error(number, info, context):  # type: ignore[no-untyped-def]
        address = carray(pointer64(info), (_SI_ADDR + 1,))[_SI_ADDR]
        slots = carray(pointer64(slots_address), (_NUM_SLOTS, 3))
        for slot in range(_NUM_SLOTS):
            if slots[slot, 0] != 0 and slots[slot, 0] <= address < slots[slot, 1]:
                slots[slot, 2] += 1
                page = address // _PAGE * _PAGE
                flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS
                mmap(page, slots[slot, 1] - page, _PROT_READ, flags, -1, 0)
                return
        sigaction(number, before, 0)  # the fault happens again, and is theirs

    return on_bus_error
