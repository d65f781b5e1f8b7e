"""The store gives what a forward gives, resumes after a kill, and knows its key."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.data.images.normalize import normalizer
from ssl_vision.distributed import rank, world_size
from ssl_vision.errors import CheckpointError, DataError
from ssl_vision.evaluation.features import FeatureSpec, extract_features
from ssl_vision.evaluation.store import FeatureStore, _create, cache_folder, evict, fill_store
from ssl_vision.types import Batch

ROWS = 23
NORMALIZE = normalizer((0.5,) * 3, (0.25,) * 3)
SPEC = FeatureSpec(pools=("pooled", "mean"), num_layers=2)


def network() -> Backbone:
    torch.manual_seed(0)
    args = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8}
    return build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=args), input_size=16)


IMAGES = torch.randint(0, 256, (ROWS, 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(
    torch.uint8
)


class Loader:
    """Batches of rows; counts the rows it delivered and can stop like a killed process."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.delivered: list[int] = []
        self.stop_after = stop_after

    def __call__(self, rows: np.ndarray) -> Any:
        for batch in np.array_split(rows, -(-len(rows) // 4)):
            own = batch[rank() :: world_size()]
            if len(own) == 0:
                continue
            if self.stop_after is not None and len(self.delivered) >= self.stop_after:
                raise KeyboardInterrupt
            self.delivered += own.tolist()
            index = torch.from_numpy(own)
            yield Batch(views={"eval": IMAGES[index]}, index=index)


def open_store(root: Path, dtype: Any = "float32", **key: str) -> FeatureStore:
    full = {"weights": "w", "data": "d", "transform": "t", **key}
    return FeatureStore(root, key=full, num_rows=ROWS, dtype=dtype)


def expected() -> dict[str, torch.Tensor]:
    whole = Batch(views={"eval": IMAGES}, index=torch.arange(ROWS))
    return extract_features(network(), [whole], normalize=NORMALIZE, spec=SPEC).features


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_a_store_gives_what_a_forward_gives_and_is_filled_once(
    tmp_path: Path, dtype: Any, tolerance: float
) -> None:
    loader = Loader()
    store = open_store(tmp_path, dtype)
    assert fill_store(store, network(), loader, normalize=NORMALIZE, spec=SPEC) == ROWS
    found = store.read(SPEC.names)
    for name, value in expected().items():
        torch.testing.assert_close(found[name].float(), value, rtol=tolerance, atol=tolerance)
    again = open_store(tmp_path, dtype)
    assert fill_store(again, network(), loader, normalize=NORMALIZE, spec=SPEC) == 0
    assert sorted(loader.delivered) == list(range(ROWS))
    # One more column: one more pass, the old ones untouched.
    wider = FeatureSpec(pools=("pooled", "mean", "cls"), num_layers=2)
    assert again.missing(wider.names) == ["cls_-1", "cls_-2"]
    assert fill_store(again, network(), loader, normalize=NORMALIZE, spec=wider) == ROWS
    assert again.missing(wider.names) == []


def test_a_killed_pass_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_vision.evaluation.store._FLUSH_BATCHES", 1)
    dying = Loader(stop_after=10)
    with pytest.raises(KeyboardInterrupt):
        fill_store(open_store(tmp_path), network(), dying, normalize=NORMALIZE, spec=SPEC)
    store, loader = open_store(tmp_path), Loader()
    assert store.missing(SPEC.names) == list(SPEC.names)  # nothing incomplete is ever read
    assert fill_store(store, network(), loader, normalize=NORMALIZE, spec=SPEC) == ROWS - len(
        dying.delivered
    )
    assert sorted(dying.delivered + loader.delivered) == list(range(ROWS))
    for name, value in expected().items():
        torch.testing.assert_close(store.read([name])[name], value)
    assert not list(store.folder.glob("*.partial.npy")) + list(store.folder.glob("*.done.npy"))


def test_whatever_changes_a_feature_changes_the_folder(tmp_path: Path) -> None:
    folders = {
        open_store(tmp_path).folder,
        open_store(tmp_path, weights="other").folder,
        open_store(tmp_path, data="other").folder,
        open_store(tmp_path, transform="other").folder,
        open_store(tmp_path, "float16").folder,
    }
    assert len(folders) == 5
    meta = json.loads((open_store(tmp_path).folder / "meta.json").read_text())
    assert meta["weights"] == "w"
    (open_store(tmp_path).folder / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match="another key"):
        open_store(tmp_path)


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path, "float16")
    store.begin({"pooled": 2})
    with pytest.raises(DataError, match="not finite in float16"):
        store.write(np.array([0]), {"pooled": torch.tensor([[1e6, 0.0]])})


def test_rows_a_loader_never_delivers_are_counted(tmp_path: Path) -> None:
    def short(rows: np.ndarray) -> Any:
        return Loader()(rows[:-3])

    with pytest.raises(CheckpointError, match="3 of 23 rows"):
        fill_store(open_store(tmp_path), network(), short, normalize=NORMALIZE, spec=SPEC)


def test_the_longest_unused_store_goes_first(tmp_path: Path) -> None:
    stores = [open_store(tmp_path, weights=name) for name in "abc"]
    for age, store in enumerate(stores):
        (store.folder / "pooled.npy").write_bytes(b"0" * 10_000)
        when = time.time() - 100 * age  # a is the newest
        os.utime(store.folder / "meta.json", (when, when))
    assert evict(tmp_path, max_bytes=25_000, keep=[stores[1].folder]) == [stores[2].folder]
    assert evict(tmp_path, max_bytes=100, keep=[stores[1].folder]) == [stores[0].folder]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cache\.folder="):
        open_store(tmp_path / "file")


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VISION_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/features")
    monkeypatch.delenv("SSL_VISION_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/ssl_vision/features")


def _fill(root: str) -> tuple[int, list[int]]:
    loader = Loader()
    store = open_store(Path(root))
    computed = fill_store(store, network(), loader, normalize=NORMALIZE, spec=SPEC)
    return computed, loader.delivered


@pytest.mark.distributed
def test_two_processes_write_one_store(
    tmp_path: Path, run_distributed: Callable[..., list[Any]]
) -> None:
    results = run_distributed(_fill, str(tmp_path))
    assert [computed for computed, _ in results] == [ROWS, ROWS]
    assert sorted(results[0][1] + results[1][1]) == list(range(ROWS))
    store = open_store(tmp_path)
    for name, value in expected().items():
        torch.testing.assert_close(store.read([name])[name], value)


def test_rows_that_cannot_be_read_are_left_out_and_tried_again(tmp_path: Path) -> None:
    def short(rows: np.ndarray) -> Any:
        return Loader()(rows[rows != 4])

    store = open_store(tmp_path)
    fill_store(store, network(), short, normalize=NORMALIZE, spec=SPEC, may_lack=True)
    left = [row for row in range(ROWS) if row != 4]
    assert store.rows(SPEC.names).tolist() == left
    for name, value in expected().items():
        torch.testing.assert_close(store.read([name])[name], value[left])
    loader = Loader()
    again = open_store(tmp_path)
    assert fill_store(again, network(), loader, normalize=NORMALIZE, spec=SPEC) == 1
    assert loader.delivered == [4]
    for name, value in expected().items():
        torch.testing.assert_close(again.read([name])[name], value)


def test_every_byte_has_its_place_without_fallocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "a.npy"
    _create(path, np.dtype(np.float32), (700_000,))
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 2_800_000
    array = np.load(path, mmap_mode="r")
    assert array.shape == (700_000,)
    assert not array.any()
