"""Official names of point networks become ours."""

import pytest
import torch

from ssl_vision.errors import CheckpointError
from ssl_vision.zoo.convert_points import (
    rename_encoder,
    rename_finetuned,
    rename_pretrained,
    squeeze_convolution,
)


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("MAE_encoder.encoder.first_conv.0.weight", "patch_embed.first_conv.0.weight"),
        ("MAE_encoder.blocks.blocks.11.attn.qkv.weight", "blocks.11.attn.qkv.weight"),
        ("MAE_encoder.pos_embed.2.bias", "pos_embed.2.bias"),
        ("encoder.second_conv.1.running_mean", "patch_embed.second_conv.1.running_mean"),
        ("blocks.blocks.3.norm1.weight", "blocks.3.norm1.weight"),
        ("cls_token", "cls_token"),
    ],
)
def test_encoder_names(official: str, ours: str) -> None:
    assert rename_encoder(official) == ours


def test_decoders_of_both_methods_find_their_places() -> None:
    one = torch.zeros(1)
    encoder = {"MAE_encoder.norm.weight": one}
    method, _, others = rename_pretrained(
        {**encoder, "mask_token": one, "decoder_pos_embed.0.weight": one,
         "MAE_decoder.blocks.0.norm1.weight": one, "increase_dim.0.bias": one}
    )  # fmt: skip
    assert method == "point_mae"
    assert set(others) == {
        "decoder.mask_token",
        "decoder.pos_embed.0.weight",
        "decoder.blocks.0.norm1.weight",
        "decoder.head.bias",
    }
    method, weights, others = rename_pretrained(
        {**encoder, "mask_token1": one, "mask_token2": one, "MAE_encoder.cls_token1": one,
         "MAE_decoder_.norm.weight": one, "increase_dim_.0.bias": one,
         "MAE_encoder.proj_cls.0.weight": one}
    )  # fmt: skip
    assert method == "point_cmae"
    assert set(weights) == {"norm.weight"}
    assert set(others) == {
        "branch_1.decoder.mask_token",
        "branch_2.decoder.mask_token",
        "branch_1.cls_token",
        "branch_2.decoder.norm.weight",
        "branch_2.decoder.head.bias",
    }


def test_other_files_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"patch_embed\.proj\.weight"):
        rename_pretrained({"patch_embed.proj.weight": torch.zeros(1)})


def test_heads_of_fine_tuned_networks_stay_apart() -> None:
    encoder, heads = rename_finetuned(
        {
            "encoder.first_conv.0.weight": torch.zeros(128, 3, 1),
            "cls_pos": torch.zeros(1, 1, 384),
            "cls_head_finetune.0.weight": torch.zeros(256, 768),
            "convs1.weight": torch.zeros(512, 3392, 1),
        }
    )
    assert {n: tuple(v.shape) for n, v in encoder.items()} == {
        "patch_embed.first_conv.0.weight": (128, 3),
        "cls_pos": (1, 1, 384),
    }
    assert set(heads) == {"cls_head_finetune.0.weight", "convs1.weight"}


def test_tokens_are_not_mistaken_for_convolutions() -> None:
    assert squeeze_convolution(torch.zeros(1, 1, 1)).shape == (1, 1, 1)
    assert squeeze_convolution(torch.zeros(8, 3, 1)).shape == (8, 3)
