"""The command that packs: a file, a summary, and one line for a mistake."""

import shutil

import numpy as np
import pytest
from PIL import Image

import ssl_vision
from ssl_vision.commands.prepare import run_prepare
from ssl_vision.data.images.beton import BetonSource
from ssl_vision.errors import ConfigError, DataError


@pytest.fixture
def images(tmp_path):
    for number in range(6):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 9, 3), number * 40, np.uint8)).save(path)
    return tmp_path / "images"


def test_a_folder_becomes_a_beton(images, capsys) -> None:
    target = images.parent / "out.beton"
    assert run_prepare([str(images), str(target), "mode=raw"]) == 0
    assert BetonSource(target).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "6 images" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["path", "array", "files"])
def test_a_program_packs_what_it_has(images, kind) -> None:
    files = sorted(images.rglob("*.png"))
    data = {
        "path": images,
        "array": np.stack([np.asarray(Image.open(path)) for path in files]),
        "files": files,
    }[kind]
    target = images.parent / "out.beton"
    report = ssl_vision.prepare(data, target, mode="raw")
    assert (report.num_samples, report.num_raw) == (6, 6)
    source = BetonSource(target)
    for row, path in enumerate(files):
        np.testing.assert_array_equal(source.sample(row), np.asarray(Image.open(path)))
    with pytest.raises(DataError, match="exists"):
        ssl_vision.prepare(data, target)
    assert ssl_vision.prepare(data, target, overwrite=True, split="train").num_samples == 6
    with pytest.raises(ConfigError, match="mod: there is no such setting"):
        ssl_vision.prepare(data, target, mod="raw")


def test_a_table_is_packed_and_its_columns_are_said(images, capsys) -> None:
    table, target = images.parent / "some.csv", images.parent / "some.beton"
    table.write_text("file,kind,label\nimages/b/1.png,x,two\nimages/a/2.png,x,one\n")
    assert run_prepare([str(table), str(target), "mode=raw"]) == 0
    source = BetonSource(target)
    assert source.class_names == ["one", "two"]
    assert source.labels.tolist() == [1, 0]
    assert source.sample(0)[0, 0].tolist() == [40, 40, 40]
    assert "paths are column 'file'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["only_one"], "usage"),
        (["a", "b.beton", "--mode=raw"], "without dashes"),
        (["digits", "out.beton", "mod=raw"], "mode"),
        (["digits", "out.beton", "mode=zip"], "mode"),
        (["digits", "out.bin"], r"\.beton"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        run_prepare(arguments)
    assert not list(tmp_path.glob("*.beton"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("cifar10", r"cifar10 was not found in .*/home/data: use download=true to fetch it\.$"),
        ("data.path", r"^SOURCE 'data\.path' does not exist; give"),
    ],
)
def test_sources_are_named_as_this_command_names_them(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSL_VISION_DATA", raising=False)
    monkeypatch.setenv("SSL_VISION_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match=words):
        run_prepare([source, "out.beton"])


def test_bad_images_are_listed(images) -> None:
    (images / "a" / "bad.png").write_text("no image")
    target = images.parent / "out.beton"
    with pytest.raises(DataError, match=r"1 of 7 samples are bad.*with a larger max_bad_fraction"):
        run_prepare([str(images), str(target)])
    assert run_prepare([str(images), str(target), "max_bad_fraction=0.2"]) == 0
    assert (target.parent / "out.beton.bad").read_text().startswith(str(images / "a" / "bad.png"))


def test_a_test_split_that_is_left_out_is_said(images, capsys) -> None:
    root = images.parent / "split"
    for part in ("train", "val"):
        shutil.copytree(images, root / part)
    assert run_prepare([str(root), str(images.parent / "t.beton"), "mode=raw"]) == 0
    assert "6 images, is not in the file; split=val" in " ".join(capsys.readouterr().out.split())
    assert run_prepare([str(root), str(images.parent / "v.beton"), "mode=raw", "split=val"]) == 0
    assert "not in the file" not in capsys.readouterr().out


def test_keys_of_image_files_are_named_as_they_are_typed_here(tmp_path, capsys) -> None:
    folder, target = tmp_path / "scans", tmp_path / "scans.beton"
    folder.mkdir()
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "a.tif")
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(folder / "b.png")
    assert run_prepare([str(folder), str(target), "max_bad_fraction=0.5"]) == 0
    bad = (tmp_path / "scans.beton.bad").read_text()
    assert "set decode.white_level" in bad
    said = " ".join(capsys.readouterr().out.split())
    assert "decode.background=[R,G,B] shows another colour" in said
    assert "data.decode" not in bad + said
