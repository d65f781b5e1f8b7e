"""Model cards: what a weight file is, how it was made, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ssl_vision.files import shown

_MAX_NAMED = 20  # classes


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the README.md of an export says besides what its config.json says."""

    title: str = "Vision backbone"
    method: str | None = None  # e.g. dino
    data: str | None = None  # what it was trained on
    recipe: str | None = None  # command or file that makes it again
    license: str = "unspecified"  # SPDX name; the data decides, too
    tag: str = "ssl_vision"  # timm's tag of the weights
    source: str | None = None  # run, URL or paper
    steps: int | None = None  # optimizer updates
    metrics: Mapping[str, str] = field(default_factory=dict)  # name -> value with its interval
    notes: Sequence[str] = ()


def render_card(
    card: ModelCard,
    *,
    architecture: str,
    num_features: int,
    num_parameters: int,
    preprocessing: Mapping[str, object],
    checks: Mapping[str, str],
    hub_task: str = "image-feature-extraction",
    is_in_timm: bool = True,
    num_classes: int = 0,
    class_names: Sequence[str] = (),
    own_usage: str | None = None,
) -> str:
    """README.md of an export folder, with the header model hubs read.

    Args:
        card: What is known of the weights.
        architecture: timm name.
        num_features: Width of the pooled features, D.
        num_parameters: Of the backbone.
        preprocessing: Size, mean, std ... as in config.json.
        checks: Name of a verification -> its outcome.
        hub_task: What model hubs call the network's task.
        is_in_timm: Whether timm alone can build the network.
        num_classes: Outputs of its classifier; 0 without one.
        class_names: Their names, where they are known.
        own_usage: Lines of Python that load a network that only its program can build.
    """
    library = "timm" if own_usage is None else "pytorch"
    tags = [hub_task, library, *([card.method] if card.method else [])]
    facts = {
        "Architecture": f"`{architecture}` ({library}), {num_parameters / 1e6:.2f} M parameters",
        "Features": f"{num_features} per image",
        "Classes": _classes(num_classes, class_names) if num_classes else None,
        "Method": card.method,
        "Data": card.data,
        "Optimizer updates": None if card.steps is None else f"{card.steps:,}",
        "Source": card.source,
        "License": card.license,
    }
    sections = [
        "\n".join(["---", f"license: {card.license}", f"library_name: {library}", "tags:"])
        + "".join(f"\n- {tag}" for tag in tags)
        + "\n---",
        f"# {card.title}",
        _table(("", ""), {name: value for name, value in facts.items() if value is not None}),
        _usage(is_in_timm, num_classes, own_usage),
        "## Input\n\n" + _table(("Setting", "Value"), preprocessing),
    ]
    if card.metrics:
        sections.append("## Measured\n\n" + _table(("Metric", "Value"), card.metrics))
    if card.recipe:
        sections.append(f"## Made by\n\n```sh\n{card.recipe}\n```")
    if checks:
        sections.append("## Verified on export\n\n" + _table(("Check", "Outcome"), checks))
    if card.notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {note}" for note in card.notes))
    return "\n\n".join(sections) + "\n"


def _classes(num_classes: int, names: Sequence[str]) -> str:
    if not names:
        return f"{num_classes}, of unknown names"
    told = [shown(" ".join(name.replace("|", "/").split())) for name in names[:_MAX_NAMED]]
    return f"{num_classes}: {', '.join(told)}{', ...' if len(names) > _MAX_NAMED else ''}"


def _usage(is_in_timm: bool, num_classes: int, own_usage: str | None) -> str:
    if own_usage is not None:
        return f"## Use\n\nNeeds the class of the network:\n\n```python\n{own_usage}\n```"
    if not is_in_timm:
        return _USAGE_BY_US
    return _USAGE_OF_CLASSIFIER if num_classes else _USAGE


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])


_USAGE = """## Use

Needs timm alone:

```python
import timm, torch

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
with torch.inference_mode():
    features = model(transform(image).unsqueeze(0))  # (1, num_features)
```

Its side, channels, mean and std are in `config.json`. For a classifier on top, add
`num_classes=10`; for feature maps, `features_only=True`. Uploaded to a hub as it is, the folder is
`hf-hub:OWNER/NAME`."""

_USAGE_OF_CLASSIFIER = """## Use

Needs timm alone:

```python
import timm, torch

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True, num_classes=None).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
names = model.pretrained_cfg.get("label_names")
with torch.inference_mode():
    logits = model(transform(image).unsqueeze(0))  # (1, num_classes), before the softmax
    probabilities = logits.softmax(dim=1)
```

Or `ssl-vision predict THIS_FOLDER IMAGES OUT.csv`. Its side, channels, mean and std are in
`config.json`, the names of the classes under `label_names`. `num_classes=0` leaves the classifier
out. An ONNX or torch.export file beside it gives logits, too, and carries names and transform
(`class_names`, `transform`: JSON texts in ONNX's metadata, in torch.export's extra files).
Probabilities are as well calibrated as the training left them; see what was measured."""

_USAGE_BY_US = """## Use

```python
import ssl_vision

model = ssl_vision.load_backbone("THIS_FOLDER")
features = model(clouds)  # (B, M, 3), each in the unit sphere -> (B, num_features)
```"""
