"""Frozen features: the one place where a backbone runs for the tasks of this folder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.timm_vit import TimmViT
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.types import Batch

POOLS = ("pooled", "cls", "mean", "patches")
_IN_SETS = POOLS[:-1]  # a set is joined into one vector per image


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which features one forward yields.

    A feature is named `<pool>_<layer>` ("cls_-1", "mean_-4"), or "pooled" for the network's own
    pooling, which exists for every network. `patches_-1` are the patches themselves, one behind the
    other, (B, N * D).
    """

    pools: tuple[str, ...] = ("pooled",)  # pooled | cls | mean (of the patches) | patches
    num_layers: int = 1  # last blocks read by cls, mean and patches; each through the final norm

    def __post_init__(self) -> None:
        wrong = [pool for pool in self.pools if pool not in POOLS]
        if wrong or not self.pools:
            raise ConfigError(f"features.pools={list(self.pools)} must name some of {POOLS}.")
        if self.num_layers < 1:
            raise ConfigError(f"features.num_layers={self.num_layers} must be 1 or more.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, the last block first."""
        layers = range(-1, -self.num_layers - 1, -1)
        named = [f"{pool}_{i}" for i in layers for pool in self.pools if pool != "pooled"]
        return (*(["pooled"] if "pooled" in self.pools else []), *named)


def parse_feature_set(text: str, *, depth: int | None) -> tuple[str, ...]:
    """Names of the features that a set concatenates, in order.

    `cls4` is the class token of the last four blocks, the oldest first (as DINO's heads expect),
    `mean` the mean patch of the last block, `cls1+mean` both, `pooled` the network's own pooling.
    Networks without a class token have nothing but `pooled`, whatever is asked for.

    Args:
        text: The set.
        depth: Blocks of a ViT with class token; None for any other network.

    Raises:
        ConfigError: Not of this form.
    """
    names: list[str] = []
    for part in text.split("+"):
        pool, digits = part.rstrip("0123456789"), part.lstrip("abcdefghijklmnopqrstuvwxyz")
        if pool not in _IN_SETS or pool + digits != part or digits == "0":
            raise ConfigError(
                f"feature set {text!r} is not understood; join pooled, cls, cls4, mean ... by +."
            )
        if pool == "pooled":
            names.append("pooled")
        elif depth is not None:
            num = min(int(digits or 1), depth)
            names += [f"{pool}_{-layer}" for layer in range(num, 0, -1)]
    return tuple(names) if depth is not None or names else ("pooled",)


def spec_of(names: Iterable[str]) -> FeatureSpec:
    """The smallest spec whose forward yields all these features."""
    wanted = set(names)
    pools = tuple(pool for pool in POOLS if any(name.startswith(pool) for name in wanted))
    layers = [int(name.rpartition("_-")[2]) for name in wanted if "_-" in name]
    return FeatureSpec(pools=pools, num_layers=max(layers, default=1))


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features of N images in the order of the data set.

    Attributes:
        features: Name of the feature -> float, (N, D).
        labels: Classes, int64, (N,); None where the data has none.
        index: Row of each image in its data set, int64, (N,), rising.
    """

    features: dict[str, Tensor]
    labels: Tensor | None
    index: Tensor

    @classmethod
    def empty(cls) -> "FeatureSet":
        """Of no images."""
        return cls(features={}, labels=None, index=torch.empty(0, dtype=torch.int64))


def extract_features(
    backbone: Backbone,
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor] | None,
    spec: FeatureSpec | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    may_lack: bool = False,
) -> FeatureSet:
    """Features of every sample, in memory, each sample once, in order of `Batch.index`.

    Training state does not leak: the network is in eval mode and without gradients inside, and is
    put back afterwards.

    Args:
        backbone: Network to read.
        batches: Batches of a single view (a `count` of 1).
        normalize: From the view's values to what the network takes, e.g. `normalizer(mean, std)`;
            None when the batches are normalised already, or clouds.
        spec: Which features; the pooled ones by default.
        device: Where the network runs; by default where it is.
        dtype: Of the features kept.
        autocast: Precision of the forward, e.g. torch.bfloat16; None for the weights' own.
        may_lack: Whether no batches are an empty set, of no features: that of a process that can
            read none of its share, while others wait for it. `joined` refuses if all are empty.

    Raises:
        DataError: No batches.
    """
    spec = spec or FeatureSpec()
    parts: dict[str, list[Tensor]] = {name: [] for name in spec.names}
    indices, labels = [], []
    for batch, features in forward_batches(
        backbone, batches, normalize=normalize, spec=spec, device=device, autocast=autocast
    ):
        for name, value in features.items():
            parts[name].append(value.to("cpu", dtype))
        indices.append(batch.index.cpu())
        labels.append(batch.label)
    if not indices:
        if may_lack:
            return FeatureSet.empty()
        raise DataError("no images to extract features from.")
    index, first = _first_of_each(torch.cat(indices))
    known = None
    if all(label is not None for label in labels):
        known = torch.cat([label.cpu() for label in labels if label is not None])[first]
    return FeatureSet(
        features={name: torch.cat(part)[first] for name, part in parts.items()},
        labels=known,
        index=index,
    )


def joined(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Parts of all processes as one, each sample once.

    Raises:
        DataError: All are empty.
    """
    parts = [part for part in parts if len(part.index)]
    if not parts:
        raise DataError("not one of the samples could be read.")
    index, rows = _first_of_each(torch.cat([part.index for part in parts]))
    labels = [part.labels for part in parts if part.labels is not None]
    return FeatureSet(
        features={
            name: torch.cat([part.features[name] for part in parts])[rows]
            for name in parts[0].features
        },
        labels=torch.cat(labels)[rows] if len(labels) == len(parts) else None,
        index=index,
    )


def forward_batches(
    backbone: Backbone,
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor] | None,
    spec: FeatureSpec,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Each batch with its features by name, (B, D) on the device; see `extract_features`."""
    place = torch.device(device) if device is not None else device_of(backbone)
    with frozen(backbone):
        backbone.to(place)
        for batch in batches:
            (view,) = batch.views.values()
            images = view.to(place, non_blocking=True)
            with (
                torch.no_grad(),
                torch.autocast(place.type, dtype=autocast, enabled=autocast is not None),
            ):
                images = images if normalize is None else normalize(images)
                features = _read_or_explain(backbone, images, spec)
            yield batch, features


def _read_or_explain(backbone: Backbone, images: Tensor, spec: FeatureSpec) -> dict[str, Tensor]:
    with _size_explained(backbone, images):
        return read_features(backbone, images, spec)


@contextmanager
def _size_explained(backbone: Backbone, images: Tensor) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:  # timm's networks of fixed size check it by assertion
        raise ConfigError(
            f"{backbone.architecture} does not take images of {images.shape[-1]} px ({error}); set "
            "data.size_px= to its own size."
        ) from error


def try_patches(backbone: Backbone, size_px: int, *, device: torch.device | str) -> int:
    """Patches that a network gives of one image of a size, found by trying; 0 where it has none.

    Raises:
        ConfigError: It does not take images of that size.
    """
    with frozen(backbone), torch.no_grad():
        backbone.to(device)
        image = torch.zeros(1, *backbone.sample_shape(size_px), device=device)
        with _size_explained(backbone, image):
            patches = backbone(image).patches
    return 0 if patches is None else int(patches.shape[1])


def extract_views(
    backbone: Backbone,
    batches: Iterable[Batch],
    *,
    num_views: int,
    normalize: Callable[[Tensor], Tensor] | None,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows that could be read, int64, (n,), and pooled features of their views, (n, num_views, D).

    Args:
        backbone: Network to read.
        batches: Batches of one view with `count` num_views.
        num_views: q.
        normalize: As in `extract_features`.
        device: Where the network runs.
        autocast: As in `extract_features`.
    """
    parts, indices = [], []
    for batch, features in forward_batches(
        backbone,
        batches,
        normalize=normalize,
        spec=FeatureSpec(),
        device=device,
        autocast=autocast,
    ):
        pooled = features["pooled"].float().cpu()
        parts.append(pooled.view(num_views, batch.num_samples, -1).transpose(0, 1))
        indices.append(batch.index.cpu())
    if not parts:
        raise DataError("no images to extract features from.")
    index, first = _first_of_each(torch.cat(indices))
    return index, torch.cat(parts)[first]


def read_features(backbone: Backbone, images: Tensor, spec: FeatureSpec) -> dict[str, Tensor]:
    """The features of the spec by name, (B, D) each, from one forward.

    Args:
        backbone: Any; `cls` and more than one layer need a timm ViT.
        images: Normalised, (B, C, S, S).
        spec: What to read.

    Raises:
        ConfigError: The network has no class token, no patch tokens or too few blocks.
    """
    if isinstance(backbone, TimmViT):
        return _read_vit(backbone, images, spec)
    if "cls" in spec.pools or spec.num_layers > 1:
        raise ConfigError(
            f"{backbone.architecture} has no class token or blocks to read; use "
            "features.pools=[pooled] and features.num_layers=1."
        )
    features = backbone(images)
    found = {"pooled": features.pooled}
    if {"mean", "patches"} & {*spec.pools}:
        if features.patches is None:
            raise ConfigError(
                f"{backbone.architecture} has no patches; use features.pools=[pooled]."
            )
        found["mean_-1"] = features.patches.mean(dim=1)
        found["patches_-1"] = features.patches.flatten(1)
    return {name: found[name] for name in spec.names}


def _read_vit(backbone: TimmViT, images: Tensor, spec: FeatureSpec) -> dict[str, Tensor]:
    model = backbone.model
    if "cls" in spec.pools and getattr(model, "cls_token", None) is None:
        raise ConfigError(
            f"{backbone.architecture} has no class token; use features.pools=[pooled] or [mean]."
        )
    if spec.num_layers > len(model.blocks):
        raise ConfigError(
            f"features.num_layers={spec.num_layers} is above the {len(model.blocks)} blocks of "
            f"{backbone.architecture}."
        )
    layers = backbone.last_layers(images, num=spec.num_layers)
    found: dict[str, Tensor] = {}
    if "pooled" in spec.pools:
        found["pooled"] = backbone.read_tokens(layers[0]).pooled
    for depth, tokens in enumerate(layers, start=1):
        found[f"mean_{-depth}"] = tokens[:, backbone.num_prefix :].mean(dim=1)
        if "patches" in spec.pools:
            found[f"patches_{-depth}"] = tokens[:, backbone.num_prefix :].flatten(1)
        if backbone.num_prefix:
            found[f"cls_{-depth}"] = tokens[:, 0]
    return {name: found[name] for name in spec.names}


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every layer is in the mode and on the device it was in."""
    modes = {module: module.training for module in network.modules()}
    device = device_of(network)
    network.eval()
    try:
        yield
    finally:
        network.to(device)
        for module, was_training in modes.items():
            module.training = was_training


def device_of(network: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU for a network without parameters."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows in rising order, and where each is first found (samplers pad with repeats)."""
    rows, positions = index.sort(stable=True)
    is_first = torch.ones(len(rows), dtype=torch.bool)
    is_first[1:] = rows[1:] != rows[:-1]
    return rows[is_first], positions[is_first]
