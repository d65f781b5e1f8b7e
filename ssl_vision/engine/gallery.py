"""What a trained network makes of some samples, for its report: neighbours, a map, a look inside.

Made once, at the end of a run and by its main process, of a few hundred un-augmented samples.
"""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssl_vision.backbones.backbone import Backbone
from ssl_vision.data.config import DataConfig
from ssl_vision.data.modalities import modality_of
from ssl_vision.data.module import DataModule
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.features import device_of, extract_features
from ssl_vision.evaluation.insight import Row, attention_rows, feature_rows
from ssl_vision.evaluation.neighbours import find_neighbours
from ssl_vision.evaluation.page import color_keys, embedded
from ssl_vision.evaluation.pictures import as_image, sheet
from ssl_vision.evaluation.plots import COLORS, picture_map
from ssl_vision.evaluation.projection import project
from ssl_vision.evaluation.raw_inputs import KeptInputs
from ssl_vision.methods.base import Method, Picture
from ssl_vision.types import Batch

_NUM_SAMPLES = 240
_NUM_QUERIES, _NUM_NEAREST = 6, 5
_NUM_ON_MAP, _MAP_PX = 80, 22  # pictures, and the side of one
_NUM_INSIDE, _PANEL_PX = 4, 128
_NUM_PICTURED = 3  # by the method itself
_TILE_PX, _PREVIEW_PX = 72, 96
_QUALITY = 82  # of JPEG tiles


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: Its heading.
        body: HTML.
    """

    title: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Samples, and what a network says of them; rows are samples.

    Attributes:
        data: Where they are from.
        views: Un-normalised, (N, ...).
        features: Of the network, (N, D).
        raw: Without a network (see `Modality.raw`), (N, R).
        labels: Classes; None without.
        names: Of the samples.
        class_names: Of the classes.
    """

    data: DataModule
    views: Tensor
    features: Tensor
    raw: Tensor
    labels: list[int] | None
    names: list[str]
    class_names: list[str]

    def pixels(self, row: int, *, size_px: int) -> NDArray[np.uint8]:
        """A sample to look at, uint8, (size, size, 3)."""
        (drawn,) = self.data.modality.thumbnails(self.views[row : row + 1], size_px=size_px)
        return np.asarray(as_image(torch.from_numpy(drawn), size_px=size_px))

    def caption(self, row: int) -> str:
        """Its class, or its name."""
        if self.labels is None:
            return self.names[row].rpartition("/")[2]
        return self.name_of(self.labels[row])

    def name_of(self, label: int) -> str:
        """Name of a class."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


def gallery(data: DataModule, backbone: Backbone) -> list[Section]:
    """Sections of a report: nearest neighbours, a map, and what the network looks at.

    Args:
        data: Of the run; those that are classified are shown, without labels those trained on.
        backbone: The network, where it computes.

    Raises:
        DataError: No sample can be read, or features are not finite.
    """
    shown = look(data, backbone)
    sections = [_neighbours(shown)] if len(shown.views) > _NUM_NEAREST else []
    sections += [_map(shown)] if len(shown.views) >= 3 else []
    inside = _inside(shown, backbone)
    return sections if inside is None else [*sections, inside]


def preview(batch: Batch | None, config: DataConfig) -> Image.Image | None:
    """What the network is shown, of some samples of a training batch; None without one."""
    if batch is None:
        return None
    modality = modality_of(config)
    return modality.sheet(batch.views, num_samples=batch.num_samples, tile_px=_PREVIEW_PX)


def picture(method: Method, batch: Batch | None, config: DataConfig) -> Picture | None:
    """What the method makes of some samples of a training batch; None where there is nothing.

    Raises:
        ConfigError: Its weights are spread over processes (FSDP2), which would all have to take
            part.
    """
    if batch is None or type(method).picture is Method.picture:
        return None
    if any(isinstance(parameter, DTensor) for parameter in method.parameters()):
        raise ConfigError("weights are spread over processes; ssl-vision visualize draws it.")
    normalize = modality_of(config).normalizer(config)
    return method.picture(
        {name: normalize(view[:_NUM_PICTURED]) for name, view in batch.views.items()}
    )


def look(data: DataModule, backbone: Backbone) -> Shown:
    """Read samples with the network; see `gallery`."""
    loader, device = data.shown_loader(_NUM_SAMPLES), device_of(backbone)
    inputs = KeptInputs(backbone.modality, num_samples=len(loader.source))
    views: list[Tensor] = []

    def batches() -> Iterator[Batch]:
        for batch in loader:
            views.extend(batch.views.values())
            yield data.normalize(batch.to(device))

    found = extract_features(backbone, inputs.watch(batches()), normalize=None)
    return Shown(
        data=data,
        views=torch.cat(views),
        features=found.features["pooled"],
        raw=inputs.features().features["pooled"],
        labels=None if found.labels is None else found.labels.tolist(),
        names=[loader.source.name(int(row)) for row in found.index],
        class_names=list(loader.source.class_names),
    )


def queries_of(labels: list[int] | None, num_samples: int, *, num: int) -> list[int]:
    """Rows to ask about, evenly over the classes where there are some, else over the samples."""
    if labels is None or len(set(labels)) < 2:
        return _spread(num_samples, num)
    classes = sorted(set(labels))
    rows = [[r for r, label in enumerate(labels) if label == c] for c in classes]
    chosen = [rows[i] for i in _spread(len(classes), num)]
    return [of_class[len(of_class) // 2] for of_class in chosen]


def _spread(num: int, wanted: int) -> list[int]:
    """At most so many of 0 .. num - 1, evenly."""
    count = min(num, wanted)
    return [int((2 * i + 1) * num / (2 * count)) for i in range(count)]


# Neighbours ------------------------------------------------------------------------------------


def _neighbours(shown: Shown) -> Section:
    asked = queries_of(shown.labels, len(shown.views), num=_NUM_QUERIES)
    by_network, by_raw = (_nearest(each, asked) for each in (shown.features, shown.raw))
    blocks = [
        f"<div>{_figure(shown, row, kind='query')}"
        + "".join(_figure(shown, other, query=row) for other in [*near, *near_raw])
        + "</div>"
        for row, near, near_raw in zip(asked, by_network, by_raw, strict=True)
    ]
    raw = shown.data.modality.raw.name
    words = (
        f"Some samples, and the {_NUM_NEAREST} nearest of {len(shown.views)} others by cosine: "
        f"above by this network, below by {raw}, without any network."
    )
    if shown.labels is not None:
        words += f" Outlined: the same class. {_share_of_same(shown, asked, by_network, by_raw)}"
    return Section("Nearest neighbours", f'<p>{words}</p><div class="near">{"".join(blocks)}</div>')


def _nearest(features: Tensor, rows: list[int]) -> list[list[int]]:
    ids = torch.arange(len(features))
    found = find_neighbours(
        features, features[rows], k=_NUM_NEAREST, bank_ids=ids, query_ids=ids[rows], ties="mixed"
    )
    return [[row for row in near if row >= 0] for near in found.rows.tolist()]


def _share_of_same(
    shown: Shown, asked: list[int], by_network: list[list[int]], by_raw: list[list[int]]
) -> str:
    labels = shown.labels or []

    def count(found: list[list[int]]) -> int:
        pairs = zip(asked, found, strict=True)
        return sum(labels[row] == labels[other] for row, near in pairs for other in near)

    total = sum(map(len, by_network))
    return f"Of these {total}: {count(by_network)} by the network, {count(by_raw)} without."


def _figure(shown: Shown, row: int, *, query: int | None = None, kind: str = "") -> str:
    if query is not None and shown.labels is not None:
        kind = "same" if shown.labels[row] == shown.labels[query] else ""
    caption, name = (html.escape(t, quote=True) for t in (shown.caption(row), shown.names[row]))
    tile = Image.fromarray(shown.pixels(row, size_px=_TILE_PX))
    tag = embedded(tile, alt=shown.caption(row), quality=_QUALITY)
    return f'<figure class="{kind}" title="{name}">{tag}<figcaption>{caption}</figcaption></figure>'


# Map -------------------------------------------------------------------------------------------


def _map(shown: Shown) -> Section:
    places, kind = project(shown.features, kind="pca")
    classes = sorted(set(shown.labels or ()))
    is_colored = 1 < len(classes) <= len(COLORS)
    groups = [classes.index(label) for label in shown.labels or ()] if is_colored else None
    pictures = {
        row: shown.pixels(row, size_px=_TILE_PX // 2 + _TILE_PX % 2)
        for row in _spread(len(places), _NUM_ON_MAP)
    }
    plot = picture_map(
        f"Features in the plane ({kind})", places, groups=groups, pictures=pictures, side_px=_MAP_PX
    )
    named = zip(map(shown.name_of, classes), COLORS, strict=False)
    keys = color_keys(dict(named)) if is_colored else ""
    many = "" if len(classes) <= len(COLORS) else f" {len(classes)} classes are too many to colour."
    words = (
        f"{len(places)} samples, {len(pictures)} with their picture.{many} What lies together is "
        "alike to the network; most of what it knows lies in directions that a plane does not show."
    )
    return Section("Map", f"<p>{words}</p>{keys}{plot}")


# Inside ----------------------------------------------------------------------------------------


_INSIDE: dict[str, tuple[Callable[..., list[Row]], str]] = {
    "attention": (
        partial(attention_rows, has_heads=False),
        "What the last block attends to, and the fewest patches with most of it.",
    ),
    "features": (
        feature_rows,
        "Features of the patches: their three main directions as red, green and blue, the same "
        "for all; what is alike to the network has one colour.",
    ),
}


def _inside(shown: Shown, backbone: Backbone) -> Section | None:
    """Attention and patch features, of a modality and network that have them."""
    data, rows = shown.data, queries_of(shown.labels, len(shown.views), num=_NUM_INSIDE)
    kinds = [kind for kind in _INSIDE if kind in data.modality.pictures]
    if not kinds:
        return None
    views = shown.views[rows]
    images = data.modality.normalizer(data.config)(views.to(device_of(backbone)))
    side = views.shape[-1]
    panel = side * round(_PANEL_PX / side) if side <= _PANEL_PX else _PANEL_PX  # whole multiples
    pictures = [Image.fromarray(shown.pixels(row, size_px=panel)) for row in rows]
    merged: list[Row] = [{} for _ in rows]
    texts = []
    for kind in kinds:
        draw, text = _INSIDE[kind]
        try:
            drawn = draw(backbone, images, pictures)
        except ConfigError:  # a network without attention, or without patches
            continue
        merged = [row | more for row, more in zip(merged, drawn, strict=True)]
        texts.append(text)
    if not texts:
        return None
    alt = "what the network makes of parts of images"
    tag = embedded(sheet(merged), alt=alt, is_sheet=True, quality=_QUALITY)
    return Section("Inside the network", f"<p>{' '.join(texts)}</p>{tag}")
