"""MAE (He et al. 2021, arXiv 2111.06377): pre-trained encoders and fine-tuned classifiers.

Layout of the authors' files (github.com/facebookresearch/mae): {"model": tensors}. Pre-trained
files hold the encoder under timm's names, training and visualisation files also `mask_token` and
`decoder_*`. Fine-tuned files have `head` and, where patches are averaged, `fc_norm` for `norm`.
"""

from collections.abc import Mapping

from ssl_vision.zoo.converted import Converted, ConvertOptions, split_off, tensors_of
from ssl_vision.zoo.geometry import fit_positions, vit_architecture


def matches_mae(content: Mapping[str, object]) -> bool:
    """{"model": ViT} with a decoder, an `fc_norm`, or without any classifier."""
    model = content.get("model")
    if not isinstance(model, Mapping) or "cls_token" not in model:
        return False
    has_own_sign = "mask_token" in model or "fc_norm.weight" in model
    return has_own_sign or not any(str(name).startswith("head") for name in model)


def convert_mae(content: Mapping[str, object], options: ConvertOptions) -> Converted:
    """Encoder, or fine-tuned classifier, of any of the authors' files.

    Raises:
        CheckpointError: The content has another layout.
    """
    tensors = tensors_of(content, key="model" if "model" in content else None)
    weights, decoder = split_off(tensors, "decoder_", "mask_token")
    name, args, native_px = vit_architecture(weights, options)
    num_classes = weights["head.weight"].shape[0] if "head.weight" in weights else 0
    if "fc_norm.weight" in weights:
        args["global_pool"] = "avg"
    weights, size_args, size_px = fit_positions(
        weights, options, native_px=native_px, authors_rule="plain"
    )
    return Converted(
        architecture=name,
        weights=weights,
        model_args={**args, **size_args},
        num_classes=num_classes,
        heads=decoder,
        size_px=size_px,
    )
