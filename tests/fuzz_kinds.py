"""The kinds of file that `fuzz.py` damages: valid ones to begin with, and how each is read."""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import Kind, Mutate, mutate_bytes, mutate_json, mutate_png, mutate_words


def _pictures(save: Callable[[Image.Image, io.BytesIO, int], None], count: int) -> list[bytes]:
    """Encoded small pictures of several sizes."""
    files = []
    for number in range(count):
        generator = np.random.default_rng(number)
        height, width = generator.integers(8, 48, 2)
        small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        save(image, buffer, number)
        files.append(buffer.getvalue())
    return files


def _jpeg(image: Image.Image, buffer: io.BytesIO, number: int) -> None:
    mode = ("RGB", "RGB", "RGB", "L", "CMYK")[number % 5]
    exif = Image.Exif()
    if number % 2:
        exif[0x0112] = number % 8 + 1
    image.convert(mode).save(
        buffer, "JPEG", quality=(30, 75, 95)[number % 3], progressive=number % 4 == 1, exif=exif,
        subsampling=("4:4:4", "4:2:2", "4:2:0")[number % 3] if mode == "RGB" else -1,
        restart_marker_blocks=2 * (number % 7 == 3),
    )  # fmt: skip


def _png(image: Image.Image, buffer: io.BytesIO, number: int) -> None:
    mode = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")[number % 7]
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    extra = {"transparency": number % 3} if mode in ("L", "P") and number % 2 else {}
    exif = Image.Exif()
    exif[0x0112] = number % 8 + 1
    image.save(buffer, "PNG", exif=exif, **extra)


def _other(image: Image.Image, buffer: io.BytesIO, number: int) -> None:
    kind, options = (
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("GIF", {}),
        ("BMP", {}), ("PPM", {}), ("TIFF", {"compression": "jpeg"}), ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_deflate"}),
    )[number % 9]  # fmt: skip
    if number % 2 and kind in ("TIFF", "WEBP") and "jpeg" not in options.values():
        image = image.convert("RGBA")
    image.save(buffer, kind, **options)


def _decode(data: bytes, folder: Path) -> object:
    """Decode a damaged file, then a whole one: the first must leave nothing behind."""
    from ssl_vision.data.decode import Decoder

    decoder = _kept.setdefault("decoder", Decoder())
    assert isinstance(decoder, Decoder)
    if "whole" not in _kept:
        _kept["whole"] = _pictures(_jpeg, 3)[0]
        _kept["pixels"] = Decoder().decode(_kept["whole"]).copy()
    try:
        pixels = decoder.decode(data)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise AssertionError(f"decoded to {pixels.dtype} {pixels.shape}")
        int(pixels.sum())  # touches all of it
    finally:
        if not np.array_equal(decoder.decode(_kept["whole"]), _kept["pixels"]):
            raise AssertionError("the next picture came out otherwise")
    return None


_kept: dict[str, object] = {}


def _images(
    save: Callable[[Image.Image, io.BytesIO, int], None], count: int, mutate: Mutate = mutate_bytes
) -> Kind:
    def seeds(folder: Path) -> Sequence[bytes]:
        return _pictures(save, count)

    return Kind(seeds, _decode, mutate)


# Packed images -----------------------------------------------------------------------------


def _packed(folder: Path) -> Sequence[bytes]:
    """Small .beton files of JPEG files, of pixels and of both, of two classes."""
    from ssl_vision.data.images.find import build_source
    from ssl_vision.data.images.pack import PackConfig, pack

    for number, data in enumerate(_pictures(_jpeg, 6)):
        place = folder / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(data)
    files = []
    for mode in ("jpg", "raw"):
        path = folder / f"{mode}.beton"
        path.unlink(missing_ok=True)
        pack(build_source(str(folder / "images")), path, PackConfig(mode=mode))
        files.append(path.read_bytes())
    return files


def _read_beton(data: bytes, folder: Path) -> object:
    """Open, then read every sample in both ways."""
    from ssl_vision.data.decode import Decoder
    from ssl_vision.data.images.beton import BetonSource
    from ssl_vision.errors import DataError

    path = _placed(data, folder / "case.beton")
    source, refused = BetonSource(path), None
    for index in range(min(len(source), 100)):
        try:
            int(source.sample(index, Decoder()).sum())
        except DataError as error:
            refused = error
    if (block := source.raw_block(np.arange(min(len(source), 100)))) is None and refused:
        raise refused
    return block


def _placed(data: bytes, path: Path) -> Path:
    """A new file: the one of the case before may still be mapped."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


# Clouds and meshes -------------------------------------------------------------------------

_CORNERS = ["0 0 0", "1 0 0", "1 1 0", "0 1 0", "0.5 0.5 1"]
_SIDES = ["3 0 1 4", "3 1 2 4", "3 2 3 4", "3 3 0 4", "4 3 2 1 0"]


def _arrays(folder: Path) -> Sequence[bytes]:
    files = []
    for kind in ("<f4", ">f8", "<i2", "<f2"):
        buffer = io.BytesIO()
        values = np.random.default_rng(0).integers(-50, 50, (40, 6)).astype(kind)
        np.save(buffer, np.asarray(values, order="F" if kind == ">f8" else "C"))
        files.append(buffer.getvalue())
    return files


def _ply_files(folder: Path) -> Sequence[bytes]:
    head = (
        "ply\nformat {} 1.0\ncomment x\nelement vertex 5\nproperty float x\nproperty float y\n"
        "property float z\nelement {} {}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    files = [(head.format("ascii", "face", 5) + "\n".join([*_CORNERS, *_SIDES])).encode()]
    strip = "5 0 1 4 2 3"
    files.append((head.format("ascii", "tristrips", 1) + "\n".join([*_CORNERS, strip])).encode())
    places = [float(word) for line in _CORNERS for word in line.split()]
    for order, style in (("<", "binary_little_endian"), (">", "binary_big_endian")):
        for sides in (_SIDES, _SIDES[:4]):  # of mixed lengths, and all of three
            data = np.array(places, f"{order}f4").tobytes()
            for side in sides:
                count, *corners = map(int, side.split())
                data += bytes([count]) + np.array(corners, f"{order}i4").tobytes()
            files.append(head.format(style, "face", len(sides)).encode() + data)
    return files


def _off_files(folder: Path) -> Sequence[bytes]:
    body = "\n".join([*_CORNERS, *_SIDES])
    return [f"OFF\n5 5 0\n{body}\n".encode(), f"OFF5 5 0\n# x\n{body}\n".encode()]


def _obj_files(folder: Path) -> Sequence[bytes]:
    lines = [f"v {line}" for line in _CORNERS]
    sides = ["f 1 2 5", "f 2/1 3/2 5/3", "f 3//1 4//1 5//1", "f -2 -5 -1", "f 4 3 \\", " 2 1"]
    return ["\n".join([*lines, *sides]).encode()]


def _tables(folder: Path) -> Sequence[bytes]:
    rows = np.random.default_rng(0).normal(size=(30, 6)).round(3).tolist()
    return ["\n".join(mark.join(map(str, row)) for row in rows).encode() for mark in (" ", ",")]


def _clouds(suffix: str, seeds: Callable[[Path], Sequence[bytes]], mutate: Mutate) -> Kind:
    def read(data: bytes, folder: Path) -> object:
        from ssl_vision.data.clouds.layouts import read_cloud

        cloud = read_cloud(_placed(data, folder / f"case{suffix}"))
        if cloud.dtype != np.float32 or cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud):
            raise AssertionError(f"read as {cloud.dtype} {cloud.shape}")
        if not np.isfinite(cloud).all():
            raise AssertionError("not finite")
        return None

    return Kind(seeds, read, mutate)


# Exports and checkpoints -------------------------------------------------------------------


def _configs(folder: Path) -> Sequence[bytes]:
    """config.json of small exports of three families, whose weights lie in folders beside."""
    from ssl_vision.backbones.build import BackboneConfig, build_backbone
    from ssl_vision.zoo.export import export_backbone
    from ssl_vision.zoo.exported import CONFIG_NAME

    networks: dict[str, dict[str, object]] = {
        "vit_tiny_patch16_224": {"patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 2},
        "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
        "resnet18": {"layers": [1, 1, 1, 1]},
    }
    files = []
    for name, args in networks.items():
        place = folder / name
        if not (place / CONFIG_NAME).exists():
            backbone = build_backbone(BackboneConfig(name=name, args=args), input_size=32)
            export_backbone(
                backbone, place, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", size_px=32
            )
        files.append((place / CONFIG_NAME).read_bytes())
    return files


def _read_export(data: bytes, folder: Path) -> object:
    """With the weights of the network it names, or of the first."""
    from ssl_vision.zoo.exported import CONFIG_NAME, WEIGHTS_NAME, read_card, read_export

    places = [
        place for place in sorted(folder.iterdir()) if place.is_dir() and place.name != "case"
    ]
    named = [place for place in places if place.name.encode() in data] or places
    case = folder / "case"
    case.mkdir(exist_ok=True)
    shutil.copy(named[0] / WEIGHTS_NAME, case / WEIGHTS_NAME)
    _placed(data, case / CONFIG_NAME)
    backbone, config = read_export(case)
    read_card(config)
    return backbone


def _manifests(folder: Path) -> Sequence[bytes]:
    """The manifest of a small checkpoint; a copy stays in `original.json`."""
    import torch

    from ssl_vision.engine.checkpoint import write_checkpoint

    original = folder / "original.json"
    if not original.exists():
        state = {"schema": 1, "step": 1, "state_dict": {"w": torch.zeros(3)}}
        written = write_checkpoint(folder, state, step=1, texts={"backbone.json": "{}"})
        shutil.copy(written.path / "manifest.json", original)
    return [original.read_bytes()]


def _read_manifest(data: bytes, folder: Path) -> object:
    """What is found wrong with a checkpoint counts as its refusal."""
    from ssl_vision.engine.checkpoint import Checkpoint, find_defect, load_state
    from ssl_vision.errors import CheckpointError

    checkpoint = Checkpoint(1, folder / "step_000001")
    _placed(data, checkpoint.path / "manifest.json")
    if defect := find_defect(checkpoint):
        raise CheckpointError(defect)
    if set(json.loads(data)["files"]) - {"state.pt", "backbone.json", "manifest.json"}:
        raise AssertionError("accepted a file that is none of the checkpoint")
    return load_state(checkpoint)


def _settings(folder: Path) -> Sequence[bytes]:
    """config.yaml of runs on images and on clouds."""
    from ssl_vision.config import load_train_config, to_yaml
    from ssl_vision.recipes import find_recipe

    names = ("barlow_twins/tiny_cpu", "poa/tiny_cpu", "point_mae/tiny_cpu")
    return [to_yaml(load_train_config([find_recipe(name)])).encode() for name in names]


def _read_settings(data: bytes, folder: Path) -> object:
    """A setting that is refused by its name counts as a damaged file."""
    from ssl_vision.engine.saved_config import load_run_config
    from ssl_vision.errors import CheckpointError, ConfigError

    _placed(data, folder / "config.yaml")
    try:
        return load_run_config(folder)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


KINDS: dict[str, Kind] = {
    "jpeg": _images(_jpeg, 20),
    "png": _images(_png, 21, mutate_png),
    "images": _images(_other, 18),  # TIFF, WebP, GIF, BMP, PPM
    "beton": Kind(_packed, _read_beton, mutate_bytes),
    "npy": _clouds(".npy", _arrays, mutate_bytes),
    "ply": _clouds(".ply", _ply_files, mutate_words),
    "off": _clouds(".off", _off_files, mutate_words),
    "obj": _clouds(".obj", _obj_files, mutate_words),
    "txt": _clouds(".txt", _tables, mutate_words),
    "config": Kind(_configs, _read_export, mutate_json),
    "manifest": Kind(_manifests, _read_manifest, mutate_json),
    "settings": Kind(_settings, _read_settings, mutate_words),
}
