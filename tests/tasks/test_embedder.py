"""Features and scores of any network on any data, from a program."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import ssl_vision
from ssl_vision.errors import ConfigError, DataError

_MEAN, _STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
_SHOWN = {"size": 20, "mean": _MEAN, "std": _STD, "crop_pct": 1.0}


class Net(nn.Module):
    """Images -> map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)


@pytest.fixture
def network() -> Net:
    torch.manual_seed(0)
    return Net()


def _colours(num: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images whose class is their brightest channel."""
    generator, labels = np.random.default_rng(0), np.arange(num) % 3
    images = generator.integers(0, 40, (num, 20, 20, 3))
    images[np.arange(num), :, :, labels] += 200
    return images.astype(np.uint8), labels


def _by_hand(network: Net, images: np.ndarray) -> np.ndarray:
    scaled = (torch.from_numpy(images) / 255 - torch.tensor(_MEAN)) / torch.tensor(_STD)
    with torch.no_grad():
        return network(scaled.permute(0, 3, 1, 2)).mean(dim=(2, 3)).numpy()


def test_features_are_those_of_the_network_in_the_order_of_the_images(
    network: Net, tmp_path: Path
) -> None:
    images, _ = _colours(7)
    expected = _by_hand(network, images)
    embedder = ssl_vision.Embedder(network, transform=_SHOWN, batch_size=3, device="cpu")
    assert embedder.width == 5
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    given: list[Any] = [images, paths, tmp_path, [Image.open(path) for path in paths]]
    for data in given:
        found = embedder(data)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for one in (Image.fromarray(images[2]), paths[2], str(paths[2])):
        np.testing.assert_allclose(embedder(one), expected[2:3], rtol=1e-5, atol=1e-6)
    assert not network.conv.weight.is_inference()
    paths[1].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png"):
        embedder(paths)


def test_one_call_and_weights_of_a_name() -> None:
    images, _ = _colours(4)
    weights = "timm:test_vit?pretrained=false&seed=1&img_size=32"
    found = ssl_vision.embed(weights, images, size_px=32, device="cpu")
    assert found.shape == (4, 64)
    np.testing.assert_array_equal(found, ssl_vision.embed(weights, list(images), size_px=32))
    with pytest.raises(ConfigError, match="says itself"):
        ssl_vision.embed(weights, images, transform=_SHOWN)
    with pytest.raises(ConfigError, match="does not say its own"):
        ssl_vision.embed(Net(), images)


def test_a_model_of_timm_is_read_as_it_is_whatever_it_was_built_with(tmp_path: Path) -> None:
    """As wrapped with its arguments; its one size is found."""
    images, labels = _colours()
    kwargs = {"img_size": 32, "depth": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **kwargs)
    found = ssl_vision.embed(model, images, device="cpu")
    assert model.num_classes == 7
    wrapped = ssl_vision.backbones.wrap(copy.deepcopy(model), kwargs=kwargs)
    np.testing.assert_array_equal(found, ssl_vision.embed(wrapped, images, size_px=32))
    data = {"train": (images, labels), "val": (images, labels)}
    asked = {"data": data, "tasks": ["knn"], "out": tmp_path}
    score = ssl_vision.evaluate(model, **asked).tasks["knn"].main.value
    assert 0 < score <= 1
    with pytest.raises(ConfigError, match=r"can draw timm\.vit_tiny_patch16_224 anew"):
        ssl_vision.evaluate(model, baselines=True, **asked)


def test_a_module_is_evaluated_on_objects(network: Net, tmp_path: Path) -> None:
    images, labels = _colours()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shuffled = np.random.default_rng(1).permutation(labels)
    scores = [
        ssl_vision.evaluate(
            network,
            data={"train": (images[:45], given[:45]), "val": (images[45:], given[45:])},
            transform=_SHOWN,
            tasks=["knn"],
            out=tmp_path / "out",
            device="cpu",
        ).tasks["knn"].main.value
        for given in (labels, shuffled)
    ]  # fmt: skip
    assert scores[0] == 1.0
    assert scores[1] < 0.8
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert (tmp_path / "out" / "report.html").exists()
    with pytest.raises(ConfigError, match="nobody but the program"):
        ssl_vision.evaluate(network, data=(images, labels), transform=_SHOWN, tasks=["knn"],
                            baselines=True, out=tmp_path / "out")  # fmt: skip


def test_a_module_is_exported(network: Net, tmp_path: Path) -> None:
    ssl_vision.export(network, tmp_path / "own", transform=_SHOWN)
    loaded = ssl_vision.load_backbone(tmp_path / "own", into=Net())
    images = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
    features = ssl_vision.embed(network, _colours(3)[0], transform=tmp_path / "own")
    np.testing.assert_array_equal(
        features, ssl_vision.embed(network, _colours(3)[0], transform=_SHOWN)
    )


def test_an_unreadable_image_is_told_with_what_a_call_can_do(network: Net, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"bad\.png.*Leave it out of the images") as caught:
        ssl_vision.embed(network, [tmp_path / "bad.png"], transform=_SHOWN)
    assert "data.on_error" not in str(caught.value)
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(DataError, match="scale it to 8 bits") as caught:
        ssl_vision.embed(network, [tmp_path / "deep.tiff"], transform=_SHOWN)
    assert "data.decode" not in str(caught.value)
