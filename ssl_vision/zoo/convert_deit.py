"""DeiT training checkpoints, as SMMix (Chen et al. 2022, arXiv 2212.12977) releases them.

Layout (github.com/ChenMnZ/SMMix): {"model": tensors, "args": Namespace, ...}; the model has timm's
names, a classifier `head`, and SMMix's training-only `token_head`.
"""

from collections.abc import Mapping

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.converted import Converted, ConvertOptions, split_off, tensors_of
from ssl_vision.zoo.geometry import fit_positions, vit_architecture


def matches_deit(content: Mapping[str, object]) -> bool:
    """Whether a file holds {"model": weights of a ViT with a classifier}."""
    model = content.get("model")
    return isinstance(model, Mapping) and "cls_token" in model and "head.weight" in model


def convert_deit(content: Mapping[str, object], options: ConvertOptions) -> Converted:
    """Classifier of a DeiT or SMMix training checkpoint.

    Raises:
        CheckpointError: The content has another layout, for example PVT's (timm has no PVT v1).
    """
    tensors = tensors_of(content, key="model" if "model" in content else None)
    if any(name.startswith("patch_embed1.") for name in tensors):
        raise CheckpointError("this is a PVT v1 network; timm has only PVT v2, so it cannot go.")
    weights, token_head = split_off(tensors, "token_head.")
    name, args, native_px = vit_architecture(weights, options, family="deit")
    weights, size_args, size_px = fit_positions(
        weights, options, native_px=native_px, authors_rule="plain"
    )
    return Converted(
        architecture=name,
        weights=weights,
        model_args={**args, **size_args},
        num_classes=weights["head.weight"].shape[0] if "head.weight" in weights else 0,
        heads=token_head,
        size_px=size_px,
    )
