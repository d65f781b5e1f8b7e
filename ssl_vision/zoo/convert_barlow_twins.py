"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) and other ResNets of torchvision's layout.

Layout of the authors' files (github.com/facebookresearch/barlowtwins): `resnet50.pth` has
torchvision's names without `fc`; `checkpoint.pth` is {epoch, model, optimizer} with
`module.backbone.*`, `module.projector.*` and the loss's own `module.bn.*`.
"""

from collections.abc import Mapping

from ssl_vision.zoo.converted import (
    Converted,
    ConvertOptions,
    split_off,
    strip_prefix,
    tensors_of,
)
from ssl_vision.zoo.geometry import resnet_architecture


def matches_barlow_twins(content: Mapping[str, object]) -> bool:
    """A bare ResNet, or {"model": backbone and projector}."""
    if "conv1.weight" in content or "module.conv1.weight" in content:
        return True
    model = content.get("model")
    return isinstance(model, Mapping) and any(
        str(name).removeprefix("module.").startswith("backbone.conv1") for name in model
    )


def convert_barlow_twins(content: Mapping[str, object], options: ConvertOptions) -> Converted:
    """ResNet of a backbone file or a full checkpoint.

    Raises:
        CheckpointError: The content has another layout.
    """
    tensors = tensors_of(content, key="model" if "model" in content else None)
    backbone = strip_prefix(tensors, "backbone.")
    # By prefix, not by substring: the backbone's own layers are called bn1, bn2 ...
    _, heads = split_off(tensors, "projector.", "bn.") if backbone else ({}, {})
    weights = backbone or tensors
    name, args, num_classes = resnet_architecture(weights)
    return Converted(
        architecture=name,
        weights=weights,
        model_args=args,
        num_classes=num_classes,
        heads=heads,
        interpolation="bilinear",  # the authors' evaluate.py resizes with torchvision's default
    )
