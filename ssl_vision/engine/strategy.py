"""Where a run runs: devices, processes, precision, and how the network is spread over them."""

import inspect
import logging
from datetime import timedelta
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from lightning.fabric.wrappers import _FabricModule
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ssl_vision.config import TrainConfig, TrainerConfig
from ssl_vision.engine.cluster import cluster_environment
from ssl_vision.errors import ConfigError
from ssl_vision.methods import METHODS
from ssl_vision.methods.base import Method
from ssl_vision.network import is_offline
from ssl_vision.nn.batch_norm import synchronize_batch_norm

_TIMEOUT = timedelta(minutes=30)  # of a collective; a process that died is noticed by then
# What DDP calls sending rank 0's buffers around before each forward pass, by its version.
_BUFFER_ARGUMENT = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def build_fabric(config: TrainConfig) -> L.Fabric:
    """Lightning Fabric as the recipe has it: devices, processes, precision, loggers.

    Processes are started by `launch`; SLURM and torchrun have started them already.

    Raises:
        ConfigError: Devices, precision or strategy that this machine or the method does not have.
    """
    settings = config.trainer
    accelerator = choose_accelerator(settings)
    devices = settings.devices or (torch.cuda.device_count() if accelerator == "gpu" else 1)
    # Their hints are about what the engine does itself.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    plugins: list[Any] = [] if settings.precision == "32" else [_autocast(settings, accelerator)]
    cluster = cluster_environment(devices=devices, num_nodes=settings.num_nodes)
    plugins += [] if cluster is None else [cluster]
    torch.backends.cudnn.benchmark = accelerator == "gpu"
    return L.Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(config, num_processes=devices * settings.num_nodes),
        plugins=plugins,
        loggers=_loggers(config),
    )


def set_up(fabric: L.Fabric, method: Method, settings: TrainerConfig) -> _FabricModule:
    """Put a method where it trains: on its device, wrapped in DDP or sharded, compiled if asked.

    Its optimizer is made afterwards, of the parameters as they are then.
    """
    if fabric.world_size > 1 and settings.sync_batch_norm:
        synchronize_batch_norm(method, device_type=fabric.device.type)
    if settings.channels_last:
        method.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_networks(method)
    return fabric.setup_module(method)


def loss_scaler(fabric: L.Fabric) -> torch.amp.GradScaler | None:
    """The scaler of fp16's losses; None in other precisions."""
    scaler: torch.amp.GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)
    return scaler


def choose_accelerator(settings: TrainerConfig) -> Literal["cpu", "gpu"]:
    """The accelerator asked for, or the one there is.

    Raises:
        ConfigError: It is not there, or cannot do what was asked for.
    """
    has_gpu = torch.cuda.is_available()
    if settings.accelerator == "gpu" and not has_gpu:
        raise ConfigError("trainer.accelerator=gpu, but PyTorch sees no GPU; use auto or cpu.")
    if settings.accelerator == "cpu" or not has_gpu:
        if settings.precision == "16":
            raise ConfigError("trainer.precision=16 needs a GPU; on the CPU use bf16 or 32.")
        return "cpu"
    if (settings.devices or 1) > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={settings.devices}, but this machine has "
            f"{torch.cuda.device_count()} GPUs."
        )
    return "gpu"


def shard(method: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard parameters by FSDP2, in place: each block of each network by itself, then the rest.

    A sharded unit gathers its parameters when its `forward` is called, so only modules that are
    called as such may be units; what is left belongs to the method, which is gathered whole.
    """
    mesh = mesh["data_parallel"]
    for module in list(method.modules()):
        if isinstance(module, nn.ModuleList | nn.Sequential) and _is_stack_of_blocks(module):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh, reshard_after_forward=False)
    return method


def compile_networks(method: Method) -> None:
    """Compile block by block, in place: names of the state stay, and so does what calls them.

    Regions compile once per kind and input size, in a fraction of the time of a whole network.
    """
    stacks = [
        module
        for module in method.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and _is_stack_of_blocks(module)
    ]
    regions = [block for stack in stacks for block in stack]
    if not regions:  # a pyramid of convolutions: its stages
        regions = [m for m in method.backbone.model.children() if any(True for _ in m.parameters())]
    for region in regions:
        region.compile()


def _is_stack_of_blocks(module: nn.ModuleList | nn.Sequential) -> bool:
    """Whether a container holds transformer blocks or residual stages worth a unit each."""
    return len(module) > 0 and all(
        sum(p.numel() for p in child.parameters()) > 0 and hasattr(child, "attn")
        for child in module
    )


class _Autocast(MixedPrecision):
    """Autocast of the forward pass, and of nothing around it.

    Fabric's own also casts the batch before it reaches the method: targets would lose precision.
    And casts of weights are not shared between the forward passes of a batch (several views), so
    that their gradients are summed in float32.
    """

    def forward_context(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self._desired_input_dtype, cache_enabled=False)

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


def _autocast(settings: TrainerConfig, accelerator: str) -> MixedPrecision:
    if settings.precision == "16" and settings.strategy == "fsdp2":
        raise ConfigError(
            "trainer.precision=16 cannot be scaled over the shards of trainer.strategy=fsdp2; use "
            "bf16, or ddp."
        )
    return _Autocast(
        "bf16-mixed" if settings.precision == "bf16" else "16-mixed",
        device="cuda" if accelerator == "gpu" else "cpu",
    )


def _strategy(config: TrainConfig, *, num_processes: int) -> Strategy | str:
    settings = config.trainer
    if settings.strategy == "fsdp2":
        if not METHODS[config.method.name].module.is_shardable:
            raise ConfigError(
                f"trainer.strategy=fsdp2 shards the parameters that method.name="
                f"{config.method.name} takes its slices of; use ddp."
            )
        return ModelParallelStrategy(
            shard, data_parallel_size=num_processes, tensor_parallel_size=1, timeout=_TIMEOUT
        )
    if num_processes > 1 or settings.strategy == "ddp":
        # Buffers agree by themselves: batch norms are synchronised, centres all-reduced.
        buffers: dict[str, Any] = {_BUFFER_ARGUMENT: not settings.sync_batch_norm}
        return DDPStrategy(
            timeout=_TIMEOUT,
            gradient_as_bucket_view=True,
            find_unused_parameters=False,
            **buffers,
        )
    return "auto"


def _loggers(config: TrainConfig) -> list[Logger]:
    """The loggers asked for, beside the run's own files.

    Raises:
        ConfigError: One is not installed.
    """
    loggers: list[Logger] = []
    for name in config.loggers:
        try:
            if name == "tensorboard":
                from lightning.fabric.loggers.tensorboard import TensorBoardLogger

                loggers.append(TensorBoardLogger(config.run_path, name="tensorboard", version=""))
            else:
                from lightning.pytorch.loggers import WandbLogger

                loggers.append(
                    WandbLogger(
                        save_dir=config.run_path, name=config.run_path.name, offline=is_offline()
                    )
                )
        except ImportError as error:
            raise ConfigError(
                f"loggers={name} is not installed; run pip install {name}, or leave it out."
            ) from error
    return loggers
