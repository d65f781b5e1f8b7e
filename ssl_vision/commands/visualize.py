"""The `visualize` command: what a network attends to, what its patches say, what MAE fills in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from ssl_vision.bounds import check_bounds
from ssl_vision.commands.arguments import parse
from ssl_vision.data.config import DataConfig, EvalDataConfig
from ssl_vision.data.find import find_source
from ssl_vision.data.levels import AskedDecode
from ssl_vision.data.loader import EpochLoader, OnError
from ssl_vision.data.modalities import MODALITIES, modality_of
from ssl_vision.data.modality import Modality, Normalize
from ssl_vision.data.module import on_error_of_scores
from ssl_vision.data.source import JoinedSource, Source, SubsetSource
from ssl_vision.engine.saved_config import load_run_config
from ssl_vision.engine.saved_method import load_method, mae_of_export
from ssl_vision.errors import ConfigError, DataError, keys_renamed, renamed, warnings_renamed
from ssl_vision.evaluation.insight import attention_rows, feature_rows, reconstruction_rows
from ssl_vision.evaluation.pictures import as_image, sheet
from ssl_vision.files import Output, check_output, check_replaceable, remove_stale
from ssl_vision.methods.mae import Mae
from ssl_vision.zoo.weights import LoadedBackbone, resolve_weights

_PANEL_PX = 224  # side of one picture of a sheet; whole multiples of the image are kept sharp


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What every picture is made from.

    Attributes:
        loaded: The weights.
        views: Name -> the samples as the network sees them, before they are normalised, (B, ...);
            images are uint8, (B, 3, S, S). One view, but of pairs two.
        normalize: From these to what the network takes.
        run: Run folder the weights are from, if they are from one.
    """

    loaded: LoadedBackbone
    views: Mapping[str, Tensor]
    normalize: Normalize
    run: Path | None

    @property
    def pixels(self) -> Tensor:
        """The first view, (B, ...)."""
        return next(iter(self.views.values()))

    @property
    def images(self) -> Tensor:
        """Normalised, (B, ...)."""
        return self.normalize(self.pixels)

    def thumbnails(self) -> list[Image.Image]:
        """The images, as panels of a sheet."""
        side = self.pixels.shape[-1]
        panel = side * max(1, round(_PANEL_PX / side))
        return [as_image(p.permute(1, 2, 0), size_px=panel) for p in self.pixels]


@dataclass(frozen=True, kw_only=True)
class VisualizeSettings:
    """Settings of `visualize`."""

    what: tuple[str, ...] = ()  # attention, features, reconstruction; default: what is possible
    count: int = 8  # images of a folder or data set, evenly spread
    size_px: int | None = None  # side the network sees; default: its own
    decode: AskedDecode = field(default_factory=AskedDecode)  # of images; default: as in training
    on_error: Literal["raise", "substitute"] = "raise"  # substitute leaves out unreadable samples


def run_visualize(arguments: Sequence[str]) -> int:
    """`visualize WEIGHTS IMAGE ... OUT [what=...]`."""
    given = parse("visualize", arguments, num_words=(3, None))
    settings = given.settings(VisualizeSettings)
    weights, *images, out = given.words
    console = Console()
    paths = visualize(
        weights,
        images,
        Path(out),
        what=settings.what,
        count=settings.count,
        size_px=settings.size_px,
        decode=settings.decode,
        on_error=settings.on_error,
        note=lambda text: console.print(text, soft_wrap=True),
    )
    for path in paths:
        console.print(str(path), soft_wrap=True)
    return 0


def visualize(
    weights: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    what: Sequence[str] = (),
    count: int = 8,
    size_px: int | None = None,
    decode: AskedDecode | None = None,
    on_error: Literal["raise", "substitute"] = "raise",
    note: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write pictures of what a network makes of images.

    Args:
        weights: Run or export folder, `zoo:name` or `timm:name`.
        images: Image files, folders, or names of data sets; `count` of each of the latter two,
            evenly spread.
        out: Folder for the PNG files.
        what: attention, features, reconstruction; by default all the weights allow.
        count: Images of a folder or data set.
        size_px: Side of the input; the weights' own by default. Larger ones give finer maps. Of
            point clouds the number of points.
        decode: What image files mean where their format leaves it open; as in training by default.
        on_error: What an unreadable sample does; `substitute` leaves it out, as every command does
            where each sample is seen once.
        note: Is told what was left out, and why.

    Returns:
        The files, one per kind.

    Raises:
        ConfigError: Unknown kind, or one the weights do not allow.
        DataError: No image, or one that cannot be read.
    """
    for kind in what:
        if kind not in KINDS:
            raise ConfigError(f"what={kind} must be one of {', '.join(KINDS)}.")
    named = [str(name) for name in ([images] if isinstance(images, str | Path) else images)]
    out = Path(out)
    check_output(out, key="OUT", data=named)
    if replaced := check_replaceable(out, OUTPUT):
        note(replaced)
    check_bounds("count", count, least=1)
    check_bounds("size_px", size_px, least=1)
    loaded = resolve_weights(weights)
    run = Path(weights) if (Path(weights) / "config.yaml").is_file() else None
    modality = MODALITIES[loaded.backbone.modality]
    for kind in what:
        if kind not in modality.pictures:
            raise ConfigError(
                f"what={kind} is not drawn of {modality.name}; choose from "
                f"{', '.join(modality.pictures)}."
            )
    spec = loaded.spec._replace(size=size_px or loaded.input_size)
    asked = _as_asked(modality, decode or AskedDecode())
    shown = modality.show(asked, spec)
    trained = _trained_on(run, modality) if "reconstruction" in (what or KINDS) else modality
    data = replace(trained.data_of(asked, shown), on_error=on_error)
    try:
        chosen = _choose(named, trained, data, count=count)
    except DataError as error:
        if trained is modality or "reconstruction" in what:
            raise
        note(f"no reconstruction: {error}")
        trained, data = modality, modality.data_of(asked, shown)
        chosen = _choose(named, trained, data, count=count)
    for line in [shown.note, *chosen.notes]:
        if line:
            note(renamed(line, _SETTINGS))
    loader = _loader_of(chosen, trained, shown.view, on_error_of_scores(on_error))
    views = _views_of(loader)
    if bad := {chosen.name(row): why for row, why in sorted(loader.bad_samples.items())}:
        name, reason = next(iter(bad.items()))
        note(
            f"{len(bad)} of {len(chosen)} samples cannot be read and are left out, first {name}: "
            f"{renamed(reason, _SETTINGS)}"
        )
    scene = Scene(loaded=loaded, views=views, normalize=shown.normalize, run=run)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in what or modality.pictures:
        try:
            picture = KINDS[kind](scene)
        except ConfigError as error:
            if what or len(modality.pictures) == 1:
                raise
            note(f"no {kind}: {error}")
            continue
        paths.append(out / f"{kind}.png")
        picture.save(paths[-1])
    remove_stale(out, {path.name for path in paths}, OUTPUT)
    return paths


def draw_attention(scene: Scene) -> Image.Image:
    """See `attention_rows`."""
    return sheet(attention_rows(scene.loaded.backbone, scene.images, scene.thumbnails()))


def draw_features(scene: Scene) -> Image.Image:
    """See `feature_rows`."""
    backbone, pictures = scene.loaded.backbone, scene.thumbnails()
    try:
        return sheet(feature_rows(backbone, scene.images, pictures))
    except ConfigError as error:
        raise ConfigError(f"{error}; try a larger size_px.") from error


@torch.no_grad()
def draw_reconstruction(scene: Scene) -> Image.Image:
    """What a method that reconstructs makes of the samples.

    Raises:
        ConfigError: The weights come without a decoder, or the images have another size.
    """
    method = load_method(scene.run) if scene.run is not None else mae_of_export(scene.loaded)
    if isinstance(method, Mae):
        return _filled_in(method, scene)
    views = {name: scene.normalize(view) for name, view in scene.views.items()}
    drawn = None if method is None else method.picture(views)
    if drawn is None:
        raise ConfigError(
            "reconstructions of clouds need the run folder of a point_mae or point_cmae run, those "
            "of pairs that of a croco run, those of images MAE's decoder: the run folder of an mae "
            "run, or official weights with it (zoo:mae_vit_base_16?file=full)."
        )
    return drawn.image


def _filled_in(method: Mae, scene: Scene) -> Image.Image:
    """See `reconstruction_rows`."""
    if scene.pixels.shape[-1] != method.plan.input_size:
        raise ConfigError(f"reconstructions need size_px={method.plan.input_size}.")
    rows = reconstruction_rows(
        scene.images,
        *method.reconstruct(scene.images),
        mean=scene.loaded.mean,
        std=scene.loaded.std,
        size_px=scene.thumbnails()[0].width,
    )
    return sheet(rows)


KINDS: dict[str, Callable[[Scene], Image.Image]] = {
    "attention": draw_attention,
    "features": draw_features,
    "reconstruction": draw_reconstruction,
}


_AS_TYPED = {  # as the source says it -> as it is here
    "use data.download=true to fetch it": "ssl-vision prepare NAME OUT.beton download=true gets it",
    "check data.path": "check IMAGE",
    "data path '": "IMAGE '",
}
_PICTURES = tuple(f"{kind}.png" for kind in KINDS)
OUTPUT = Output(command="visualize", marks=_PICTURES, names=_PICTURES)


def _as_asked(modality: Modality, decode: AskedDecode) -> EvalDataConfig:
    """How samples are asked to be shown.

    Raises:
        ConfigError: What image files mean is asked for samples of another kind.
    """
    if decode == AskedDecode():
        return modality.eval_settings(path="")
    if "decode" not in {each.name for each in fields(modality.eval_settings)}:
        raise ConfigError(f"decode is of images, the network takes {modality.name}; leave it out.")
    settings: dict[str, Any] = {"path": "", "decode": decode}
    return modality.eval_settings(**settings)


def _choose(
    given: Sequence[str], modality: Modality, config: DataConfig, *, count: int
) -> JoinedSource:
    """The single files, and so many samples of each folder or data set."""
    parts: list[Source] = []
    for name in given:
        path = Path(name).expanduser()
        source = modality.single(path, config) if path.is_file() else None
        if source is None:
            with keys_renamed(_AS_TYPED | _SETTINGS):
                source = find_source(name, split="train", config=config)
        rows = np.linspace(0, len(source) - 1, min(count, len(source)))  # of all classes
        parts.append(SubsetSource(source, rows.astype(np.int64)))
    return JoinedSource(parts)


def _trained_on(run: Path | None, modality: Modality) -> Modality:
    """What the run of the weights was trained on: pairs, where the network takes images."""
    if run is None:
        return modality
    try:
        return modality_of(load_run_config(run).data)
    except ConfigError:  # of a program, or a later version; its network was read all the same
        return modality


# As an evaluation has the settings -> as this command has them.
_SETTINGS = {
    "data.decode.": "decode.",
    "data.on_error": "on_error",
    "data.size_px": "size_px",
    "data.num_points": "size_px",
}


def _loader_of(
    chosen: Source, modality: Modality, view: Any, on_error: OnError
) -> EpochLoader[Any]:
    """All samples, shown as in evaluation, in one batch."""
    return modality.loader(
        chosen,
        modality.pictured(view),
        batch_size=len(chosen),
        seed=0,
        shuffle=False,
        on_error=on_error,
        lower="size_px or count",
    )


def _views_of(loader: EpochLoader[Any]) -> dict[str, Tensor]:
    """The samples that can be read, name -> (B, ...).

    Raises:
        DataError: None can be, or one cannot be where that is no matter to pass over.
    """
    with warnings_renamed(_SETTINGS):
        batch = next(iter(loader), None)
    if batch is None:
        first, reason = next(iter(loader.bad_samples.items()))
        raise DataError(
            f"none of {len(loader.source)} samples can be read, first "
            f"{loader.source.name(first)}: {renamed(reason, _SETTINGS)}"
        )
    return batch.views
