"""Any official-format checkpoint -> a plain timm folder.

`CONVERTERS` is the table of layouts; a converter itself is a pure function, see `converted.py`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.backbones.build import build_from_config
from ssl_vision.errors import CheckpointError, ConfigError
from ssl_vision.zoo.card import ModelCard
from ssl_vision.zoo.convert_barlow_twins import convert_barlow_twins, matches_barlow_twins
from ssl_vision.zoo.convert_deit import convert_deit, matches_deit
from ssl_vision.zoo.convert_dino import (
    HeadFeatures,
    convert_dino,
    convert_linear_head,
    matches_dino,
)
from ssl_vision.zoo.convert_mae import convert_mae, matches_mae
from ssl_vision.zoo.convert_poa import convert_poa, matches_poa
from ssl_vision.zoo.convert_points import convert_points, matches_points
from ssl_vision.zoo.converted import Converted, ConverterEntry, ConvertOptions, check_options
from ssl_vision.zoo.export import ExportResult, check_target, export_backbone
from ssl_vision.zoo.exported import load_weights
from ssl_vision.zoo.hashes import sha256_of
from ssl_vision.zoo.safe_load import safe_load

# The first entry whose layout matches is taken where the user names none.
CONVERTERS: dict[str, ConverterEntry] = {
    "poa": ConverterEntry(
        convert_poa,
        matches_poa,
        ("width", "depth", "num_heads"),
        "POA: the intact network or any sub-network of a teacher checkpoint",
    ),
    "point_mae": ConverterEntry(
        convert_points,
        matches_points,
        ("num_groups", "num_heads"),
        "Point-MAE and Point-CMAE: pre-trained or fine-tuned encoder",
    ),
    "dino": ConverterEntry(
        convert_dino,
        matches_dino,
        ("key", "size_px", "pos_interp", "num_heads"),
        "DINO: ViT or ResNet, backbone file or full checkpoint",
    ),
    "mae": ConverterEntry(
        convert_mae,
        matches_mae,
        ("size_px", "pos_interp", "num_heads"),
        "MAE: pre-trained encoder or fine-tuned classifier",
    ),
    "deit": ConverterEntry(
        convert_deit,
        matches_deit,
        ("size_px", "pos_interp", "num_heads"),
        "DeiT and SMMix training checkpoint",
    ),
    "barlow_twins": ConverterEntry(
        convert_barlow_twins,
        matches_barlow_twins,
        (),
        "Barlow Twins and any ResNet under torchvision's names",
    ),
}


def detect_converter(content: Mapping[str, object]) -> str:
    """Name of the first converter whose layout the content has.

    Raises:
        CheckpointError: None fits; the message shows what the file holds.
    """
    for name, entry in CONVERTERS.items():
        if entry.matches(content):
            return name
    shown = ", ".join(str(key) for key in list(content)[:6])
    raise CheckpointError(
        f"no converter knows this layout (it starts with {shown}); known are "
        f"{', '.join(CONVERTERS)}. Name one with converter= to see what it misses."
    )


def convert_content(
    content: Mapping[str, object],
    *,
    converter: str = "auto",
    options: ConvertOptions | None = None,
) -> tuple[str, Converted]:
    """(Name of the converter used, what it made of the content of a weight file).

    Raises:
        ConfigError: Unknown converter, or an option it does not use.
        CheckpointError: The content has another layout.
    """
    options = options or ConvertOptions()
    name = detect_converter(content) if converter == "auto" else converter
    if name not in CONVERTERS:
        raise ConfigError(f"converter={name!r} must be auto or one of {', '.join(CONVERTERS)}.")
    check_options(options, CONVERTERS[name], name=name)
    return name, CONVERTERS[name].convert(content, options)


def build_converted(converted: Converted) -> Backbone:
    """Network of timm with the converted weights (and classifier, if any), in evaluation mode.

    Raises:
        CheckpointError: The weights do not fit the architecture, name by name.
    """
    config = {"architecture": converted.architecture, "model_args": converted.model_args}
    backbone = build_from_config(config, num_classes=converted.num_classes)
    load_weights(backbone.model, converted.weights, source="the converted file")
    return backbone.eval()


def convert_file(
    path: str | Path,
    folder: str | Path,
    *,
    converter: str = "auto",
    options: ConvertOptions | None = None,
    card: ModelCard | None = None,
    head: str | Path | None = None,
    head_features: HeadFeatures | None = None,
    allow: Iterable[str] = (),
) -> ExportResult:
    """Convert a weight file into a timm folder, verified by reloading.

    Args:
        path: The official file.
        folder: Where to; see `export_backbone`.
        converter: Entry of `CONVERTERS`, or auto.
        options: What the converter may be told.
        card: What is known of the weights; by default the file's name and hash.
        head: File of a linear classifier of DINO, to go into heads.safetensors.
        head_features: What that classifier is applied to; see `convert_linear_head`.
        allow: Further harmless classes the file may hold; see `safe_load`.

    Raises:
        ConfigError: Unknown converter, or options that cannot take effect.
        CheckpointError: Unreadable file or unknown layout.
    """
    path, allow = Path(path), tuple(allow)
    check_target(Path(folder))
    if (head is None) != (head_features is None):
        raise ConfigError("head= and head_features= (cls4, cls_mean or pooled) go together.")
    content = safe_load(path, allow=allow)
    linear = {}
    if head is not None and head_features is not None:
        linear = convert_linear_head(safe_load(head, allow=allow), features=head_features)
    name, converted = convert_content(content, converter=converter, options=options)
    card = card or ModelCard(
        title=f"{path.stem}, converted to timm",
        tag=name,
        source=path.name,
        notes=[f"Official file {path.name}, sha256 {sha256_of(path)}.", *converted.notes],
    )
    return export_backbone(
        build_converted(converted),
        folder,
        mean=converted.mean,
        std=converted.std,
        interpolation=converted.interpolation,
        size_px=converted.size_px,
        crop_pct=converted.crop_pct,
        card=card,
        heads={**converted.heads, **linear},
    )
