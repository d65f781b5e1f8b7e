"""The modality of images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ssl_vision.data.config import DataConfig, EvalDataConfig, InputSpec
from ssl_vision.data.images.config import ImageData, ImageEvalData
from ssl_vision.data.images.files import FilesSource
from ssl_vision.data.images.find import PACKED, build_source
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.images.normalize import Normalizer, normalizer
from ssl_vision.data.images.objects import source_of
from ssl_vision.data.images.pack import PackConfig, PackReport, Progress, pack
from ssl_vision.data.images.recolor import recolor, view_keys
from ssl_vision.data.images.table import SUFFIXES
from ssl_vision.data.kernels.draws import view_stream
from ssl_vision.data.levels import DEFAULT
from ssl_vision.data.modality import Modality, Normalize, RawFeatures, Shown
from ssl_vision.data.source import Source, Split
from ssl_vision.types import Batch
from ssl_vision.views import JitterConfig, ViewConfig, evaluation_view

_RAW_PX = 32  # side of the images whose pixels are features
_THUMBNAIL_PX = 48
_NUM_IMAGES = 6  # of a sheet
_MAX_DRAWINGS = 4  # of one view of one image


def raw_pixels(images: Tensor) -> Tensor:
    """Normalised images (B, C, S, S), averaged down to 32 px, flat: (B, C * 32 * 32) or less."""
    if images.shape[-1] > _RAW_PX:
        images = adaptive_avg_pool2d(images, _RAW_PX)
    return images.flatten(1)


class Images(Modality):
    """RGB images of any size; views are uint8, (B, 3, S, S)."""

    name = "images"
    settings: ClassVar[type[DataConfig]] = ImageData
    eval_settings = ImageEvalData
    loader = MultiViewLoader
    view_name = "image"
    raw = RawFeatures(name="pixels", width=3 * _RAW_PX * _RAW_PX, of=raw_pixels)
    finetune = "finetune"
    pictures = ("attention", "features", "reconstruction")
    asked_to_pack = ("decode", "download")

    def open(self, path: str, *, split: Split, config: DataConfig) -> Source:
        """See `build_source`."""
        assert isinstance(config, ImageData)
        return build_source(path, split=split, download=config.download, decode=config.decode)

    def to_pack(self, path: str, asked: Mapping[str, Any]) -> DataConfig:
        """Whether a named set may be fetched, and what image files mean."""
        return ImageData(path=path, **asked)

    def pack(
        self, source: Source, out: str | Path, config: PackConfig, *, progress: Progress | None
    ) -> PackReport:
        """See `pack.pack`."""
        return pack(source, out, config, progress=progress)

    def single(self, path: Path, config: DataConfig) -> Source | None:
        """An image file; a .beton file or a table is a data set."""
        assert isinstance(config, ImageData)
        is_image = path.suffix.lower() not in (PACKED, *SUFFIXES)
        return FilesSource([str(path)], decode=config.decode) if is_image else None

    def open_object(self, data: Any, *, split: Split, config: DataConfig) -> Source:
        """See `source_of`."""
        assert isinstance(config, ImageData)
        return source_of(data, split=split, decode=config.decode)

    def show(self, asked: EvalDataConfig, spec: InputSpec) -> Shown:
        """Resize and centre crop."""
        assert isinstance(asked, ImageEvalData)
        view = evaluation_view(
            size_px=asked.size_px or spec.size,
            interpolation=asked.interpolation or spec.interpolation,
            center_fraction=asked.center_fraction or spec.crop_pct,
        )
        mean, std = list(asked.mean or spec.mean), list(asked.std or spec.std)
        return Shown(
            view=view,
            normalize=normalizer(mean, std),
            decode=(decode := asked.decode.over(spec.decode)),
            note=" ".join(filter(None, [asked.decode.note(spec.decode), *view.doubts("data.")])),
            transform={
                "size_px": view.size_px,
                "center_fraction": view.center_fraction,
                "interpolation": view.interpolation,
                "mean": mean,
                "std": std,
                **({} if decode == DEFAULT else {"decode": decode.to_json()}),
            },
            key={"mean": mean, "std": std},
            mark=f"-crop{view.center_fraction:.3g}",
        )

    def data_of(self, asked: EvalDataConfig, shown: Shown) -> DataConfig:
        """With what files mean where their format leaves it open."""
        config = super().data_of(asked, shown)
        assert isinstance(config, ImageData)
        return replace(config, decode=shown.decode)

    def augmented(self, view: ViewConfig, *, count: int) -> ViewConfig:
        """Crops of any size, their colours changed."""
        return ViewConfig(
            size_px=view.size_px,
            count=count,
            crop_area=(0.08, 1.0),
            interpolation=view.interpolation,
            jitter=JitterConfig(),
            gray_prob=0.2,
        )

    def cropped(
        self,
        view: ViewConfig,
        *,
        count: int,
        area: tuple[float, float],
        flip_prob: float,
        interpolation: Literal["bicubic", "bilinear"] | None,
    ) -> ViewConfig:
        """Crops of a share of the image, mirrored or not; colours stay."""
        return ViewConfig(
            size_px=view.size_px,
            count=count,
            crop_area=area,
            interpolation=interpolation or view.interpolation,
            flip_prob=flip_prob,
        )

    def normalizer(self, config: DataConfig) -> Normalize:
        """Levels to floats by mean and standard deviation."""
        assert isinstance(config, ImageData)
        return Normalizer(config.mean, config.std)

    def on_device(self, batch: Batch, config: DataConfig, *, seed: int) -> Batch:
        """Colours of training views, with `augment_on: device`."""
        assert isinstance(config, ImageData)
        if config.augment_on == "cpu" or batch.views.keys() != config.views.keys():
            return batch
        views = {}
        for name, view in config.views.items():
            keys = view_keys(
                int(view_stream(seed, name)),
                epoch=batch.epoch,
                index=batch.index,
                count=view.count,
            )
            views[name] = recolor(batch.views[name], view, keys)
        return replace(batch, views=views)

    def small(self, view: ViewConfig) -> ViewConfig:
        """The same, rendered small."""
        return replace(view, size_px=min(_THUMBNAIL_PX, view.size_px))

    def thumbnails(self, views: Tensor, *, size_px: int) -> Any:
        """The images as they are."""
        return views.permute(0, 2, 3, 1).numpy()

    def sheet(
        self, views: Mapping[str, Tensor], *, num_samples: int, tile_px: int
    ) -> Image.Image | None:
        """Six images at most; of a view four drawings."""
        rows = min(_NUM_IMAGES, num_samples)
        columns = [
            (view, j * num_samples)
            for view in views.values()
            for j in range(min(_MAX_DRAWINGS, len(view) // num_samples))
            if view.ndim == 4 and view.shape[1] == 3  # more channels are no colours
        ]
        if not columns:
            return None
        sheet = Image.new("RGB", (len(columns) * tile_px, rows * tile_px), "white")
        for x, (view, first) in enumerate(columns):
            for y in range(rows):
                pixels = view[first + y].permute(1, 2, 0).cpu().numpy()
                tile = Image.fromarray(pixels).resize(
                    (tile_px - 4, tile_px - 4), Image.Resampling.BOX
                )
                sheet.paste(tile, (x * tile_px + 2, y * tile_px + 2))
        return sheet
