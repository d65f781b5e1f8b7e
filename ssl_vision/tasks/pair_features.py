"""Binocular features for a program: what CroCo's encoder and decoder make of two views."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ssl_vision.data.config import EvalDataConfig, InputSpec
from ssl_vision.data.find import DataLike, find_source, given
from ssl_vision.data.modalities import MODALITIES
from ssl_vision.engine.saved_config import load_run_config
from ssl_vision.engine.saved_method import load_method
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.methods.croco import Croco, PairFeatures
from ssl_vision.tasks.run import device_named


def encode_pair(
    run: str | Path,
    first: DataLike,
    second: DataLike,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 32,
) -> PairFeatures:
    """Features of pairs of images, nothing hidden, from a CroCo run: for depth, stereo or flow.

        features = ssl_vision.encode_pair("runs/croco", ["a.jpg"], ["b.jpg"])
        features.decoded  # patches of a.jpg that have read b.jpg, (1, N, W)

    Images are shown as in an evaluation: resized, and their middle cut out.

    Args:
        run: Folder of a run with `method.name=croco`; exports are without the decoder.
        first: One image (PIL, or its path), a list of either, or whatever else `data` may be.
        second: The other views of the same scenes, as many.
        device: Where it runs.
        batch_size: Pairs of one forward.

    Returns:
        On the CPU, float32, in the order of the images; see `PairFeatures`.

    Raises:
        CheckpointError: The run has no checkpoint, or its config.yaml is damaged.
        ConfigError: It is of another method.
        DataError: An image cannot be read, or there are not as many second as first ones.
    """
    config = load_run_config(Path(run))
    if config.method.name != "croco":
        raise ConfigError(
            f"{run} is a run of method.name={config.method.name}, which has no decoder of pairs; "
            "use one of croco."
        )
    method = load_method(Path(run))
    assert isinstance(method, Croco)
    method = method.to(device_named(device))
    spec = config.data.input_spec._replace(size=config.data.input_size)
    sides = [_batches(method, spec, each, batch_size) for each in (first, second)]
    parts = []
    with torch.inference_mode():
        for one, other in _alike(*sides):
            found = method.encode_pair(one.to(method.device), other.to(method.device))
            parts.append([t.float().cpu() for t in (*found[:3], *found.layers)])
    encoded, memory, decoded, *layers = (torch.cat(each) for each in zip(*parts, strict=True))
    return PairFeatures(encoded, memory, decoded, tuple(layers))


def _batches(method: Croco, spec: InputSpec, images: DataLike, batch_size: int) -> Iterator[Tensor]:
    """Normalised images as the encoder takes them, (B, 3, S, S)."""
    modality = MODALITIES[method.backbone.modality]
    asked: EvalDataConfig = modality.eval_settings(path="")
    shown = modality.show(asked, spec)
    handed = given([images] if isinstance(images, Image.Image) else images)
    source = find_source(handed.data, split="train", config=modality.data_of(asked, shown))
    loader = modality.loader(
        source,
        {modality.view_name: shown.view},
        batch_size=min(batch_size, len(source)),
        seed=0,
        shuffle=False,
        drop_last=False,
    )
    for batch in loader:
        yield shown.normalize(batch.views[modality.view_name])


def _alike(first: Iterator[Tensor], second: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of both sides.

    Raises:
        DataError: One side ends before the other.
    """
    done = 0
    while True:
        one, other = next(first, None), next(second, None)
        if one is None and other is None:
            return
        if one is None or other is None or len(one) != len(other):
            counts = [done + (0 if each is None else len(each)) for each in (one, other)]
            raise DataError(
                f"first and second images are not as many (they part after {min(counts)}); give "
                "a second view of each."
            )
        done += len(one)
        yield one, other
