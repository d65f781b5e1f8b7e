"""Failures of the machine in words: memory that is too small, processes that died."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ssl_vision.data.config import keys_of_size
from ssl_vision.distributed import is_distributed
from ssl_vision.engine.run import Run
from ssl_vision.errors import (
    ConfigError,
    DeviceMemoryError,
    PeerError,
    SslVisionError,
    is_out_of_memory,
)
from ssl_vision.methods.base import Method
from ssl_vision.nn.batch_norm import one_sample_explained

# What gloo, NCCL and the store say when the other end is gone.
_PEER_WORDS = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "nccl",
    "gloo",
    "timed out waiting",
    "socket",
)


@contextmanager
def explained(run: Run, method: Method) -> Iterator[None]:
    """Turn what PyTorch raises inside into errors a user can act on.

    Raises:
        DeviceMemoryError: Instead of `torch.OutOfMemoryError`.
        PeerError: Instead of a collective's RuntimeError.
        ConfigError: Instead of batch norm's ValueError about a batch of one, and of what a network
            that cannot take the first batch raises.
    """
    size = run.config.data.global_batch_size
    way_out = f"set data.drop_last=true or another data.global_batch_size than {size}"
    if (parts := run.config.trainer.accumulate) > 1:
        way_out += f", or trainer.accumulate below {parts}"
    try:
        with one_sample_explained(way_out):
            yield
    except SslVisionError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DeviceMemoryError(describe_memory(run, method)) from error
    except (RuntimeError, dist.DistError) as error:
        if is_out_of_memory(error):
            raise DeviceMemoryError(describe_memory(run, method)) from error
        words = str(error).lower()
        if is_distributed() and any(word in words for word in _PEER_WORDS):
            raise PeerError(
                f"another process of this run died or stopped answering at update {method.step} "
                f"(seen on rank {dist.get_rank()}: {str(error).splitlines()[0][:200]}); its own "
                "message says why. The same command resumes from the last checkpoint."
            ) from error
        if method.micro_step == 0 and _is_of_network(error):
            raise ConfigError(_unfit(run, error)) from error
        raise


def _is_of_network(error: BaseException) -> bool:
    """Whether it was raised by the layers of a timm network."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(str(frame.f_globals.get("__name__")).startswith("timm.models") for frame in frames)


def _unfit(run: Run, error: BaseException) -> str:
    backbone, first = run.config.backbone, str(error).splitlines()[0][:200]
    views, sizes = _views(run), " or ".join(keys_of_size(run.config.data.views))
    return (
        f"backbone.name={backbone.name} with in_chans={backbone.in_chans} and the backbone.args of "
        f"this run cannot take the first batch ({views}): {first}. Images have 3 channels; change "
        f"backbone.in_chans, backbone.args, or {sizes}."
    )


def _views(run: Run) -> str:
    views = run.config.data.views.items()
    return ", ".join(f"data.views.{name} of {view}" for name, view in views)


def describe_memory(run: Run, method: Method) -> str:
    """What was asked of the device, and what to lower, in order of what it costs."""
    config = run.config
    batch = config.data.global_batch_size // run.fabric.world_size // config.trainer.accumulate
    peak = ""
    if method.device.type == "cuda":
        used = torch.cuda.max_memory_allocated(method.device) / 2**30
        total = torch.cuda.get_device_properties(method.device).total_memory / 2**30
        peak = f" (peak {used:.1f} of {total:.1f} GiB)"
    ways = [f"trainer.accumulate={2 * config.trainer.accumulate}"]
    if config.trainer.precision == "32":
        ways.append("trainer.precision=bf16")
    if not config.backbone.is_checkpointed:
        ways.append("backbone.is_checkpointed=true")
    ways += [f"a lower {key}" for key in keys_of_size(config.data.views)]
    ways.append("a lower data.global_batch_size")
    return (
        f"the device is out of memory at update {method.step}{peak}: {batch} samples per process, "
        f"{_views(run)}, precision {config.trainer.precision}. In this order, try "
        f"{', then '.join(ways)}. Checkpoints are intact; the same command resumes."
    )
