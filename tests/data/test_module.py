"""Settings of the data and the Lightning module."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.data.module import DataModule, per_process_batch
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.views import ViewConfig


def make_module(**changes) -> DataModule:
    settings = {"path": "digits", "global_batch_size": 64, "views": {"a": ViewConfig(size_px=8)}}
    return DataModule(ImageData(**settings | changes), seed=0)


def test_normalisation_is_mean_and_std_of_values_from_0_to_1() -> None:
    module = make_module(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    batch = next(iter(module.train_loader()))
    expected = (batch.views["a"] / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / (
        torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    )
    out = module.prepare(batch)
    torch.testing.assert_close(out.views["a"], expected)
    assert torch.equal(out.index, batch.index)


def test_plain_loaders_show_every_sample_once() -> None:
    module = make_module(eval_batch_size=200)
    bank = torch.cat([b.index for b in module.train_bank_loader()])
    val = torch.cat([b.index for b in module.val_loader()])
    assert bank.tolist() == list(range(1497))
    assert val.tolist() == list(range(300))


def test_global_batch_must_divide() -> None:
    assert per_process_batch(64, world_size=2, accumulate=4) == 8
    with pytest.raises(ConfigError, match="63 or 66"):
        per_process_batch(64, world_size=3, accumulate=1)


def test_missing_data_says_what_there_is() -> None:
    with pytest.raises(DataError, match="mnist5k"):
        make_module(path="no/such/folder")


def _pictures(folder: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), 40 * number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_val_path_may_be_one_whole(tmp_path: Path, kind: str) -> None:
    train, val = (
        _pictures(tmp_path / "a", ant=1, cat=3, dog=1),
        _pictures(tmp_path / "b", cat=1, dog=2),
    )
    path = str(val)
    if kind == "beton":
        path = str(tmp_path / "b.beton")
        pack(build_source(str(val)), Path(path), PackConfig())
    module = make_module(path=str(train), val_path=path, global_batch_size=1)
    assert module.val_source is not None
    assert len(module.bank_source) == 5
    assert module.val_source.labels is not None
    assert module.val_source.labels.tolist() == [1, 2, 2]  # numbered as in training


def test_val_path_without_test_images_is_not_trained_ones(tmp_path: Path) -> None:
    _pictures(tmp_path / "a" / "train", cat=2)
    with pytest.raises(DataError, match=r"has no folder 'val'"):
        make_module(path=str(tmp_path / "a"), val_path=str(tmp_path / "a"))


def test_views_of_one_pixel_are_among_the_warnings() -> None:
    views = {"a": ViewConfig(size_px=1), "b": ViewConfig(size_px=8)}
    lines = make_module(views=views, eval_size_px=2).warnings()
    assert [line.partition(":")[0] for line in lines] == [
        "data.views.a.size_px=1",
        "data.eval_size_px=2",
    ]


def test_a_share_too_small_for_an_update_is_to_blame_and_not_the_batch(tmp_path: Path) -> None:
    module = make_module(train_fraction=1e-9)
    assert module.notes[0] == (
        "data.train_fraction=1e-09: 10 of 1,497 samples are used, as at least one of each class "
        "stays."
    )
    with pytest.raises(DataError, match=r"^data\.train_fraction=1e-09 leaves 10 of 1,497 samples"):
        module.train_loader()
    assert len(make_module(train_fraction=1e-9, drop_last=False).train_loader()) == 1
    names = tmp_path / "names.txt"
    names.write_text(make_module().bank_source.name(0))
    listed = make_module(train_list=str(names))
    with pytest.raises(DataError, match=r"^data\.train_list=\S+names\.txt leaves 1 of 1,497"):
        listed.train_loader()
    whole = make_module(train_fraction=0.5, global_batch_size=4096)  # all would not suffice either
    with pytest.raises(DataError, match=r"^data\.train_fraction=0\.5 leaves"):
        whole.train_loader()
    assert not any("train_fraction" in line for line in make_module(train_fraction=0.1).notes)
    with pytest.raises(DataError, match=r"fewer than one global batch.*data\.global_batch_size"):
        make_module(global_batch_size=4096).train_loader()
