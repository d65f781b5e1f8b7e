"""Official names of point networks become ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.convert import build_converted, convert_content, convert_file
from ssl_vision.zoo.convert_points import (
    convert_points,
    rename_encoder,
    rename_finetuned,
    rename_pretrained,
    squeeze_convolution,
)
from ssl_vision.zoo.converted import ConvertOptions
from ssl_vision.zoo.export import export_backbone
from ssl_vision.zoo.weights import resolve_weights


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


# Whole files: the official encoder rebuilt from its layout, with nothing of ours ----------------


class OfficialBlock(nn.Module):
    """Pre-norm block; keys, queries and values without bias, LayerNorm's default eps."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn.proj = nn.Linear(width, width)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (t.reshape(batch, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.attn.proj((scores @ v).transpose(1, 2).flatten(2))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class OfficialPoints(nn.Module):
    """`encoder`, `pos_embed`, `blocks.blocks`, `norm` of the authors; class token if fine-tuned."""

    def __init__(self, *, width: int = 48, depth: int = 3, heads: int = 3, is_tuned: bool) -> None:
        super().__init__()
        conv, norm, relu = nn.Conv1d, nn.BatchNorm1d, nn.ReLU
        self.encoder = nn.Module()
        self.encoder.first_conv = nn.Sequential(
            conv(3, 128, 1), norm(128), relu(), conv(128, 256, 1)
        )
        self.encoder.second_conv = nn.Sequential(
            conv(512, 512, 1), norm(512), relu(), conv(512, width, 1)
        )
        self.pos_embed = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = nn.Module()
        self.blocks.blocks = nn.ModuleList(OfficialBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if is_tuned:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.cls_pos = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, neighbors: Tensor, centers: Tensor) -> Tensor:
        """Groups (B, G, k, 3) around centres (B, G, 3) -> normed tokens."""
        batch, groups, _, _ = neighbors.shape
        x = self.encoder.first_conv(neighbors.flatten(0, 1).transpose(1, 2))
        joined = torch.cat([x.amax(dim=2, keepdim=True).expand_as(x), x], dim=1)
        tokens = self.encoder.second_conv(joined).amax(dim=2).reshape(batch, groups, -1)
        positions = self.pos_embed(centers)
        if hasattr(self, "cls_token"):
            tokens = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1)
            positions = torch.cat([self.cls_pos.expand(batch, -1, -1), positions], dim=1)
        for block in self.blocks.blocks:
            tokens = block(tokens + positions)
        return self.norm(tokens)


CLOUDS = torch.randn(2, 1024, 3, generator=torch.Generator().manual_seed(0))
CLOUDS /= CLOUDS.norm(dim=-1).amax(dim=1)[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pretrained", "classifier", "segmentation"])
def test_official_files_give_equal_tokens(kind: str, randomised: Any, difference: Any) -> None:
    official = randomised(OfficialPoints(is_tuned=kind == "classifier"))
    weights = official.state_dict()
    content: dict[str, Any] = {
        "pretrained": {
            "base_model": {f"module.MAE_encoder.{n}": v for n, v in weights.items()}
            | {"module.mask_token": torch.ones(1, 1, 48)}
        },
        "classifier": {
            "base_model": {f"module.{n}": v for n, v in weights.items()}
            | {"module.cls_head_finetune.0.weight": torch.ones(8, 96)}
        },
        "segmentation": {"model_state_dict": {**weights, "label_conv.0.weight": torch.ones(1)}},
    }[kind]
    name, converted = convert_content(content, options=ConvertOptions(num_heads=3))
    assert name == "point_mae"
    assert len(converted.heads) == 1
    backbone = build_converted(converted)
    groups = backbone.model.group(CLOUDS)
    tokens = official(groups.neighbors, groups.centers)
    features = backbone(CLOUDS)
    has_class = kind == "classifier"
    assert difference(features.patches, tokens[:, int(has_class) :]) < 1e-5
    patches = tokens[:, int(has_class) :]
    first = tokens[:, 0] if has_class else patches.amax(dim=1)
    second = patches.amax(dim=1) if has_class else patches.mean(dim=1)
    assert difference(features.pooled, torch.cat([first, second], dim=1)) < 1e-5


def test_number_of_patches_is_the_users(randomised: Any) -> None:
    weights = randomised(OfficialPoints(is_tuned=True)).state_dict()
    content = {"base_model": weights}
    converted = convert_points(content, ConvertOptions(num_heads=3, num_groups=128))
    model = build_converted(converted).model
    assert (model.num_groups, model.num_points) == (128, 2048)
    assert (
        build_converted(convert_points(content, ConvertOptions(num_heads=3))).model.num_groups == 64
    )
    with pytest.raises(ConfigError, match="num_heads=5"):
        convert_points(content, ConvertOptions(num_heads=5))
    with pytest.raises(CheckpointError, match="not a point transformer"):
        convert_points(
            {"base_model": {"module.encoder.first_conv.0.weight": torch.ones(1)}}, ConvertOptions()
        )


def test_converted_clouds_are_exported_and_read_back(randomised: Any, tmp_path: Path) -> None:
    weights = randomised(OfficialPoints(is_tuned=False)).state_dict()
    torch.save(
        {"base_model": {f"module.MAE_encoder.{n}": v for n, v in weights.items()}},
        tmp_path / "pretrain.pth",
    )
    convert_file(tmp_path / "pretrain.pth", tmp_path / "out", options=ConvertOptions(num_heads=3))
    loaded = resolve_weights(tmp_path / "out")
    assert (loaded.backbone.modality, loaded.input_size) == ("clouds", 1024)
    assert loaded.backbone(CLOUDS).pooled.shape == (2, 96)
    assert "ssl_vision.load_backbone" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(ConfigError, match="timm alone has no networks"):
        export_weights_of(loaded, tmp_path / "again")


def export_weights_of(loaded: Any, folder: Path) -> None:
    export_backbone(
        loaded.backbone, folder, mean=loaded.mean, std=loaded.std, interpolation="bicubic",
        size_px=1, formats=["timm"],
    )  # fmt: skip
