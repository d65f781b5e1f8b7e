"""Settings are checked by name and kind, and words that contain `=` stay words."""

from dataclasses import dataclass

import pytest

from ssl_vision.commands.arguments import Arguments, parse
from ssl_vision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Made:
    size_px: int = 7
    out: tuple[str, ...] = ()
    name: str | None = None


def given(*arguments: str) -> Arguments:
    return parse("x", arguments, num_words=(1, 2), usages={"x": "x A [B]"})


def test_words_and_settings() -> None:
    both = given("zoo:a?size_px=96", "size_px=32", "out=a,b", "name=a=b", "runs/lr=0.1")
    assert both.words == ("zoo:a?size_px=96", "runs/lr=0.1")
    assert both.settings(Made) == Made(size_px=32, out=("a", "b"), name="a=b")
    assert both.given == {"size_px", "out", "name"}
    assert given("a").settings(Made) == Made()


def test_settings_of_two_owners_are_told_apart() -> None:
    mine, rest = given("a", "size_px=3", "data.path=x", "size_pxx=1").take(Made)
    assert mine == Made(size_px=3)
    assert rest == ("data.path=x", "size_pxx=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "siz_px=3"], "siz_px"),
        (["a", "size_px=big"], "size_px.*big"),
        (["a", "--max-size=3"], "without dashes .for example max_size="),
        (["a", "out=3", "out=4"], "given twice"),
        ([], "usage: ssl-vision x A"),
        (["a", "b", "c"], "usage: ssl-vision x A .*got 3"),
    ],
)
def test_mistakes(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        given(*arguments).settings(Made)
