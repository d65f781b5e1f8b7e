"""DINO (Caron et al. 2021, arXiv 2104.14294): backbone files, full checkpoints, linear heads.

Layout of the authors' files (github.com/facebookresearch/dino):
    backbone file    the teacher's names, bare
    full checkpoint  student, teacher, optimizer, epoch, args, dino_loss; the student's names start
                     with `module.backbone.` and `module.head.`, the teacher's with `backbone.`
                     (ViT) or `module.backbone.` (networks with batch norm)
    linear head      state_dict with `module.linear.weight` and `module.linear.bias`
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.converted import (
    Converted,
    ConvertOptions,
    Weights,
    split_off,
    strip_prefix,
    tensors_of,
)
from ssl_vision.zoo.geometry import fit_positions, resnet_architecture, vit_architecture

HeadFeatures = Literal["cls4", "cls_mean", "pooled"]


def matches_dino(content: Mapping[str, object]) -> bool:
    """A full checkpoint, or a bare ViT without classifier."""
    if {"student", "teacher", "dino_loss"} <= content.keys():
        return True
    return "cls_token" in content and "pos_embed" in content


def convert_dino(content: Mapping[str, object], options: ConvertOptions) -> Converted:
    """ViT or ResNet of a backbone file or a full checkpoint (the teacher unless key=student).

    Raises:
        CheckpointError: The content has another layout.
    """
    weights, heads = _networks(content, options)
    if "cls_token" not in weights:
        return _convert_resnet(weights, heads)
    weights, classifier = split_off(weights, "head.")
    name, args, native_px = vit_architecture(weights, options)
    weights, size_args, size_px = fit_positions(
        weights, options, native_px=native_px, authors_rule="dino"
    )
    return Converted(
        architecture=name,
        weights=weights,
        model_args={**args, **size_args},
        heads={**heads, **classifier},
        size_px=size_px,
    )


def _networks(content: Mapping[str, object], options: ConvertOptions) -> tuple[Weights, Weights]:
    """(Backbone, head) tensors of either kind of file."""
    if "teacher" not in content and "student" not in content:
        if options.key is not None:
            raise ConfigError(f"key={options.key}: this is a backbone file, it has one network.")
        return tensors_of(content), {}
    tensors = tensors_of(content, key=options.key or "teacher")
    weights = strip_prefix(tensors, "backbone.")
    if not weights:
        raise CheckpointError("the checkpoint's network has no names starting with `backbone.`.")
    return weights, {f"head.{n}": v for n, v in strip_prefix(tensors, "head.").items()}


def _convert_resnet(weights: Weights, heads: Weights) -> Converted:
    weights, classifier = split_off(weights, "fc.")
    name, args, _ = resnet_architecture(weights)
    return Converted(
        architecture=name, weights=weights, model_args=args, heads={**heads, **classifier}
    )


def convert_linear_head(content: Mapping[str, object], *, features: HeadFeatures) -> Weights:
    """The released linear classifier, for features concatenated in the order of `head_features`.

    The authors stack [CLS] and mean patch of ViT-B on the last axis before flattening, so their
    weights alternate between the two, column by column; here the two are put one after the other.

    Args:
        content: Of the file; `state_dict` with `module.linear.*`.
        features: cls4 for ViT-S, cls_mean for ViT-B, pooled for ResNet-50. The file does not say:
            4 * 384 and 2 * 768 columns are both 1536.

    Returns:
        linear.weight, (K, F), and linear.bias, (K,).
    """
    tensors = tensors_of(content, key="state_dict" if "state_dict" in content else None)
    linear = strip_prefix(tensors, "linear.")
    if linear.keys() != {"weight", "bias"}:
        raise CheckpointError("this is not a linear head of DINO: no linear.weight, linear.bias.")
    weight = linear["weight"]
    if features == "cls_mean":
        weight = torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)
    elif features not in ("cls4", "pooled"):
        raise ConfigError(f"head_features={features!r} must be cls4, cls_mean or pooled.")
    return {"linear.weight": weight.contiguous(), "linear.bias": linear["bias"]}


def head_features(model: nn.Module, images: Tensor, *, features: HeadFeatures) -> Tensor:
    """What a linear head of DINO is applied to, (B, F).

    Args:
        model: timm ViT (cls4, cls_mean) or any timm network (pooled).
        images: Normalised, (B, 3, S, S).
        features: cls4: [CLS] of the last 4 blocks, each after the final norm, first of them first;
            cls_mean: last [CLS], then the mean of the last patch tokens; pooled: the output.
    """
    if features == "pooled":
        pooled: Tensor = model(images)
        return pooled
    network: Any = model
    layers = network.get_intermediate_layers(
        images, n=4 if features == "cls4" else 1, return_prefix_tokens=True, norm=True
    )
    classes = [prefix[:, 0] for _, prefix in layers]
    if features == "cls_mean":
        classes.append(layers[-1][0].mean(dim=1))
    return torch.cat(classes, dim=-1)
