import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from ssl_vision.config import TrainerConfig
from ssl_vision.engine import strategy
from ssl_vision.engine.strategy import build_fabric, choose_accelerator, loss_scaler
from ssl_vision.errors import ConfigError
from ssl_vision.methods.mae import Mae
from ssl_vision.methods.poa import Poa


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


def test_the_recipe_chooses_precision_and_processes(recipe):
    fabric = build_fabric(recipe("mae", "trainer.precision=bf16"))
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")
    assert not fabric.loggers
    assert loss_scaler(fabric) is None
    with fabric.autocast():
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    two = build_fabric(recipe("mae", "trainer.devices=2"))
    assert two.world_size == 2


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_batches_and_losses_keep_their_precision(recipe, precision):
    """Only the matrix products of the forward pass are of lower precision; targets are not."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))

        def forward(self, batch):
            product = batch @ self.weight
            self.seen = batch.dtype, product.dtype
            return product.sum(dtype=torch.float64)

    fabric = build_fabric(recipe("mae", f"trainer.precision={precision}"))
    module = Module()
    loss = fabric.setup_module(module)(torch.ones(2, 2))
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    assert module.seen == (torch.float32, low)
    assert loss.dtype == torch.float64


def test_what_cannot_be_sharded_or_scaled_is_refused(recipe, monkeypatch):
    monkeypatch.setattr(Mae, "is_shardable", False)
    with pytest.raises(ConfigError, match=r"strategy=fsdp2 shards .* method.name=mae takes"):
        build_fabric(recipe("mae", "trainer.strategy=fsdp2", "trainer.devices=2"))
    monkeypatch.undo()
    assert not Poa.is_shardable
    monkeypatch.setattr(strategy, "choose_accelerator", lambda settings: "cpu")
    fabric = build_fabric(recipe("mae", "trainer.precision=16"))
    assert loss_scaler(fabric) is not None
    with pytest.raises(ConfigError, match="precision=16 cannot be scaled"):
        build_fabric(recipe("mae", "trainer.precision=16", "trainer.strategy=fsdp2"))


def test_slurm_starts_the_processes_and_does_not_requeue_by_itself(recipe, monkeypatch):
    ours = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "1",
            "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_STEP_ID": "0"}  # fmt: skip
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    fabric = build_fabric(recipe("mae", "trainer.devices=2"))
    environment = fabric.strategy.cluster_environment  # type: ignore[attr-defined]
    assert isinstance(environment, SLURMEnvironment)
    assert environment.creates_processes_externally
    assert not environment.auto_requeue
    assert (fabric.global_rank, fabric.world_size, fabric.is_global_zero) == (1, 2, False)
