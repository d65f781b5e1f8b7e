"""`predict` says what timm says of the same pictures, by the names the classifier was given."""

import csv
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import ssl_vision
from ssl_vision.backbones.build import BackboneConfig, build_backbone
from ssl_vision.backbones.classifier import add_classifier
from ssl_vision.commands.main import main
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.evaluation.accuracy import wilson_interval
from ssl_vision.zoo.export import export_backbone

NAMES = ("cat", "=1+1", 'Größe, "x"')
INPUT = {"mean": (0.3,) * 3, "std": (0.4,) * 3, "interpolation": "bicubic", "size_px": 32}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    args = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    backbone = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", args=args), input_size=32)
    add_classifier(backbone, num_classes=3, std=1.0)
    folder = tmp_path / "run/export"
    export_backbone(backbone, folder, **INPUT, crop_pct=1.0, class_names=NAMES)
    return tmp_path / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder, random = tmp_path / "photos # 1=2", np.random.default_rng(0)
    for name in ("cat/b.png", "cat/a.png", "val/deep/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name)
    (folder / "val/broken.png").write_bytes(b"\x89PNG no")
    return folder


def by_timm(export: Path, image: Path) -> np.ndarray:
    model = timm.create_model(f"local-dir:{export}", pretrained=True, num_classes=None).eval()
    config = timm.data.resolve_model_data_config(model)
    shown = timm.data.create_transform(**config, is_training=False)(Image.open(image))
    assert model.pretrained_cfg["label_names"] == list(NAMES)
    with torch.inference_mode():
        return model(shown[None]).softmax(dim=1)[0].numpy()


def test_three_lines_of_python_say_what_timm_says(classifier: Path, photos: Path) -> None:
    found = ssl_vision.predict(classifier, photos)
    assert [Path(name).name for name in found.names] == ["a.png", "b.png", "c.png"]
    for name, shares, chosen in zip(found.names, found.probabilities, found.classes, strict=True):
        expected = by_timm(classifier / "export", Path(name))
        np.testing.assert_allclose(shares, expected, atol=2e-5)
        assert chosen == NAMES[int(expected.argmax())]
    assert list(found.unreadable) == [str(photos / "val/broken.png")]


def test_table_has_every_image_and_the_reason_of_the_unreadable_one(
    classifier: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new folder/out.csv"
    assert main(["predict", str(classifier), str(photos), str(out), "top=9"]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows[:3]:
        shares = [float(row[f"probability{i}"]) for i in ("", "_2", "_3")]
        assert shares == sorted(shares, reverse=True)
        assert abs(sum(shares) - 1) < 1e-5
        assert {row["class"], row["class_2"], row["class_3"]} == {"cat", "'=1+1", NAMES[2]}
        assert row["error"] == ""
    assert rows[3]["name"].endswith("broken.png")
    assert rows[3]["class"] == ""
    assert rows[3]["error"]
    assert "1 of 4 images cannot be read" in capsys.readouterr().out


def test_single_files_and_folders_may_be_mixed(classifier: Path, photos: Path) -> None:
    files = [photos / "cat/b.png", photos / "val/deep", photos / "cat/a.png"]
    mixed = ssl_vision.predict(classifier, files)
    whole = ssl_vision.predict(classifier, photos)
    assert [Path(name).name for name in mixed.names] == ["b.png", "c.png", "a.png"]
    np.testing.assert_allclose(mixed.logits, whole.logits[[1, 2, 0]], atol=1e-5)


def test_folders_named_as_classes_are_scored(
    classifier: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ssl_vision.predict(classifier, photos).classes[:2].count("cat")
    (photos / "val").rename(photos / "=1+1")
    main(["predict", str(classifier), str(photos), str(tmp_path / "out.csv")])
    right += ssl_vision.predict(classifier, photos / "=1+1/deep").classes.count("=1+1")
    low, high = wilson_interval(right / 3, 3)
    line = f"{right} of 3 are taken for their folder's, {right / 3:.1%} [{low:.1%}, {high:.1%}]"
    assert line in capsys.readouterr().out


def test_weights_without_classifier_say_how_to_get_one(
    classifier: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain one"
    main(["export", str(classifier), str(plain), "formats=timm", "classifier=false"])
    with pytest.raises(ConfigError, match=r"no classifier; train one .* 'init_from=.*plain one'"):
        ssl_vision.predict(plain, photos)
    words = ["predict", "timm:resnet18?pretrained=false", str(photos), str(tmp_path / "o.csv")]
    assert main(words) == 2
    assert "have no classifier" in capsys.readouterr().err


def test_mistakes(classifier: Path, photos: Path, tmp_path: Path, capsys) -> None:
    assert main(["predict", str(classifier), str(photos)]) == 2
    assert "usage: ssl-vision predict WEIGHTS IMAGES" in capsys.readouterr().err
    assert main(["predict", str(classifier), str(photos), "photos/"]) == 2
    assert "must be the .csv file" in capsys.readouterr().err
    with pytest.raises(DataError, match="none of 1 samples can be read"):
        ssl_vision.predict(classifier, photos / "val/broken.png")
    with pytest.raises(DataError, match="does not exist"):
        ssl_vision.predict(classifier, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="device=tpu must be auto"):
        ssl_vision.predict(classifier, photos, device="tpu")


@pytest.mark.slow
def test_every_form_of_an_export_keeps_head_names_and_transform(
    classifier: Path, tmp_path: Path
) -> None:
    import json

    import onnxruntime

    words = ["export", str(classifier), str(tmp_path / "out"), "formats=timm,onnx,torch_export"]
    assert main(words) == 0
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(NAMES)
    assert json.loads(facts["transform"])["mean"] == [0.3] * 3
    assert [each.name for each in session.get_outputs()] == ["logits"]
    logits = session.run(None, {"images": np.zeros((2, 3, 32, 32), np.float32)})[0]
    assert logits.shape == (2, 3)
    card = (tmp_path / "out/README.md").read_text()
    assert "logits = model(" in card
    assert "image-classification" in card
