"""Pictures of real networks: which there are, of what size, and why others are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_vision.commands.main import main
from ssl_vision.commands.visualize import visualize
from ssl_vision.data.pairs.scenes import blocks
from ssl_vision.engine.train import train
from ssl_vision.errors import ConfigError, DataError

VIT = "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=8&depth=2"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return str(path)


def test_vit_has_attention_and_features(photo: str, tmp_path: Path) -> None:
    notes: list[str] = []
    paths = visualize(VIT, [photo, "digits"], tmp_path / "out", count=2, note=notes.append)
    assert [path.name for path in paths] == ["attention.png", "features.png"]
    assert len(notes) == 1
    assert "MAE's decoder" in notes[0]
    panel, margin, text = 224, 6, 14
    with Image.open(paths[0]) as picture:  # image, mean, spotlight and three heads; three images
        assert picture.size == (6 * (panel + margin) + margin, 3 * (panel + margin) + margin + text)
    with Image.open(paths[1]) as picture:
        assert picture.size == (2 * (panel + margin) + margin, 3 * (panel + margin) + margin + text)


def test_convolutional_network_has_features_only(photo: str, tmp_path: Path) -> None:
    notes: list[str] = []
    network = "timm:resnet18?pretrained=false"
    paths = visualize(network, [photo], tmp_path / "out", size_px=96, note=notes.append)
    assert [path.name for path in paths] == ["features.png"]
    assert len(notes) == 2
    with pytest.raises(ConfigError, match="try a larger size_px"):
        visualize(network, [photo], tmp_path / "out", what=["features"], size_px=32)
    with pytest.raises(ConfigError, match="resnet18"):
        visualize(network, [photo], tmp_path / "out", what=["attention"], size_px=64)


def test_mae_run_has_reconstructions(mae_run: Path, tmp_path: Path) -> None:
    assert main(["visualize", str(mae_run), "digits", str(tmp_path / "out"), "count=2"]) == 0
    with Image.open(tmp_path / "out/reconstruction.png") as picture:
        pixels = np.asarray(picture, dtype=int)
    panel, margin, top = 224, 6, 20
    columns = [
        pixels[top : top + panel, margin + i * (panel + margin) :][:, :panel] for i in range(4)
    ]
    image, shown, predicted, together = columns
    is_hidden = (shown == 128).all(axis=2)
    assert 0.7 < is_hidden.mean() < 0.8  # three quarters of the patches
    assert (image == shown)[~is_hidden].all()
    assert (together == image)[~is_hidden].all()
    assert (together == predicted)[is_hidden].all()
    with pytest.raises(ConfigError, match="size_px=16"):
        visualize(mae_run, ["digits"], tmp_path / "other", what=["reconstruction"], size_px=32)


def test_mistakes_are_explained(photo: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="what=atention must be one of attention"):
        visualize(VIT, [photo], tmp_path / "out", what=["atention"])
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"bad\.png"):
        visualize(VIT, [str(tmp_path / "bad.png")], tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        visualize(VIT, [str(tmp_path / "absent.png")], tmp_path / "out")
    assert main(["visualize", VIT, str(tmp_path / "out")]) == 2


def test_a_precision_is_refused(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["visualize", VIT, photo, str(tmp_path / "out"), "precision=bf16"]) == 2
    assert "precision: there is no such setting" in capsys.readouterr().err


def test_croco_run_completes_pairs_and_shows_single_images(recipe, photo, tmp_path: Path) -> None:
    settings = ("data.global_batch_size=8", "data.train_fraction=0.01", "trainer.max_steps=1")
    run = train(recipe("croco", *settings)).run_dir
    notes: list[str] = []
    paths = visualize(run, ["blocks"], tmp_path / "out", count=3, note=notes.append)
    assert [path.name for path in paths] == ["attention.png", "features.png", "reconstruction.png"]
    assert not notes
    with Image.open(paths[2]) as picture:  # first, seen, completed, second; three pairs
        assert picture.size == (4 * 164 - 4, 3 * 164 - 4)
        shown = np.asarray(picture).reshape(3 * 164 - 4, 4 * 164 - 4, 3)
    for row in range(3):  # colours come back within a level of rounding
        source = blocks("train").sample(row * (len(blocks("train")) - 1) // 2)
        for column, image in ((0, source[0]), (3, source[1])):
            tile = shown[row * 164 : row * 164 + 160, column * 164 : column * 164 + 160]
            middle = np.asarray(Image.fromarray(image).resize((18, 18), Image.Resampling.BICUBIC))[
                1:17, 1:17
            ]
            assert np.abs(tile[5::10, 5::10].astype(int) - middle).max() <= 2
    paths = visualize(run, [photo], tmp_path / "single", note=notes.append)
    assert [path.name for path in paths] == ["attention.png", "features.png"]
    assert any("a single image is no pair" in note for note in notes)
    with pytest.raises(DataError, match="a single image is no pair"):
        visualize(run, [photo], tmp_path / "other", what=["reconstruction"])


def test_unreadable_images_are_left_out_where_that_is_asked(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    words = ["visualize", VIT, photo, str(bad), str(tmp_path / "out"), "what=features"]
    assert main(words) == 65
    err = " ".join(capsys.readouterr().err.split())
    assert "set on_error=substitute" in err
    assert "data.on_error" not in err
    assert main([*words, "on_error=substitute"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"1 of 2 samples cannot be read and are left out, first {bad}:" in out
    with Image.open(tmp_path / "out/features.png") as picture:
        assert picture.height < 2 * 224  # one image
    only = ["visualize", VIT, str(bad), str(tmp_path / "other"), "on_error=substitute"]
    assert main(only) == 65
    assert "none of 1 samples can be read" in " ".join(capsys.readouterr().err.split())
    assert main([*only[:-1], "on_error=skip"]) == 2


def test_a_size_that_shows_nothing_is_said_as_typed(photo: str, tmp_path: Path) -> None:
    notes: list[str] = []
    network = "timm:resnet18?pretrained=false"
    with pytest.raises(ConfigError, match="try a larger size_px"):
        visualize(network, photo, tmp_path / "out", what=["features"], size_px=2, note=notes.append)
    assert [line.partition(":")[0] for line in notes] == ["size_px=2"]
