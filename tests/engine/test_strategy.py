import pytest
import torch

from ssl_vision.config import TrainerConfig
from ssl_vision.engine.strategy import build_trainer, choose_accelerator
from ssl_vision.errors import ConfigError


def test_what_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_accelerator(TrainerConfig()) == "cpu"
    with pytest.raises(ConfigError, match="accelerator=gpu, but PyTorch sees no GPU"):
        choose_accelerator(TrainerConfig(accelerator="gpu"))
    with pytest.raises(ConfigError, match="precision=16 needs a GPU"):
        choose_accelerator(TrainerConfig(precision="16"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_accelerator(TrainerConfig(devices=2)) == "gpu"
    with pytest.raises(ConfigError, match=r"devices=3.*has 2 GPUs"):
        choose_accelerator(TrainerConfig(devices=3))


def test_lightning_neither_samples_nor_saves_nor_draws(recipe):
    trainer = build_trainer(recipe("mae", "trainer.accumulate=4", "trainer.precision=bf16"))
    assert trainer.accumulate_grad_batches == 4
    assert trainer.precision == "bf16-mixed"
    assert trainer.checkpoint_callback is None
    assert trainer.progress_bar_callback is None
    assert not trainer.loggers
