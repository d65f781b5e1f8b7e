"""Settings are checked by name, and words that contain `=` stay words."""

import pytest

from ssl_vision.commands.arguments import parse_arguments
from ssl_vision.errors import ConfigError


def parse(*arguments: str):  # type: ignore[no-untyped-def]
    return parse_arguments(arguments, usage="x A [B]", known=("size_px", "out"), num_words=(1, 2))


def test_words_and_settings() -> None:
    given = parse("zoo:a?size_px=96", "size_px=32", "out=a,b")
    assert given.words == ("zoo:a?size_px=96",)
    assert given.number("size_px", 0) == 32
    assert given.several("out") == ("a", "b")
    assert parse("a").number("size_px", 7) == 7
    assert parse("a").several("out") == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "siz_px=3"], "Did you mean 'size_px'?"),
        (["a", "--out=3"], "without dashes"),
        (["a", "out=3", "out=4"], "given twice"),
        ([], "usage: x A"),
        (["a", "b", "c"], "usage: x A"),
    ],
)
def test_mistakes(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(*arguments)


def test_numbers_are_numbers() -> None:
    with pytest.raises(ConfigError, match="size_px=big must be a whole number"):
        parse("a", "size_px=big").number("size_px", 0)
