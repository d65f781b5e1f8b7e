"""Random numbers from keys: the same key gives the same number, whatever ran before.

Nothing here has a state to save: a run that is stopped and resumed, or spread over another number
of processes, asks for the same keys and gets the same draws.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: the step of splitmix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive_key(*parts: int | str) -> int:
    """63-bit key of the parts, e.g. (seed, "mask", epoch); different parts, unrelated keys."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shift_right(values: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) shift of int64; torch's own shift copies the sign bit."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mix(values: Tensor) -> Tensor:
    """Finaliser of splitmix64 (Steele et al. 2014) on int64 tensors, arithmetic modulo 2^64."""
    values = (values ^ shift_right(values, 30)) * _MIX_1
    values = (values ^ shift_right(values, 27)) * _MIX_2
    return values ^ shift_right(values, 31)


def absorb(key: Tensor, number: Tensor | int) -> Tensor:
    """Key of (key, number), int64 element by element; the kernels of `data/` derive theirs so."""
    step = (number + 1) * _GOLDEN
    if isinstance(step, int):
        step = (step + (1 << 63)) % (1 << 64) - (1 << 63)  # as int64 arithmetic wraps around
    return _mix(key + step)


def keyed_uniform(key: int, ids: Tensor, num: int) -> Tensor:
    """Uniform numbers in [0, 1) that depend on the key and the sample alone.

    Args:
        key: From `derive_key`; put everything that must change the draw into it.
        ids: Sample ids, int64, (B,). Row i depends on ids[i], not on i or B: a sample gets the
            same numbers in any batch, on any process.
        num: Numbers per sample.

    Returns:
        float32, (B, num), on the device of `ids`.
    """
    stream = _mix(ids.to(torch.int64) * _GOLDEN + key)  # (B,)
    counter = torch.arange(1, num + 1, device=ids.device, dtype=torch.int64)
    bits = _mix(stream[:, None] + counter * _GOLDEN)  # (B, num)
    return shift_right(bits, 40).to(torch.float32) * 2.0**-24


def keyed_generator(*parts: int | str) -> torch.Generator:
    """CPU generator seeded from the parts."""
    return torch.Generator().manual_seed(derive_key(*parts))


_SPARE: list[np.random.MT19937] = []  # for NumPy's draws inside `seeded`; one more when nested


@contextmanager
def seeded(key: int, *, devices: list[torch.device] | None = None) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside, put them back after.

    For code that draws from the global generators (dropout, drop path). What NumPy keeps beside its
    generator, the second of a pair of normal numbers, is dropped.
    """
    # Each training step passes here. Reading NumPy's state, or torch's fork_rng, would be several
    # times slower than all of this; the generator as a whole is exchanged at no cost.
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_generator = mtrand.get_bit_generator()
    spare = _SPARE.pop() if _SPARE else np.random.MT19937(0)
    device_states = [torch.cuda.get_rng_state(device) for device in devices or []]
    try:
        random.seed(key)
        mtrand.set_bit_generator(spare)
        np.random.seed(key % 2**32)
        # Not torch.manual_seed: where a GPU is built for but not used, it queues a call, with a
        # formatted traceback, at every call; 4 ms of each training step, and memory for ever.
        torch.default_generator.manual_seed(key)
        for device in devices or []:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        yield
    finally:
        random.setstate(python_state)
        mtrand.set_bit_generator(numpy_generator)
        _SPARE.append(spare)
        torch.set_rng_state(torch_state)
        for device, state in zip(devices or [], device_states, strict=True):
            torch.cuda.set_rng_state(state, device)
