"""What is refused before torch is imported: paths that are not there, in the words of later."""

import subprocess
import sys
from pathlib import Path

import pytest

from ssl_vision.commands.early import OF_OTHER_DATA, refuse_early
from ssl_vision.data.find import find_source
from ssl_vision.data.images.arrays import BUILTIN
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.images.torchvision_sets import NAMES
from ssl_vision.data.names import IMAGE_SETS
from ssl_vision.errors import ConfigError, DataError, SslVisionError
from ssl_vision.methods import METHODS
from ssl_vision.zoo.weights import resolve_weights


def test_names_and_methods_are_those_of_the_tables() -> None:
    assert (*BUILTIN, *NAMES) == IMAGE_SETS
    others = {name for name, entry in METHODS.items() if entry.data is not ImageData}
    assert set(OF_OTHER_DATA) == others


def _refusal(words: list[str]) -> SslVisionError:
    with pytest.raises(SslVisionError) as caught:
        refuse_early(words[0], words[1:])
    return caught.value


def test_texts_are_those_of_later(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(DataError) as of_data:
        find_source(nowhere, split="train", config=ImageData(path=nowhere))
    with pytest.raises(ConfigError) as of_weights:
        resolve_weights(nowhere)
    for recipe in ("auto", "dino/tiny_cpu"):
        assert str(_refusal(["train", recipe, f"data.path={nowhere}"])) == str(of_data.value)
    for words in (
        ["evaluate", nowhere, "data.path=digits"],
        ["embed", nowhere, "data.path=digits", "out"],
        ["export", nowhere, "out"],
        ["search", nowhere, "index"],
        ["duplicates", nowhere, "digits", "a.csv"],
    ):
        assert str(_refusal(words)) == str(of_weights.value)
    told = str(_refusal(["duplicates", "timm:resnet18", "digits", nowhere, "a.csv"]))
    assert told == str(of_data.value).replace("data path", "IMAGES")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "auto", "data.path=cifar10"],
        ["train", "auto"],
        ["train", "point_mae/tiny_cpu", "data.path=nowhere"],
        ["train", "croco/tiny_cpu", "data.path=blocks"],
        ["evaluate", "zoo:any", "timm:any", "data.path=nowhere"],
        ["evaluate", "compare", "nowhere", "nowhere"],
        ["evaluate", "nowhere", "timm:any", "data.path=digits"],
        ["duplicates", "timm:any", "nowhere", "a.csv", "threshold=2"],
        ["duplicates", "nowhere"],
        ["duplicates", "timm:any", "nowhere", "out"],
        ["doctor"],
    ],
)
def test_what_is_not_certain_is_left_to_the_command(words: list[str]) -> None:
    refuse_early(words[0], words[1:])


def test_torch_is_not_imported_for_it() -> None:
    code = (
        "import sys; from ssl_vision.commands.main import main; "
        "assert main(['evaluate', 'runs/nope', 'data.path=digits']) == 2; "
        "assert main(['train', 'auto', 'data.path=../nope']) == 65; "
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
