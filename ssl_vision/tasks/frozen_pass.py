"""One frozen pass over images outside of an evaluation: features or class scores, row by row."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.classifier import classify
from ssl_vision.bounds import check_bounds
from ssl_vision.data.levels import AskedDecode
from ssl_vision.data.modalities import MODALITIES
from ssl_vision.data.source import Source
from ssl_vision.errors import ConfigError, DataError, renamed, warnings_renamed
from ssl_vision.evaluation.features import frozen
from ssl_vision.tasks.bar import with_bar
from ssl_vision.tasks.run import AUTOCAST, device_named
from ssl_vision.zoo.export import plain_model
from ssl_vision.zoo.weights import LoadedBackbone

# As a source of an evaluation says it -> as it is where images are words and settings have no
# section.
AS_TYPED = {
    "data.decode.": "decode.",
    "use data.download=true to fetch it": "ssl-vision prepare NAME OUT.beton download=true gets it",
    "check data.path": "check IMAGES",
    "data path '": "IMAGES '",
}


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """Where and how the images go through the network."""

    batch_size: int = 128  # images at once
    num_threads: int = 0  # that read images; 0: the cores this process may use
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32", "bf16", "16"] = "32"  # of the network
    decode: AskedDecode = field(default_factory=AskedDecode)  # of images; default: as in training

    def __post_init__(self) -> None:
        check_bounds("batch_size", self.batch_size, least=1)
        check_bounds("num_threads", self.num_threads, least=0)


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What came out.

    Attributes:
        values: Features or class scores of the samples that could be read, float32, (n, D).
        rows: Number of each in the source, int64, (n,).
        unreadable: Name -> reason, of the others.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    unreadable: dict[str, str]


def pass_over(
    loaded: LoadedBackbone,
    source: Source,
    settings: PassSettings,
    *,
    of: Literal["features", "logits"] = "features",
    progress: Console | None = None,
) -> Passed:
    """Pooled features, or the classifier's scores, of every sample that can be read.

    Args:
        loaded: The network; images are shown as its weights ask for.
        source: The samples.
        settings: Where and how.
        of: `logits` needs weights with a classifier.
        progress: Terminal that a bar is shown on; none by default.

    Raises:
        ConfigError: The samples are not what the network takes; device=cuda without a GPU.
        DataError: None can be read.
    """
    backbone = loaded.backbone
    if backbone.modality != source.modality:
        raise ConfigError(f"{loaded.source} takes {backbone.modality}, not {source.modality}.")
    modality, device = MODALITIES[backbone.modality], device_named(settings.device)
    half = AUTOCAST[settings.precision]
    shown = modality.show(modality.eval_settings(path=""), loaded.spec)
    loader = modality.loader(
        source,
        {modality.view_name: shown.view},
        batch_size=settings.batch_size,
        seed=0,
        num_threads=settings.num_threads,
        shuffle=False,
        drop_last=False,
        on_error="leave_out",
        lower="batch_size",
        pin_memory=device.type == "cuda",
    )

    def outputs() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in with_bar(loader, len(source), console=progress):
            (samples,) = batch.views.values()
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                images = shown.normalize(samples.to(device))
                found = backbone(images).pooled if of == "features" else _scores(backbone, images)
            yield batch.index, found.float().cpu()

    with frozen(backbone), torch.inference_mode(), warnings_renamed(AS_TYPED):
        backbone.to(device)
        parts = [(index, values) for index, values in outputs() if len(index)]
    unreadable = {
        source.name(row): renamed(reason, AS_TYPED)
        for row, reason in sorted(loader.bad_samples.items())
    }
    if not parts:
        name, reason = next(iter(unreadable.items()))
        raise DataError(f"none of {len(source)} samples can be read, first {name}: {reason}")
    return Passed(
        values=torch.cat([values for _, values in parts]).numpy(),
        rows=torch.cat([index for index, _ in parts]).numpy(),
        unreadable=unreadable,
    )


def _scores(backbone: Backbone, images: Tensor) -> Tensor:
    """What the classifier says, by timm's own forward where timm has all of the network."""
    if backbone.head_layers is not None:
        return classify(backbone, backbone(images).pooled)
    scores: Tensor = plain_model(backbone)(images)
    return scores
