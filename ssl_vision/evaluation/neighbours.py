"""Exact nearest neighbours by cosine: FAISS when it is installed, torch otherwise, one answer.

A float32 search rounds differently in every library, so libraries disagree about ties, and at the
k-th place about members. Here a library only proposes candidates; their scores are computed again
in float64, rounded to float32, and ordered by (score, smaller row), or among equal scores in a
mixed order: rows stand class by class, and the first class would win every tie. A query whose
proposals might have cut through a tie is scored against the whole block. Both searches thus return
the same rows.
"""

import itertools
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.arrays import Array, as_tensor
from ssl_vision.files import open_regular

Search = Literal["auto", "faiss", "torch"]
Ties = Literal["rows", "mixed"]

BLOCK_BYTES = 2**30  # float32 bytes of the bank held at once
_CHUNK_BYTES = 64 * 2**20  # float32 bytes of one score matrix
_MASK = 0x7FFFFFFF  # rows have 31 bits
_FACTOR = 0x45D9F3B  # odd, so that products permute them
_ROUNDS = 3
_INDEX_HEADER = 45  # bytes of a flat index before its rows
_START = 0x5BD1E995 & _MASK  # without it row 0 would stay first
_MARGIN = 8  # candidates beyond k: enough unless there are ties
# Bound on the error of a float32 inner product of unit vectors, whatever the order of summation:
# far above what is seen (1e-6) and far below the gaps between neighbours.
_SCORE_ERROR = 1e-5


class Neighbours(NamedTuple):
    """The nearest bank rows of Q queries, best first.

    Attributes:
        scores: Cosine similarity, float32, (Q, k); -inf where the bank ran out.
        rows: Row in the bank, int64, (Q, k); -1 where the bank ran out. Equal scores stand in
            the order that `ties` says.
    """

    scores: Tensor
    rows: Tensor


class SearchOptions(TypedDict, total=False):
    """Arguments of `find_neighbours` that functions above it hand on."""

    search: Search
    bank_ids: Array | None
    query_ids: Array | None
    ties: Ties
    device: torch.device | str
    block_bytes: int


def find_neighbours(
    bank: Array,
    queries: Array,
    *,
    k: int,
    search: Search = "auto",
    bank_ids: Array | None = None,
    query_ids: Array | None = None,
    ties: Ties = "rows",
    device: torch.device | str = "cpu",
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
    """The k most similar bank rows of each query, exactly.

    Args:
        bank: (N, D), any float type, also a memory map; read in blocks.
        queries: (Q, D).
        k: Neighbours wanted; columns beyond the size of the bank are empty (row -1).
        search: faiss, torch, or auto: faiss where it can be imported and runs on the device.
        bank_ids: Identity of each bank row, int64, (N,); with `query_ids`, rows of the query's
            own id are left out, wherever they rank.
        query_ids: Identity of each query, int64, (Q,).
        ties: Order of equal scores: by row, or mixed, the same for every query and search.
        device: Where torch searches; FAISS uses it too when it is a GPU build.
        block_bytes: Bank rows are taken in blocks of this many float32 bytes.

    Raises:
        ConfigError: `search` names a library that is not installed; k below 1.
        DataError: Non-finite features, or widths that differ.
    """
    _check(bank, queries, k)
    propose = _choose_search(search, torch.device(device))
    unit_queries = _unit_rows(queries, device)
    own_rows = _own_rows(bank_ids, query_ids)
    wanted = k + (0 if own_rows is None else own_rows.shape[1])
    block_rows = max(wanted, block_bytes // (4 * bank.shape[1]))
    keys = torch.empty((len(unit_queries), 0), dtype=torch.int64)
    with _exact_matmul(torch.device(device)):
        for start in range(0, len(bank), block_rows):
            block = _unit_rows(bank[start : start + block_rows], device)
            places = torch.arange(start, start + len(block))
            places = _mixed(places) if ties == "mixed" else places
            found = _search_block(block, places, unit_queries, min(wanted, len(block)), propose)
            merged = torch.cat([keys, found], dim=1)
            keys = merged.sort(dim=1, descending=True).values[:, :wanted]
    return _unpack(keys, k=k, own_rows=own_rows, ties=ties)


def _check(bank: Array, queries: Array, k: int) -> None:
    if k < 1:
        raise ConfigError(f"knn.k={k} must be 1 or more.")
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise DataError(
            f"bank {tuple(bank.shape)} and queries {tuple(queries.shape)} must be (N, D) and "
            "(Q, D) with the same D."
        )
    if len(bank) == 0:
        raise DataError("the bank has no rows; kNN needs at least one labelled image.")
    if len(bank) >= 2**31:
        raise DataError(f"a bank of {len(bank)} rows is above what is supported (2^31 - 1).")


def has_faiss() -> bool:
    """Whether FAISS can be imported."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


# Indices on disk ---------------------------------------------------------------------------------


def save_index(features: Array, path: str | Path) -> None:
    """Write rows of length 1 as a FAISS index of inner products, for any program that has FAISS.

    Args:
        features: (N, D).
        path: The file.

    Raises:
        ConfigError: FAISS is not installed.
        DataError: Features that are not finite.
        OSError: The file cannot be written.
    """
    if not has_faiss():
        raise ConfigError("an index on disk needs FAISS; pip install faiss-cpu.")
    import faiss

    rows = _unit_rows(features, "cpu").numpy()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    Path(path).write_bytes(faiss.serialize_index(index).tobytes())


def load_index(path: str | Path) -> NDArray[np.float32]:
    """Rows of an index that `save_index` wrote, (N, D), each of length 1.

    Raises:
        ConfigError: FAISS is not installed.
        DataError: It is damaged, or an index of another kind.
    """
    if not has_faiss():
        raise ConfigError("an index on disk needs FAISS; pip install faiss-cpu.")
    import faiss

    try:
        with open_regular(path) as file:
            content = file.read()
        _check_index(content)
        index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
        rows: NDArray[np.float32] = index.reconstruct_n(0, index.ntotal)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "damaged, or of another kind"
        raise DataError(f"{path} cannot be read as an index of ours ({reason}).") from error
    return rows


def _check_index(content: bytes) -> None:
    """Raise ValueError unless it is a flat index of inner products, of the length it says.

    FAISS reads any of its many kinds and trusts their numbers.
    """
    kind, width, num = struct.unpack_from("<4siq", content.ljust(_INDEX_HEADER, b"\0"))
    if kind != b"IxFI" or width < 1 or len(content) != _INDEX_HEADER + 4 * width * num:
        raise ValueError(kind)


# Candidates ------------------------------------------------------------------------------------


def check_search(search: Search, *, device: torch.device) -> None:
    """Raise ConfigError for a search that is not installed."""
    _choose_search(search, device)


def _choose_search(search: Search, device: torch.device) -> Literal["faiss", "faiss_gpu", "torch"]:
    if search not in ("auto", "faiss", "torch"):
        raise ConfigError(f"knn.search={search!r} must be auto, faiss or torch.")
    if search == "torch" or (search == "auto" and not has_faiss()):
        return "torch"
    if not has_faiss():
        raise ConfigError("knn.search=faiss needs FAISS; pip install faiss-cpu, or use torch.")
    if device.type == "cpu":
        return "faiss"
    import faiss

    if getattr(faiss, "get_num_gpus", lambda: 0)() > 0:
        return "faiss_gpu"
    # A CPU build beside a GPU: the features are on the GPU already, so is the faster search.
    return "torch" if search == "auto" else "faiss"


def _propose(
    block: Tensor, queries: Tensor, num: int, search: Literal["faiss", "faiss_gpu", "torch"]
) -> tuple[Tensor, Tensor]:
    """Roughly best `num` rows of the block: float32 scores and rows, (Q, num), in no sure order."""
    if search == "torch":
        return _propose_torch(block, queries, num)
    import faiss

    bank_array, query_array = block.cpu().numpy(), queries.cpu().numpy()
    if search == "faiss_gpu":
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True  # the bank is split over the GPUs, each query visits all of them
        index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(block.shape[1]), co=options)
        index.add(bank_array)
        scores, rows = index.search(query_array, num)
    else:  # what IndexFlatIP does, without its copy of the bank
        scores, rows = faiss.knn(query_array, bank_array, num, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(scores), torch.from_numpy(rows)


def _propose_torch(block: Tensor, queries: Tensor, num: int) -> tuple[Tensor, Tensor]:
    chunk = max(1, _CHUNK_BYTES // (4 * len(block)))
    parts = [(part @ block.T).topk(num, dim=1) for part in queries.split(chunk)]
    scores = torch.cat([part.values for part in parts])
    return scores.cpu(), torch.cat([part.indices for part in parts]).cpu()


# Exact scores and order ------------------------------------------------------------------------


def _search_block(
    block: Tensor,
    places: Tensor,
    queries: Tensor,
    k: int,
    search: Literal["faiss", "faiss_gpu", "torch"],
) -> Tensor:
    """Ordered keys of the k best rows of a block, (Q, k); places order its rows among equals."""
    num = min(k + _MARGIN, len(block))
    rough, rows = _propose(block, queries, num, search)
    keys = _order_keys(_score_pairs(block, queries, rows), places[rows])
    keys = keys.sort(dim=1, descending=True).values[:, :k]
    if num == len(block):
        return keys
    # The k-th best and the last proposal are too close: rows that tie may not have been proposed.
    ranked = rough.sort(dim=1, descending=True).values
    unsure = (ranked[:, k - 1] - ranked[:, -1] <= 2 * _SCORE_ERROR).nonzero().flatten()
    if len(unsure):
        keys[unsure] = _search_exhaustively(block, places, queries[unsure.to(queries.device)], k)
    return keys


def _search_exhaustively(block: Tensor, places: Tensor, queries: Tensor, k: int) -> Tensor:
    """Keys of the k best rows from float64 scores of every row, (Q, k); slow and safe."""
    chunk = max(1, _CHUNK_BYTES // (8 * len(block)))
    wide = block.double().T
    parts = []
    for part in queries.split(chunk):
        scores = (part.double() @ wide).float().cpu()
        parts.append(_order_keys(scores, places).topk(k, dim=1).values)
    return torch.cat(parts)


def _score_pairs(block: Tensor, queries: Tensor, rows: Tensor) -> Tensor:
    """Inner products of each query with its candidate rows, summed in float64, float32 (Q, num)."""
    if block.device.type == "cpu":
        return _score_pairs_cpu(block.numpy(), queries.numpy(), rows.numpy())
    chunk = max(1, _CHUNK_BYTES // (8 * rows.shape[1] * block.shape[1]))
    parts = []
    for part, query in zip(rows.to(block.device).split(chunk), queries.split(chunk), strict=True):
        parts.append(torch.einsum("qkd,qd->qk", block[part].double(), query.double()).float())
    return torch.cat(parts).cpu()


def _score_pairs_cpu(
    block: NDArray[np.float32], queries: NDArray[np.float32], rows: NDArray[np.int64]
) -> Tensor:
    scores = np.empty(rows.shape, dtype=np.float32)
    num_threads = torch.get_num_threads()
    edges = np.linspace(0, len(rows), num_threads + 1).astype(int)
    with ThreadPoolExecutor(num_threads) as pool:
        jobs = [
            pool.submit(_dot_rows, block, queries[a:b], rows[a:b], scores[a:b])
            for a, b in itertools.pairwise(edges)
        ]
        for job in jobs:
            job.result()
    return torch.from_numpy(scores)


@numba.njit(nogil=True, fastmath={"reassoc", "contract"}, cache=True)
def _dot_rows(
    block: NDArray[np.float32],
    queries: NDArray[np.float32],
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            row = rows[i, j]
            total = 0.0
            for d in range(block.shape[1]):
                total += np.float64(block[row, d]) * np.float64(queries[i, d])
            scores[i, j] = np.float32(total)


def _order_keys(scores: Tensor, places: Tensor) -> Tensor:
    """One int64 per (score, place) that sorts as wanted: higher score, then smaller place."""
    bits = (scores + 0.0).contiguous().view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    return (rising << 32) | (_MASK - places)


def _mixed(rows: Tensor) -> Tensor:
    """Rows -> places in an order that has nothing to do with theirs: a permutation of 31 bits."""
    places = rows ^ _START
    for _ in range(_ROUNDS):
        places = (places ^ (places >> 16)) * _FACTOR & _MASK
    return places


def _unmixed(places: Tensor) -> Tensor:
    """Inverse of `_mixed`; x ^ (x >> 16) is its own inverse on 31 bits."""
    rows = places
    for _ in range(_ROUNDS):
        rows = rows * pow(_FACTOR, -1, _MASK + 1) & _MASK
        rows = rows ^ (rows >> 16)
    return rows ^ _START


def _unpack(keys: Tensor, *, k: int, own_rows: Tensor | None, ties: Ties) -> Neighbours:
    """Keys -> neighbours without the queries' own rows, padded to k columns."""
    rows = _MASK - (keys & _MASK)
    rows = _unmixed(rows) if ties == "mixed" else rows
    rising = (keys >> 32).to(torch.int32)
    scores = torch.where(rising < 0, rising ^ 0x7FFFFFFF, rising).contiguous().view(torch.float32)
    if own_rows is not None:
        is_own = (rows[:, :, None] == own_rows[:, None, :]).any(dim=2)
        order = is_own.to(torch.int8).sort(dim=1, stable=True).indices
        rows = rows.masked_fill(is_own, -1).gather(1, order)
        scores = scores.masked_fill(is_own, -torch.inf).gather(1, order)
    missing = max(0, k - rows.shape[1])
    rows = torch.nn.functional.pad(rows[:, :k], (0, missing), value=-1)
    scores = torch.nn.functional.pad(scores[:, :k], (0, missing), value=-torch.inf)
    return Neighbours(scores=scores, rows=rows)


def _own_rows(bank_ids: Array | None, query_ids: Array | None) -> Tensor | None:
    """Bank rows with each query's id, (Q, most of any query), -1 where fewer; None: keep all."""
    if bank_ids is None or query_ids is None:
        return None
    bank, queries = as_tensor(bank_ids).long().cpu(), as_tensor(query_ids).long().cpu()
    ordered, rows = bank.sort(stable=True)
    first = torch.searchsorted(ordered, queries)
    count = torch.searchsorted(ordered, queries, right=True) - first
    offset = torch.arange(max(1, int(count.max()) if len(count) else 1))
    places = (first[:, None] + offset).clamp(max=len(rows) - 1)
    return torch.where(offset < count[:, None], rows[places], -1)


# Preparation -----------------------------------------------------------------------------------


def _unit_rows(features: Array, device: torch.device | str) -> Tensor:
    """Float32 rows of length 1 on the device; rows of zeros stay zero."""
    rows = as_tensor(features).to(device=device, dtype=torch.float32)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    if not bool(torch.isfinite(norms).all()):
        count = int((~torch.isfinite(norms)).sum())
        raise DataError(f"{count} of {len(rows)} feature rows are not finite (NaN or infinite).")
    return (rows / norms.clamp(min=1e-30).float()).contiguous()


@contextmanager
def _exact_matmul(device: torch.device) -> Iterator[None]:
    """No TF32, no bfloat16, no autocast inside: proposals rest on float32 products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
