"""Point-MAE (arXiv 2203.06604) and Point-CMAE (2407.05862): pre-trained and fine-tuned networks.

Layouts of the authors' files (github.com/Pang-Yatian/Point-MAE, Amazingren/Point-CMAE):
    pre-trained: {"base_model": {"module.MAE_encoder.*", decoders, ...}};
    fine-tuned classifier: {"base_model": {"module.cls_token", "module.encoder.*", ...}};
    part segmentation: {"model_state_dict": {"encoder.*", "label_conv.*", "propagation_0.*", ...}}.
Their 1x1 convolutions are linear layers here: the last dimension of their weights goes.
"""

from collections.abc import Mapping

from torch import Tensor

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.converted import Converted, ConvertOptions, tensors_of

# Official prefix -> ours, of the encoder; longer ones first.
_ENCODER = (
    ("MAE_encoder.", ""),
    ("blocks.blocks.", "blocks."),
    ("encoder.", "patch_embed."),
)
# Official prefix -> name in our method, of what the two pre-training methods have beside it.
_DECODERS = {
    "point_mae": {
        "mask_token": "decoder.mask_token",
        "decoder_pos_embed.": "decoder.pos_embed.",
        "MAE_decoder.": "decoder.",
        "increase_dim.0.": "decoder.head.",
    },
    "point_cmae": {
        "mask_token1": "branch_1.decoder.mask_token",
        "mask_token2": "branch_2.decoder.mask_token",
        "MAE_encoder.cls_token1": "branch_1.cls_token",
        "MAE_encoder.cls_token2": "branch_2.cls_token",
        "MAE_encoder.cls_pos1": "branch_1.cls_pos",
        "MAE_encoder.cls_pos2": "branch_2.cls_pos",
        "decoder_pos_embed1.": "branch_1.decoder.pos_embed.",
        "decoder_pos_embed2.": "branch_2.decoder.pos_embed.",
        "MAE_decoder.": "branch_1.decoder.",
        "MAE_decoder_.": "branch_2.decoder.",
        "increase_dim.0.": "branch_1.decoder.head.",
        "increase_dim_.0.": "branch_2.decoder.head.",
    },
}
# No loss uses it, and our method leaves it out.
_UNUSED = "MAE_encoder.proj_cls."
_ENCODER_PARTS = ("patch_embed.", "pos_embed.", "blocks.", "norm.", "cls_token", "cls_pos")


def matches_points(content: Mapping[str, object]) -> bool:
    """{"base_model" or "model_state_dict": a point encoder}."""
    tensors = content.get("base_model", content.get("model_state_dict"))
    return isinstance(tensors, Mapping) and any(
        ".first_conv." in f".{name}" or "encoder.first_conv." in str(name) for name in tensors
    )


def convert_points(content: Mapping[str, object], options: ConvertOptions) -> Converted:
    """Encoder of a pre-trained or fine-tuned file; decoders and classifiers become `heads`.

    The number of patches is not in the weights: 64 of 1024 points by default, as in pre-training;
    `num_groups` for others (128 for ScanObjectNN, 512 for ModelNet40 with 8192 points), with 16
    points of the cloud per patch as in all of the authors' configurations.

    Raises:
        CheckpointError: The content has another layout.
    """
    key = "base_model" if "base_model" in content else "model_state_dict"
    tensors = tensors_of(content, key=key if key in content else None)
    is_pretrained = any(name.startswith("MAE_encoder.") for name in tensors)
    if is_pretrained:
        _, weights, heads = rename_pretrained(tensors)
    else:
        weights, heads = rename_finetuned(tensors)
    if "norm.weight" not in weights or "blocks.0.attn.qkv.weight" not in weights:
        raise CheckpointError("this is not a point transformer of the authors' layout.")
    return Converted(
        architecture="point_vit_small",
        weights=weights,
        model_args=_geometry(weights, options),
        heads=heads,
        size_px=1,  # of no meaning for clouds
    )


def _geometry(weights: Mapping[str, Tensor], options: ConvertOptions) -> dict[str, object]:
    """Arguments by which the network differs from `point_vit_small`."""
    width = weights["norm.weight"].shape[0]
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    heads = options.num_heads or max(1, width // 64)
    if width % heads:
        raise ConfigError(f"num_heads={heads} does not divide the width {width}.")
    num_groups = options.num_groups or 64
    # The authors' kernel overlooks points near the origin; features follow it only with this.
    args: dict[str, object] = {"skips_near_origin": True}
    if (width, depth, heads) != (384, 12, 6):
        args |= {"embed_dim": width, "depth": depth, "num_heads": heads}
    if num_groups != 64:
        args |= {"num_groups": num_groups, "num_points": 16 * num_groups}
    if "cls_token" in weights:
        args |= {"class_token": True, "pool": "cls_max"}  # what the classifier is applied to
    return args


def rename_pretrained(
    tensors: Mapping[str, Tensor],
) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Official pre-trained weights -> (method, encoder, everything else), under our names.

    Args:
        tensors: Official names, without `module.`.

    Returns:
        Name of the method; weights of `PointTransformer`; weights the method has beside it.

    Raises:
        CheckpointError: Names that belong to neither method.
    """
    method = "point_cmae" if "mask_token1" in tensors else "point_mae"
    encoder, others, unknown = {}, {}, []
    for name, value in tensors.items():
        value = squeeze_convolution(value)
        prefix = _longest_prefix(name, _DECODERS[method])
        if name.startswith(_UNUSED):
            continue
        if prefix is not None:
            others[_DECODERS[method][prefix] + name.removeprefix(prefix)] = value
        elif name.startswith("MAE_encoder."):
            encoder[rename_encoder(name)] = value
        else:
            unknown.append(name)
    if unknown or not encoder:
        shown = ", ".join(unknown[:4]) or "no MAE_encoder.*"
        raise CheckpointError(f"these are not weights of a pre-trained Point-MAE: {shown}.")
    return method, encoder, others


def rename_finetuned(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Official fine-tuned weights -> (weights of `PointTransformer`, the heads' official names)."""
    encoder, heads = {}, {}
    for name, value in tensors.items():
        ours = rename_encoder(name)
        if ours.startswith(_ENCODER_PARTS):
            encoder[ours] = squeeze_convolution(value)
        else:
            heads[name] = value
    return encoder, heads


def rename_encoder(name: str) -> str:
    """Official name of an encoder's tensor -> its name in `PointTransformer`."""
    for old, new in _ENCODER:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def squeeze_convolution(value: Tensor) -> Tensor:
    """Weight of a 1x1 convolution, (out, in, 1), as a linear layer's; others as they are."""
    is_convolution = value.ndim == 3 and value.shape[-1] == 1 and value.shape[0] > 1
    return value.squeeze(-1) if is_convolution else value


def _longest_prefix(name: str, table: Mapping[str, str]) -> str | None:
    """Prefix of the table that the name starts with; names without a final dot must be whole."""
    fitting = [p for p in table if name == p or (p.endswith(".") and name.startswith(p))]
    return max(fitting, key=len, default=None)
