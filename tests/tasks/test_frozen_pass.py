"""A pass gives what the network gives of each image alone, and names what cannot be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_vision.backbones.classifier import add_classifier, add_head_layers
from ssl_vision.data.images.several import images_at
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.tasks.frozen_pass import PassSettings, pass_over
from ssl_vision.zoo.weights import resolve_weights

TINY = "timm:vit_tiny_patch16_224?pretrained=false&img_size=32&patch_size=8&depth=1"


def test_rows_are_those_that_could_be_read_whatever_the_batch(tmp_path: Path) -> None:
    loaded, random = resolve_weights(TINY), np.random.default_rng(0)
    pixels = random.integers(0, 256, (5, 37, 37, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    source = images_at([tmp_path])
    single, pair = (pass_over(loaded, source, PassSettings(batch_size=n)) for n in (1, 2))
    assert single.rows.tolist() == pair.rows.tolist() == [0, 1, 3, 4]
    np.testing.assert_allclose(single.values, pair.values, atol=1e-5)
    assert list(single.unreadable) == [str(tmp_path / "2.png")]
    (tmp_path / "only").mkdir()
    (tmp_path / "only/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 1 samples can be read"):
        pass_over(loaded, images_at([tmp_path / "only"]), PassSettings())


def test_values_are_the_networks_own(tmp_path: Path) -> None:
    loaded = resolve_weights(TINY)
    loaded = replace(loaded, spec=loaded.spec._replace(crop_pct=1.0))  # nothing is resized
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (loaded.mean, loaded.std))
    crop = torch.from_numpy(pixels).permute(2, 0, 1)
    with torch.inference_mode():
        expected = loaded.backbone(((crop / 255 - mean) / std)[None]).pooled.numpy()
    found = pass_over(loaded, images_at([tmp_path]), PassSettings(num_threads=1))
    np.testing.assert_allclose(found.values, expected, atol=2e-5)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="batch_size=0 must be 1 or more"):
        PassSettings(batch_size=0)


def test_scores_go_through_the_layers_before_the_classifier(tmp_path: Path) -> None:
    """Of a fine-tuning that starts inside a pretraining's head."""
    loaded = resolve_weights(TINY)
    torch.manual_seed(0)
    add_head_layers(loaded.backbone, num_layers=1)
    add_classifier(loaded.backbone, num_classes=3, std=1.0)
    loaded.backbone.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = images_at([tmp_path])
    found = pass_over(loaded, source, PassSettings(), of="logits").values
    pooled = torch.from_numpy(pass_over(loaded, source, PassSettings()).values)
    linear, norm, _ = loaded.backbone.head_layers[0]  # type: ignore[index]
    head = loaded.backbone.model.get_classifier()
    with torch.no_grad():
        expected = head(norm(linear(pooled)).relu())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
