"""Settings of the data and the Lightning module."""

import pytest
import torch

from ssl_vision.data.module import DataConfig, DataModule, per_process_batch
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.views import ViewConfig


def make_module(**changes) -> DataModule:
    settings = {"path": "digits", "global_batch_size": 64, "views": {"a": ViewConfig(size_px=8)}}
    return DataModule(DataConfig(**settings | changes), seed=0)


def test_normalisation_is_mean_and_std_of_values_from_0_to_1() -> None:
    module = make_module(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    batch = next(iter(module.train_dataloader()))
    expected = (batch.views["a"] / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / (
        torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    )
    out = module.on_after_batch_transfer(batch, 0)
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
