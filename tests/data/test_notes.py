"""What readers noticed is told with what was done, and once for each command."""

import numpy as np
import pytest
from PIL import Image

from ssl_vision.data.levels import DecodeConfig, Notes, each_told_once, to_rgb


def _noted(background: tuple[int, int, int] = (255, 255, 255)) -> Notes:
    notes = Notes()
    image = Image.fromarray(np.zeros((4, 4, 4), np.uint8))
    to_rgb(image, DecodeConfig(background=background), notes)
    return notes


@pytest.mark.parametrize(("colour", "word"), [((255,) * 3, "white"), ((0, 9, 0), "[0,9,0]")])
def test_the_colour_and_the_key_are_told(colour: tuple[int, int, int], word: str) -> None:
    text = _noted(colour).text()
    assert text.startswith(f"1 images have transparent pixels, shown over {word}; ")
    assert "data.decode.background=[R,G,B]" in text


def test_each_thing_is_told_once_within_a_command_and_again_in_the_next() -> None:
    for _ in range(2):
        with each_told_once():
            first, second = _noted(), _noted()
            first.told()
            assert second.text() == ""
            second.add("columns")
            assert second.text().startswith("1 clouds have further columns")
            with each_told_once():  # of a function that the command calls
                assert _noted().text() == ""
    assert _noted().text() != ""
