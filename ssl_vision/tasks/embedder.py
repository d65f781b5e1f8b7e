"""Features of images for a program: one call, or an object that keeps the network ready."""

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import nn

from ssl_vision.data.find import DataLike, find_source, given
from ssl_vision.data.modalities import MODALITIES, AnyEvalData, data_of
from ssl_vision.errors import keys_renamed
from ssl_vision.evaluation.features import extract_features
from ssl_vision.tasks.run import AUTOCAST, device_named
from ssl_vision.zoo.transforms import TransformLike
from ssl_vision.zoo.weights import resolve_network

# What is said of a data set -> what a call can do: each image has its row.
_AS_CALLED = {
    "Remove the file, or set data.on_error=substitute.": "Leave it out of the images.",
    "set data.decode.white_level to the level that is white in these files": "scale it to 8 bits",
    "set data.decode.white_level, for instance 1.0": "scale it to 8 bits",
}

WeightsLike: TypeAlias = str | Path | nn.Module  # WEIGHTS, or a network itself


class Embedder:
    """Images -> features, by one network that stays loaded.

        embedder = ssl_vision.Embedder("runs/dino")
        features = embedder(["a.jpg", "b.jpg"])  # (2, D)

    Args:
        weights: A run or export folder, `zoo:name`, `timm:name`; or a network: a model of timm or
            any module of images -> a vector or a map.
        transform: How a module wants its images; see `zoo.transforms`. Weights know.
        size_px: Side of the images the network sees; by default its own.
        device: Where it runs; `auto` takes a GPU where there is one.
        precision: Of the forward.
        batch_size: Images of one forward.
        num_threads: Threads that read; 0 uses the cores this process may use.

    Raises:
        ConfigError: The weights name nothing, or the network's input is not known.
        CheckpointError: They cannot be read.
    """

    def __init__(
        self,
        weights: WeightsLike,
        *,
        transform: TransformLike = None,
        size_px: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["32", "bf16", "16"] = "32",
        batch_size: int = 64,
        num_threads: int = 0,
    ) -> None:
        self.loaded = resolve_network(weights, transform=transform)
        self.device = device_named(device)
        self._autocast = AUTOCAST[precision]
        self._modality = MODALITIES[self.loaded.backbone.modality]
        wanted = AnyEvalData(
            path="", size_px=size_px, batch_size=batch_size, num_threads=num_threads
        )
        asked = data_of(wanted, self._modality)
        self._asked, self._shown = asked, self._modality.show(asked, self.loaded.spec)
        self.loaded.backbone.to(self.device)

    @property
    def width(self) -> int:
        """Length of a feature, D."""
        return self.loaded.backbone.width

    def __call__(self, images: DataLike) -> np.ndarray:
        """Pooled features in the order of the images, float32, (N, D).

        Args:
            images: One image (PIL, or its path), a list of either, or whatever else `data` may be:
                a folder, an array, a data frame, a `Dataset`.

        Raises:
            DataError: An image cannot be read; the message names it.
        """
        handed = given([images] if isinstance(images, Image.Image) else images)
        config = self._modality.data_of(self._asked, self._shown)
        source = find_source(handed.data, split="train", config=config)
        loader = self._modality.loader(
            source,
            {self._modality.view_name: self._shown.view},
            batch_size=min(self._asked.batch_size, len(source)),
            seed=0,
            num_threads=self._asked.num_threads,
            shuffle=False,
            drop_last=False,
            pin_memory=self.device.type == "cuda",
            lower="size_px or batch_size",
        )
        with keys_renamed(_AS_CALLED):
            found = extract_features(
                self.loaded.backbone,
                loader,
                normalize=self._shown.normalize,
                device=self.device,
                dtype=torch.float32,
                autocast=self._autocast,
            )
        return found.features["pooled"].numpy()


def embed(
    weights: WeightsLike,
    images: DataLike,
    *,
    transform: TransformLike = None,
    size_px: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 64,
) -> np.ndarray:
    """Pooled features of images, float32, (N, D); see `Embedder`, which keeps the network.

    Args:
        weights: A run or export folder, `zoo:name`, `timm:name`, or a network.
        images: Whatever `data` may be; also one image.
        transform: How a module wants its images.
        size_px: Side of the images the network sees; by default its own.
        device: Where it runs.
        batch_size: Images of one forward.
    """
    embedder = Embedder(
        weights, transform=transform, size_px=size_px, device=device, batch_size=batch_size
    )
    return embedder(images)
