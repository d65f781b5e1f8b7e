"""FAISS, torch and a brute force give the same neighbours and votes."""

import numpy as np
import pytest
import torch

from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.neighbours import (
    _mixed,
    _unmixed,
    find_neighbours,
    has_faiss,
    load_index,
    save_index,
)

SEARCHES = [
    "torch",
    pytest.param("faiss", marks=pytest.mark.skipif(not has_faiss(), reason="no faiss")),
]


def brute_force(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    bank = bank.astype(np.float64) / np.linalg.norm(bank.astype(np.float64), axis=1, keepdims=True)
    queries = queries.astype(np.float64)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows, scores = [], []
    for query in queries:
        similarity = np.array([float(row @ query) for row in bank]).astype(np.float32)
        order = sorted(range(len(bank)), key=lambda i: (-similarity[i], i))[:k]
        rows.append(order)
        scores.append(similarity[order])
    return np.array(rows), np.array(scores)


def corners(num: int, width: int, seed: int) -> np.ndarray:
    """Points with entries of one size: many exact ties and duplicates."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], (num, width)).astype(np.float32)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", ["random", "ties", "duplicates"])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_neighbours_equal_a_brute_force(search: str, kind: str, k: int) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(60, 16)), rng.normal(size=(25, 16))
    if kind == "ties":  # +-1 entries of 16 = 4^2 columns: unit rows are exact in float32
        bank, queries = corners(60, 16, 1), corners(25, 16, 2)
    if kind == "duplicates":
        bank = np.repeat(bank[:6], 10, axis=0)[rng.permutation(60)]
    rows, scores = brute_force(bank, queries, k)
    found = find_neighbours(bank, queries, k=k, search=search)
    if kind == "random":
        np.testing.assert_array_equal(found.rows.numpy(), rows)
    np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-6)
    if kind == "ties":
        np.testing.assert_array_equal(found.rows.numpy(), rows)
    if kind == "duplicates":  # equal scores stand in order of their rows
        is_tied = found.scores[:, 1:] == found.scores[:, :-1]
        assert bool((found.rows[:, 1:] > found.rows[:, :-1])[is_tied].all())


@pytest.mark.skipif(not has_faiss(), reason="no faiss")
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-7, 0.0])
def test_faiss_and_torch_agree_on_every_row_however_close_the_scores(spread: float) -> None:
    generator = torch.Generator().manual_seed(3)
    bank = 1 + spread * torch.randn(500, 24, generator=generator)
    queries = 1 + spread * torch.randn(40, 24, generator=generator)
    by_torch = find_neighbours(bank, queries, k=20, search="torch")
    by_faiss = find_neighbours(bank, queries, k=20, search="faiss")
    torch.testing.assert_close(by_torch.rows, by_faiss.rows, rtol=0, atol=0)
    torch.testing.assert_close(by_torch.scores, by_faiss.scores, rtol=0, atol=0)
    if spread == 0.0:  # a collapsed network: everything ties, so rows 0 to 19 win
        assert by_torch.rows.tolist() == [list(range(20))] * 40


@pytest.mark.parametrize("search", SEARCHES)
def test_blocks_of_a_large_bank_do_not_change_the_answer(search: str, tmp_path: object) -> None:
    bank, queries = corners(300, 16, 4), corners(30, 16, 5)
    whole = find_neighbours(bank, queries, k=9, search=search)
    mapped = np.lib.format.open_memmap(
        f"{tmp_path}/bank.npy", mode="w+", dtype=np.float16, shape=bank.shape
    )
    mapped[:] = bank
    parts = find_neighbours(mapped, queries, k=9, search=search, block_bytes=16 * 4 * 37)
    assert torch.equal(whole.rows, parts.rows)
    assert torch.equal(whole.scores, parts.scores)


@pytest.mark.parametrize("search", SEARCHES)
def test_leave_one_out_drops_the_own_id_wherever_it_ranks(search: str) -> None:
    bank = corners(50, 16, 6)
    bank[10] = bank[3]  # a twin of another id stays
    ids = torch.arange(50) + 1000
    ids[20] = ids[30]  # two rows of one id: both go
    found = find_neighbours(bank, bank, k=5, search=search, bank_ids=ids, query_ids=ids)
    rows, _ = brute_force(bank, bank, 50)
    for i in range(50):
        expected = [row for row in rows[i] if ids[row] != ids[i]][:5]
        assert found.rows[i].tolist() == expected
    assert found.rows[10, 0] == 3


def test_columns_beyond_the_bank_are_empty() -> None:
    found = find_neighbours(corners(3, 4, 0), corners(2, 4, 1), k=5, search="torch")
    assert found.rows[:, 3:].tolist() == [[-1, -1]] * 2
    assert bool(torch.isinf(found.scores[:, 3:]).all())


def test_what_cannot_be_searched_is_said() -> None:
    good = torch.ones(3, 4)
    with pytest.raises(DataError, match="2 of 3 feature rows are not finite"):
        find_neighbours(
            torch.tensor([[1.0, 2], [float("nan"), 1], [float("inf"), 0]]), torch.ones(1, 2), k=1
        )
    with pytest.raises(DataError, match="same D"):
        find_neighbours(good, torch.ones(3, 5), k=1)
    with pytest.raises(DataError, match="no rows"):
        find_neighbours(good[:0], good, k=1)
    with pytest.raises(ConfigError, match=r"knn\.k=0"):
        find_neighbours(good, good, k=0)
    with pytest.raises(ConfigError, match="auto, faiss or torch"):
        find_neighbours(good, good, k=1, search="annoy")  # type: ignore[arg-type]


def test_the_mixed_order_is_one_order_of_all_rows_whatever_the_block_and_search() -> None:
    bank, queries = np.ones((700, 5)), np.ones((3, 5))
    whole = find_neighbours(bank, queries, k=700, ties="mixed", search="torch")
    assert whole.rows[0].sort().values.tolist() == list(range(700))
    assert bool((whole.rows == whole.rows[0]).all())
    for search in ("torch", *(["faiss"] if has_faiss() else [])):
        options = {"ties": "mixed", "search": search, "block_bytes": 5 * 4 * 90}
        few = find_neighbours(bank, queries, k=40, **options)
        assert torch.equal(few.rows, whole.rows[:, :40])
        own = torch.arange(3)
        left = find_neighbours(
            bank, queries, k=40, bank_ids=torch.arange(700), query_ids=own, **options
        )
        for row, query in zip(left.rows.tolist(), own.tolist(), strict=True):
            assert row == [each for each in whole.rows[0].tolist() if each != query][:40]


def test_the_order_of_31_bit_rows_is_a_permutation() -> None:
    ends = torch.tensor([0, 1, 2**16, 2**30 + 5, 2**31 - 2, 2**31 - 1])
    rows = torch.cat([ends, torch.arange(10**6)]).unique()
    places = _mixed(rows)
    assert len(places.unique()) == len(rows)
    assert int(places.min()) >= 0
    assert int(places.max()) < 2**31
    assert torch.equal(_unmixed(places), rows)


def test_an_index_is_saved_for_faiss_and_loaded_as_it_was(tmp_path) -> None:
    faiss = pytest.importorskip("faiss")
    features = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    save_index(features, tmp_path / "a.faiss")
    index = faiss.read_index(str(tmp_path / "a.faiss"))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    scores, rows = index.search(unit[3:4], 1)
    assert rows.tolist() == [[3]]
    assert abs(scores[0, 0] - 1) < 1e-6
    np.testing.assert_allclose(load_index(tmp_path / "a.faiss"), unit, atol=1e-6)


def test_damaged_and_other_indices_are_refused(tmp_path) -> None:
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "a.faiss"
    save_index(np.eye(4), path)
    content = path.read_bytes()
    other = faiss.IndexFlatL2(4)
    other.add(np.eye(4, dtype=np.float32))
    bad = [content[:cut] for cut in (0, 3, 44, len(content) - 1)]
    bad += [content + b"x", faiss.serialize_index(other).tobytes()]
    huge = bytearray(content)
    huge[8:16] = (2**60).to_bytes(8, "little")
    for each in [*bad, bytes(huge)]:
        path.write_bytes(each)
        with pytest.raises(DataError, match="cannot be read as an index of ours"):
            load_index(path)
    with pytest.raises(DataError, match="No such file"):
        load_index(tmp_path / "none")
