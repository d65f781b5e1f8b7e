"""Where a run runs: devices, processes, precision, and how the network is spread over them."""

import inspect
import logging
import warnings
from datetime import timedelta
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ssl_vision.config import TrainConfig, TrainerConfig
from ssl_vision.errors import ConfigError
from ssl_vision.methods.base import Method

_TIMEOUT = timedelta(minutes=30)  # of a collective; a process that died is noticed by then
# What DDP calls sending rank 0's buffers around before each forward pass, by its version.
_BUFFER_ARGUMENT = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def build_trainer(config: TrainConfig) -> L.Trainer:
    """Lightning's Trainer with everything off that the engine does itself.

    One endless "epoch" (see `stream`), no checkpoints, no bar, no sampler, no sanity check.

    Raises:
        ConfigError: Devices, precision or strategy that this machine does not have.
    """
    settings = config.trainer
    accelerator = choose_accelerator(settings)
    devices = settings.devices or (torch.cuda.device_count() if accelerator == "gpu" else 1)
    _quiet_lightning()
    plugins: list[Any] = []
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # `preemption` does it
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(settings, num_processes=devices * settings.num_nodes),
        precision=_PRECISIONS[settings.precision],
        accumulate_grad_batches=settings.accumulate,
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=_loggers(config),
        plugins=plugins,
        benchmark=accelerator == "gpu",
        default_root_dir=config.run_path,
    )


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


def parallelize(method: Method, strategy: Strategy) -> None:
    """Shard parameters under FSDP2: each block of each network by itself, then the rest.

    A sharded unit gathers its parameters when its `forward` is called, so only modules that are
    called as such may be units; what is left belongs to the method, which is gathered whole.
    """
    if not isinstance(strategy, ModelParallelStrategy):
        return
    mesh = strategy.device_mesh["data_parallel"]
    for module in list(method.modules()):
        if isinstance(module, nn.ModuleList | nn.Sequential) and _is_stack_of_blocks(module):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh, reshard_after_forward=False)


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


def _strategy(settings: TrainerConfig, *, num_processes: int) -> Strategy | str:
    if settings.strategy == "fsdp2":
        return ModelParallelStrategy(
            data_parallel_size=num_processes, tensor_parallel_size=1, timeout=_TIMEOUT
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


def _loggers(config: TrainConfig) -> Any:
    """The loggers asked for, beside the run's own files.

    Raises:
        ConfigError: One is not installed.
    """
    loggers: list[Any] = []
    for name in config.loggers:
        try:
            if name == "tensorboard":
                from lightning.pytorch.loggers import TensorBoardLogger

                loggers.append(TensorBoardLogger(config.run_path, name="tensorboard", version=""))
            else:
                from lightning.pytorch.loggers import WandbLogger

                loggers.append(WandbLogger(save_dir=config.run_path, name=config.run_path.name))
        except ImportError as error:
            raise ConfigError(
                f"loggers={name} is not installed; run pip install {name}, or leave it out."
            ) from error
    return loggers or False


def _quiet_lightning() -> None:
    """Lightning's hints are about what the engine does itself."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*in eval mode at the start of training.*",
        r".*GPU available but not used.*",
        r".*`training_step` returned.*",
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
        r".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message=message)
