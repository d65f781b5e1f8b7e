"""Batches of clouds: keyed views, exact position, and 1 equals 2 processes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_vision.data.clouds.config import CloudData
from ssl_vision.data.clouds.find import build_point_source
from ssl_vision.data.clouds.loader import PointLoader
from ssl_vision.data.clouds.source import PointSource
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.module import DataModule
from ssl_vision.data.source import SubsetSource
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.points.views import PointViewConfig, render_view
from ssl_vision.randomness import derive_key
from ssl_vision.views import ViewConfig

VIEW = PointViewConfig(num_points=32, rotate="vertical")


def make_source(num: int = 23) -> PointSource:
    clouds = [np.random.default_rng(i).normal(size=(40 + i, 3)) for i in range(num)]
    names = [f"cloud {i}" for i in range(num)]
    return PointSource(names, lambda i: clouds[i], labels=[i % 3 for i in range(num)],
                       class_names=["a", "b", "c"])  # fmt: skip


def make(source: PointSource | None = None, **changes: Any) -> PointLoader:
    arguments = {"batch_size": 4, "seed": 5, "num_threads": 2, **changes}
    return PointLoader(source or make_source(), {"cloud": VIEW}, **arguments)


def test_views_are_those_of_their_keys() -> None:
    source = make_source()
    view = PointViewConfig(num_points=32, count=2)
    loader = PointLoader(source, {"a": view}, batch_size=4, seed=5, num_threads=2)
    loader.set_epoch(3)
    batch = next(iter(loader))
    assert batch.views["a"].shape == (8, 32, 3)
    assert batch.label.tolist() == [int(i) % 3 for i in batch.index]
    clouds = [torch.from_numpy(source.sample(int(i))) for i in batch.index]
    for drawing in range(2):
        key = derive_key(5, "view", "a", 3, drawing)
        expected = render_view(clouds, view, key=key, ids=batch.index)
        assert torch.equal(batch.views["a"][4 * drawing : 4 * drawing + 4], expected)


def test_threads_and_batch_size_do_not_change_a_cloud() -> None:
    def by_id(loader: PointLoader) -> dict[int, torch.Tensor]:
        return {int(i): v for b in loader for i, v in zip(b.index, b.views["cloud"], strict=True)}

    first, second = by_id(make(num_threads=1)), by_id(make(num_threads=3, batch_size=5))
    assert len(first) == 20
    shared = first.keys() & second.keys()
    assert all(torch.equal(first[i], second[i]) for i in shared)


def test_resuming_inside_an_epoch_continues_bit_for_bit() -> None:
    loader = make()
    batches = list(loader)
    loader = make()
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    iterator.close()
    resumed = make()
    resumed.load_state_dict(state)
    for expected, found in zip(batches[2:], resumed, strict=True):
        assert torch.equal(expected.index, found.index)
        assert torch.equal(expected.views["cloud"], found.views["cloud"])


def test_two_processes_see_what_one_sees() -> None:
    whole = list(make(batch_size=4))
    halves = [list(make(batch_size=2, rank=r, world_size=2)) for r in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch.index, torch.cat([p.index for p in parts]))
        joined = torch.cat([p.views["cloud"] for p in parts])
        assert torch.equal(batch.views["cloud"], joined)


def test_broken_clouds_raise_with_their_name_or_are_replaced() -> None:
    source = make_source()
    plain = source._read
    source._read = lambda i: np.full((40, 3), np.nan) if i == 7 else plain(i)
    with pytest.raises(DataError, match=r"sample 7 \(cloud 7\).*NaN"):
        list(make(source))
    loader = make(source, on_error="substitute", drop_last=False)
    seen = [int(i) for batch in loader for i in batch.index]
    assert 7 not in seen
    assert set(loader.bad_samples) == {7}
    assert all(b.views["cloud"].isfinite().all() for b in make(source, on_error="substitute"))


def test_data_module_serves_clouds_from_settings() -> None:
    config = CloudData(path="shapes", global_batch_size=8, views={"cloud": VIEW},
                        eval_batch_size=300)  # fmt: skip
    data = DataModule(config, seed=1)
    assert config.input_size == 32
    assert data.num_classes == 10
    batch = data.normalize(next(iter(data.train_loader())))
    assert batch.views["cloud"].shape == (8, 32, 3)
    assert batch.views["cloud"].dtype == torch.float32
    queries = next(iter(data.val_loader()))
    assert queries.views["cloud"].shape == (300, 32, 3)
    assert torch.allclose(queries.views["cloud"].norm(dim=2).amax(dim=1), torch.ones(300))


def test_folders_without_a_val_split_hold_some_clouds_out(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for i in range(10):
            np.save(tmp_path / kind / f"{i}.npy", np.random.rand(20, 3))
    config = CloudData(path=str(tmp_path), global_batch_size=4, views={"cloud": VIEW})
    data = DataModule(config, seed=1)
    assert len(data.val_source) == 4
    assert len(data.bank_source) == 16


def test_images_and_clouds_are_not_mixed() -> None:
    clouds, images = build_point_source("shapes", split="val"), build_source("digits")
    with pytest.raises(ConfigError, match="data set of clouds; what is asked for takes images"):
        MultiViewLoader(clouds, {"a": ViewConfig(size_px=8)}, batch_size=2, seed=0)
    part = SubsetSource(images, np.arange(5))
    with pytest.raises(ConfigError, match="data set of images; what is asked for takes clouds"):
        PointLoader(part, {"a": VIEW}, batch_size=2, seed=0)


def folder_of_tables(folder: Path) -> Path:
    """Seven clouds: three plain, two with colours, one of two points, one of three."""
    random = np.random.default_rng(0)
    shapes = [(40, 3), (40, 3), (40, 3), (40, 6), (40, 9), (2, 3), (3, 3)]
    for number, shape in enumerate(shapes):
        table = random.normal(size=shape)
        if number % 2:
            np.save(folder / f"{number}.npy", table)
        else:
            np.savetxt(folder / f"{number}.txt", table)
    return folder


def test_what_is_decided_about_tables_of_points_is_said_once_with_a_count(tmp_path: Path) -> None:
    source = build_point_source(str(folder_of_tables(tmp_path)))
    loader = make(source, batch_size=3, shuffle=False, drop_last=False)
    with pytest.warns(UserWarning, match="of 7 clouds") as told:
        batches = list(loader)
    (line,) = [text for text in (str(each.message) for each in told) if "clouds" in text]
    assert line.startswith("of 7 clouds: ")
    assert "2 clouds have further columns (normals, colours), which are not used" in line
    assert "1 clouds are tables of 3 rows and 3 columns, of which each row is taken" in line
    assert "2 clouds have fewer points than are drawn of each" in line
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        list(loader)  # the second epoch says nothing
    rows = np.loadtxt(tmp_path / "6.txt", dtype=np.float32)
    assert np.array_equal(source.sample(6), rows)
    drawn = batches[-1].views["cloud"][0]
    assert len(drawn.unique(dim=0)) == 3  # the cloud of three points, or of two, repeated


def test_clouds_that_leave_nothing_open_are_not_spoken_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        list(make())
