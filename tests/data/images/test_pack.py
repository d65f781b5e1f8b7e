"""Packing: what each bad input gives, and that a failure leaves no trace of itself."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.beton import BetonSource
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.errors import ConfigError, DataError


def picture(height: int = 40, width: int = 52, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(20, 40).save(path, exif=exif)


# name -> (how to make the file, height and width it is packed with)
GOOD_INPUTS = {
    "plain.jpg": (lambda p: picture().save(p), (40, 52)),
    "gray.jpg": (lambda p: picture().convert("L").save(p), (40, 52)),
    "cmyk.jpg": (lambda p: picture().convert("CMYK").save(p), (40, 52)),
    "progressive.jpg": (lambda p: picture().save(p, progressive=True), (40, 52)),
    "rotated.jpg": (rotated, (40, 20)),
    "one_pixel.jpg": (lambda p: picture(1, 1).save(p), (1, 1)),
    "wide.jpg": (lambda p: picture(3, 20000).save(p), (3, 20000)),
    "rgba.png": (lambda p: picture().convert("RGBA").save(p), (40, 52)),
    "palette.png": (lambda p: picture().quantize(8).save(p), (40, 52)),
    "gray.png": (lambda p: picture().convert("L").save(p), (40, 52)),
    "bilevel.png": (lambda p: picture().convert("1").save(p), (40, 52)),
    "sixteen.png": (
        lambda p: Image.fromarray(np.full((40, 52), 40000, np.uint16)).save(p), (40, 52)
    ),
    "picture.webp": (lambda p: picture().save(p), (40, 52)),
    "jpeg_named.png": (lambda p: picture().save(p, "JPEG"), (40, 52)),
    "UPPER.JPG": (lambda p: picture().save(p, "JPEG"), (40, 52)),
    "sub/plain.jpg": (lambda p: picture(seed=1).save(p), (40, 52)),  # a name that occurs twice
}  # fmt: skip


def cut(path: Path) -> None:
    picture().save(path)
    path.write_bytes(path.read_bytes()[:-200])


BAD_INPUTS = {
    "truncated.jpg": (cut, "remature end|truncated"),
    "empty.jpg": (lambda p: p.touch(), "empty"),
    "page.jpg": (lambda p: p.write_text("<!DOCTYPE html><html>"), "web page"),
    "magic.png": (lambda p: p.write_bytes(b"\x00" * 64), "no image format"),
    "dangling.jpg": (lambda p: p.symlink_to("nowhere"), "No such file"),
    "float.tif": (lambda p: Image.fromarray(np.ones((4, 4), np.float32)).save(p), "mode F"),
}


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    root = tmp_path / "mixed"
    for name, (make, _) in (GOOD_INPUTS | BAD_INPUTS).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make(root / name)
    return root


@pytest.mark.parametrize("mode", ["keep", "raw"])
def test_every_kind_of_input_is_packed_or_listed_with_its_reason(mixed_folder, mode) -> None:
    import re

    target = mixed_folder.parent / "out.beton"
    source = build_source(str(mixed_folder))
    report = pack(source, target, PackConfig(mode=mode, max_bad_fraction=0.5))
    assert {Path(bad.name).name for bad in report.bad} == set(BAD_INPUTS)
    for bad in report.bad:
        assert re.search(BAD_INPUTS[Path(bad.name).name][1], bad.reason), bad
    assert len(Path(f"{target}.bad").read_text().splitlines()) == len(BAD_INPUTS)
    written = BetonSource(target)
    names = [json.loads(line) for line in Path(f"{target}.names").read_text().splitlines()]
    assert len(written) == report.num_samples == len(GOOD_INPUTS)
    whole = {source.name(i): i for i in range(len(source))}
    for row, name in enumerate(names):
        key = str(Path(name).relative_to(mixed_folder))
        pixels = written.sample(row, Decoder())
        assert pixels.shape[:2] == GOOD_INPUTS[key][1], key
        original = source.sample(whole[name], Decoder()).astype(int)
        assert np.abs(pixels - original).mean() < (0.01 if mode == "raw" else 12), key
    kept = {"plain.jpg", "gray.jpg", "progressive.jpg", "one_pixel.jpg", "wide.jpg"}
    kept |= {"jpeg_named.png", "UPPER.JPG", "sub/plain.jpg"}
    assert report.num_kept == (len(kept) if mode == "keep" else 0)


def test_too_many_bad_images_fail_with_the_list_and_without_a_file(mixed_folder) -> None:
    target = mixed_folder.parent / "out.beton"
    with pytest.raises(DataError, match=r"6 of 22 samples are bad.*max_bad_fraction=0\.01"):
        pack(build_source(str(mixed_folder)), target, PackConfig())
    assert sorted(os.listdir(target.parent)) == ["mixed", "out.beton.bad"]


def test_kept_files_are_byte_for_byte_the_originals(image_folder) -> None:
    target = image_folder.parent / "out.beton"
    source = build_source(str(image_folder))
    report = pack(source, target, PackConfig())
    written = BetonSource(target)
    assert report.num_kept == len(source)
    assert all(written.encoded(i) == source.encoded(i) for i in range(len(source)))
    fast = pack(source, target, PackConfig(verify=False, overwrite=True))
    assert fast.num_bytes == report.num_bytes


def test_an_image_larger_than_a_page_makes_larger_pages(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 900, 900, 3), dtype=np.uint8)
    target = tmp_path / "out.beton"
    pack(ArraySource(images), target, PackConfig(mode="raw", page_size=1 << 21))
    written = BetonSource(target)
    assert written.page_size == 1 << 22
    assert np.all(written._pointers % (1 << 22) + written._sizes <= 1 << 22)
    assert all(np.array_equal(written.sample(i, Decoder()), images[i]) for i in range(5))
    assert written.labels is None


def test_large_images_are_scaled_down_on_request(image_folder) -> None:
    target = image_folder.parent / "out.beton"
    pack(build_source(str(image_folder)), target, PackConfig(max_side_px=20))
    written = BetonSource(target)
    assert max(max(written.sample(i, Decoder()).shape[:2]) for i in range(len(written))) == 20


def test_an_existing_target_is_kept(image_folder) -> None:
    target = image_folder.parent / "out.beton"
    target.write_text("precious")
    with pytest.raises(DataError, match="overwrite=true"):
        pack(build_source(str(image_folder)), target, PackConfig())
    assert target.read_text() == "precious"
    with pytest.raises(ConfigError, match=r"must end with \.beton"):
        pack(build_source(str(image_folder)), target.with_suffix(".bin"), PackConfig())


def test_a_full_disk_leaves_the_old_file(image_folder) -> None:
    target = image_folder.parent / "out.beton"
    pack(build_source(str(image_folder)), target, PackConfig())
    old = target.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # writing beyond fails
    try:
        with pytest.raises(DataError, match="cannot be written"):
            pack(build_source(str(image_folder)), target, PackConfig(overwrite=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == old
    assert not list(target.parent.glob(".*.partial"))


KILLED = """
import os, signal, sys
from ssl_vision.data.images import pack as p
from ssl_vision.data.images.find import build_source
def progress(stage, done, total):
    if done == 12:
        os.kill(os.getpid(), signal.SIGKILL)
p.pack(build_source(sys.argv[1]), sys.argv[2], p.PackConfig(), progress=progress)
"""


def test_a_killed_writer_leaves_no_file_and_the_next_one_works(image_folder) -> None:
    target = image_folder.parent / "out.beton"
    command = [sys.executable, "-c", KILLED, str(image_folder), str(target)]
    root = Path(__file__).resolve().parents[3]
    killed = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(root)})
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert list(target.parent.glob(".*.partial"))
    pack(build_source(str(image_folder)), target, PackConfig())
    assert len(BetonSource(target)) == 24
    assert not list(target.parent.glob(".*.partial"))


def test_two_writers_of_one_file_do_not_mix(image_folder) -> None:
    target = image_folder.parent / "out.beton"
    source = build_source(str(image_folder))

    def second(stage: str, done: int, total: int) -> None:
        if done == 1 and stage == "pack":
            with pytest.raises(DataError, match="another process is writing"):
                pack(source, target, PackConfig())

    pack(source, target, PackConfig(), progress=second)
    assert len(BetonSource(target)) == 24


def test_a_writer_that_meets_a_bug_ends(image_folder, monkeypatch) -> None:
    source = build_source(str(image_folder))
    monkeypatch.setattr(source, "sample", lambda index, decoder=None: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack(source, image_folder.parent / "out.beton", PackConfig())


@pytest.mark.parametrize(
    "bad", [{"jpg_quality": 0}, {"page_size": 3 << 20}, {"max_bad_fraction": 2}, {"max_side_px": 0}]
)
def test_settings_are_checked(bad) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PackConfig(**bad)


def test_transparency_is_the_same_packed_and_in_the_folder_and_counted(tmp_path) -> None:
    from ssl_vision.data.images.folder import FolderSource
    from ssl_vision.data.images.loader import MultiViewLoader
    from ssl_vision.data.levels import DecodeConfig
    from ssl_vision.views import evaluation_view

    rgba = np.random.default_rng(0).integers(0, 256, (12, 12, 4), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(rgba).save(tmp_path / "images" / "a.png")
    Image.fromarray(rgba[..., :3].copy()).save(tmp_path / "images" / "b.png")
    seen = []
    for background in ((255, 255, 255), (0, 0, 0)):
        decode = DecodeConfig(background=background)
        folder = FolderSource(tmp_path / "images", decode=decode)
        report = pack(folder, tmp_path / "a.beton", PackConfig(mode="raw", overwrite=True))
        assert report.notes.startswith("1 images have transparent pixels")
        packed = BetonSource(tmp_path / "a.beton")
        assert np.array_equal(packed.sample(0, Decoder()), folder.sample(0, Decoder()))
        view = {"image": evaluation_view(size_px=8, interpolation="bicubic", center_fraction=1.0)}
        loader = MultiViewLoader(folder, view, batch_size=2, seed=0, num_threads=2)
        with pytest.warns(UserWarning, match="of 2 images: 1 images have transparent"):
            list(loader)
        seen.append((folder.fingerprint(), packed.fingerprint(), packed.sample(0, Decoder()).sum()))
    assert seen[0][0] != seen[1][0]
    assert seen[0][2] > seen[1][2]
