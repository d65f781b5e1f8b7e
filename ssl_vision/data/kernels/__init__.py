"""Compiled CPU kernels: random resized crop, flip, colour, RandAugment, erasing.

Everything here is serial, releases the GIL and keeps no state: the loader runs it on plain Python
threads, so no threading layer of numba is involved. A draw is a hash of (stream, epoch, sample id,
drawing, slot); a view therefore depends on nothing but its key, whatever the batch or thread.

Each module of operations has a table, the numbers of a `ViewConfig` its kernels read, and entry
points ending in `_rows`, which treat every drawing of one view for some images. They are separate
so that a process compiles what its views need and no more. Every level of compiled calls is
optimised anew with all that lies below it: thin layers are therefore compiled as part of their
callers (`jit_inline`). Inner loops are not: beside many other arrays they are vectorised less well.
Helpers of NumPy that bring much code of their own (slice assignment, `max`, `astype`, `zeros`) are
plain loops here.

Floats are strict IEEE (no fast-math), so pixels do not depend on the vector width of the CPU.

Compiled code is cached on disk by numba: beside the module, else in the user's cache folder, else
in NUMBA_CACHE_DIR. Set the latter where both are read-only; without any the kernels are compiled
anew in each process (some seconds).
"""
