"""Loaders to compare: each builds a function that makes one pass over the same JPEG files.

Run as a process of its own: it reads `pass` lines from standard input and answers each with a JSON
line of images, wall seconds and CPU seconds (of all its threads and worker processes).
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

BATCH = 64
THREADS = 2
Pass = Callable[[], int]

# name -> views as (count, size, area range): what every contender draws of each image.
CROPS = {
    "1x224": [(1, 224, (0.08, 1.0))],
    "2x224": [(2, 224, (0.08, 1.0))],
    "2x224+8x96": [(2, 224, (0.32, 1.0)), (8, 96, (0.05, 0.32))],
}
# The photometric recipe of BYOL and DINO: blur of first and second large view, of small ones.
BLURS = {"first": 1.0, "second": 0.1, "small": 0.5}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def count(batches: Iterable[Any], size: Callable[[Any], int]) -> int:
    """Consume a pass; the number of images."""
    return sum(size(batch) for batch in batches)


# This package ------------------------------------------------------------------------------


def _views(crops: str, *, full: bool) -> dict[str, Any]:
    from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

    views = {}
    for number, (drawings, size, area) in enumerate(CROPS[crops]):
        plain = {"size_px": size, "crop_area": area, "interpolation": "bilinear"}
        if not full:
            views[f"v{number}"] = ViewConfig(count=drawings, **plain)
            continue
        color = {"jitter": JitterConfig(), "gray_prob": 0.2}
        if size == 224:
            views["first"] = ViewConfig(**plain, **color, blur=BlurConfig(prob=BLURS["first"]))
            second = {"blur": BlurConfig(prob=BLURS["second"]), "solarize": SolarizeConfig()}
            views["second"] = ViewConfig(**plain, **color, **second)
        else:
            blur = BlurConfig(prob=BLURS["small"])
            views["small"] = ViewConfig(count=drawings, **plain, **color, blur=blur)
    return views


def ours(path: str, crops: str, *, full: bool = False, floats: bool = False) -> Pass:
    """MultiViewLoader on a folder or .beton; uint8 batches, or floats as on a device."""
    import torch

    from ssl_vision.data.images.find import build_source
    from ssl_vision.data.images.loader import MultiViewLoader
    from ssl_vision.data.images.normalize import normalize

    loader = MultiViewLoader(
        build_source(path), _views(crops, full=full), batch_size=BATCH, seed=0,
        num_threads=THREADS, drop_last=False,
    )  # fmt: skip
    mean, std = torch.tensor(MEAN), torch.tensor(STD)

    def size(batch: Any) -> int:
        if floats:
            for view in batch.views.values():
                normalize(view, mean=mean, std=std)
        return len(batch.index)

    return lambda: count(loader, size)


def ours_without_turbojpeg(path: str, crops: str) -> Pass:
    """The same with Pillow as the decoder."""
    from ssl_vision.data import decode

    decode.turbojpeg = lambda: None  # type: ignore[assignment]
    return ours(path, crops)


def ours_in_ffcv(path: str, crops: str) -> Pass:
    """This package's decoder inside ffcv's own Loader."""
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    from ssl_vision.data.images.beton import multi_view_decoder

    decoder = multi_view_decoder(_views(crops, full=False), seed=0)
    loader = Loader(
        path, batch_size=BATCH, num_workers=THREADS, order=OrderOption.RANDOM, os_cache=True,
        pipelines={"image": [decoder, ToTensor()], "label": None}, drop_last=False,
    )  # fmt: skip
    return lambda: count(loader, lambda batch: len(batch[0]))


def bare_decode(path: str, crops: str) -> Pass:
    """libjpeg-turbo alone, accurate DCT, threads over files in memory."""
    from concurrent.futures import ThreadPoolExecutor

    from ssl_vision.data.decode import Decoder
    from ssl_vision.data.images.find import build_source

    source = build_source(path)
    files = [source.encoded(i) for i in range(len(source))]
    parts = [files[i::THREADS] for i in range(THREADS)]

    def work(part: Sequence[bytes]) -> int:
        decoder = Decoder()
        for data in part:
            decoder.decode(data)
        return len(part)

    def one_pass() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(work, parts))

    return one_pass


# Others ------------------------------------------------------------------------------------


def ffcv_per_view(path: str, crops: str) -> Pass:
    """The Loader of ffcv with one pipeline per view, as its documentation has several views."""
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    pipelines: dict[str, Any] = {"label": None, "image": None}
    for number, (drawings, size, area) in enumerate(CROPS[crops]):
        for drawing in range(drawings):
            decoder = RandomResizedCropRGBImageDecoder((size, size), scale=area)
            steps = [RandomHorizontalFlip(), ToTensor()]
            pipelines[f"v{number}_{drawing}"] = PipelineSpec("image", decoder, steps)
    loader = Loader(
        path, batch_size=BATCH, num_workers=THREADS, order=OrderOption.RANDOM, os_cache=True,
        pipelines=pipelines, drop_last=False,
    )  # fmt: skip
    return lambda: count(loader, lambda batch: len(batch[0]))


class Cut:
    """All views of one image through torchvision transforms."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> list[Any]:
        """The views."""
        return [transform(image) for transform in self.transforms]


def _torch_loader(root: str, loader: Callable[[str], Any], transform: Any) -> Pass:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    data = ImageFolder(root, transform=transform, loader=loader)
    batches = DataLoader(
        data, BATCH, shuffle=True, num_workers=THREADS, persistent_workers=True, prefetch_factor=3
    )
    return lambda: count(batches, lambda batch: len(batch[1]))


def torchvision_tensor(root: str, crops: str) -> Pass:
    """decode_jpeg to tensors, v2 transforms, DataLoader."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    transforms = [
        v2.Compose([v2.RandomResizedCrop(size, scale=area), v2.RandomHorizontalFlip()])
        for drawings, size, area in CROPS[crops]
        for _ in range(drawings)
    ]
    read = lambda path: decode_jpeg(read_file(path), mode=ImageReadMode.RGB)  # noqa: E731
    return _torch_loader(root, read, Cut(transforms))


def _open_rgb(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def imagefolder_pil(root: str, crops: str) -> Pass:
    """ImageFolder, Pillow images, v2 transforms, DataLoader."""
    from torchvision.transforms import v2

    transforms = [
        v2.Compose(
            [v2.RandomResizedCrop(size, scale=area), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        )
        for drawings, size, area in CROPS[crops]
        for _ in range(drawings)
    ]
    return _torch_loader(root, _open_rgb, Cut(transforms))


def dali_cpu(root: str, crops: str) -> Pass:
    """DALI's CPU pipeline, one decode, triangular resize."""
    from nvidia.dali import fn, pipeline_def, types

    num_images = sum(1 for _ in Path(root).rglob("*.jpg"))

    @pipeline_def(batch_size=BATCH, num_threads=THREADS, device_id=None, prefetch_queue_depth=2)
    def build() -> tuple[Any, ...]:
        data, _ = fn.readers.file(file_root=root, random_shuffle=True, name="reader")
        images = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        views = []
        for drawings, size, area in CROPS[crops]:
            for _ in range(drawings):
                view = fn.random_resized_crop(
                    images, size=(size, size), random_area=list(area),
                    interp_type=types.INTERP_TRIANGULAR, antialias=True,
                )  # fmt: skip
                views.append(fn.flip(view, horizontal=fn.random.coin_flip()))
        return tuple(views)

    pipe = build()
    pipe.build()

    def one_pass() -> int:
        done = 0
        while done < num_images:
            done += len(pipe.run()[0])
        return done

    return one_pass


def _pil_recipe(size: int, area: tuple[float, float], blur: float, solarize: float) -> Any:
    """The recipe as solo-learn and the DINO authors write it: Pillow operations, then floats."""
    import random

    from PIL import ImageFilter, ImageOps
    from torchvision import transforms as t

    class Blur:
        def __call__(self, image: Any) -> Any:
            return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    class Solarize:
        def __call__(self, image: Any) -> Any:
            return ImageOps.solarize(image)

    return t.Compose(
        [
            t.RandomResizedCrop(size, scale=area),
            t.RandomHorizontalFlip(),
            t.RandomApply([t.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            t.RandomGrayscale(0.2),
            t.RandomApply([Blur()], p=blur),
            t.RandomApply([Solarize()], p=solarize),
            t.ToTensor(),
            t.Normalize(MEAN, STD),
        ]
    )


def pil_recipe(root: str, crops: str) -> Pass:
    """ImageFolder with the whole recipe in Pillow."""
    transforms = []
    for drawings, size, area in CROPS[crops]:
        if size == 224:
            transforms.append(_pil_recipe(size, area, BLURS["first"], 0.0))
            transforms.append(_pil_recipe(size, area, BLURS["second"], 0.2))
        else:
            transforms += [_pil_recipe(size, area, BLURS["small"], 0.0) for _ in range(drawings)]
    return _torch_loader(root, _open_rgb, Cut(transforms))


def lightly(root: str, crops: str) -> Pass:
    """The own transforms of lightly of the same recipe: BYOL's for two views, DINO's for ten."""
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )
    from lightly.transforms.dino_transform import DINOTransform

    if crops == "2x224":
        area = CROPS[crops][0][2]
        transform = BYOLTransform(
            BYOLView1Transform(input_size=224, min_scale=area[0], cj_strength=0.5),
            BYOLView2Transform(input_size=224, min_scale=area[0], cj_strength=0.5),
        )
    else:
        (_, _, area), (drawings, _, small) = CROPS[crops]
        transform = DINOTransform(
            global_crop_scale=area, local_crop_scale=small, n_local_views=drawings
        )
    return _torch_loader(root, _open_rgb, transform)


# name -> (function, settings, which path it reads)
CONTENDERS: dict[str, tuple[Callable[..., Pass], dict[str, Any], str]] = {
    "ours, beton": (ours, {}, "beton"),
    "ours, folder": (ours, {}, "folder"),
    "ours, folder, Pillow decodes": (ours_without_turbojpeg, {}, "folder"),
    "ours inside ffcv.Loader": (ours_in_ffcv, {}, "beton"),
    "ours, raw beton": (ours, {}, "raw"),
    "libjpeg-turbo decode alone": (bare_decode, {}, "beton"),
    "ffcv, a pipeline per view": (ffcv_per_view, {}, "beton"),
    "torchvision tensors + DataLoader": (torchvision_tensor, {}, "folder"),
    "ImageFolder + PIL + v2": (imagefolder_pil, {}, "folder"),
    "DALI CPU": (dali_cpu, {}, "folder"),
    "ours, full recipe": (ours, {"full": True}, "beton"),
    "ours, full recipe, floats out": (ours, {"full": True, "floats": True}, "beton"),
    "lightly, full recipe": (lightly, {}, "folder"),
    "PIL, full recipe": (pil_recipe, {}, "folder"),
}


def cpu_seconds() -> float:
    """CPU time of this process and its living descendants."""
    ticks, pending = 0, [os.getpid()]
    while pending:
        pid = pending.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            for task in os.listdir(f"/proc/{pid}/task"):
                children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                pending += [int(child) for child in children.split()]
        except FileNotFoundError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def serve(name: str, path: str, crops: str) -> None:
    """Build a contender and answer requests."""
    started = time.perf_counter()
    function, settings, _ = CONTENDERS[name]
    one_pass = function(path, crops, **settings)
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries may print; the answers must stay clean
    one_pass()  # compiles, starts workers, fills the page cache
    print(json.dumps({"ready_s": time.perf_counter() - started}), file=answer, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        images = one_pass()
        result = {
            "images": images,
            "wall_s": time.perf_counter() - wall,
            "cpu_s": cpu_seconds() - cpu,
        }
        print(json.dumps(result), file=answer, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:4])
