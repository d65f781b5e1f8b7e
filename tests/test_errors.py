import warnings
from pathlib import Path

import pytest

import ssl_vision
from ssl_vision.errors import (
    DataError,
    SslVisionWarning,
    did_you_mean,
    warnings_renamed,
    with_whole_key,
)

KNOWN = ("knn", "linear", "logreg", "metrics")


@pytest.mark.parametrize(
    ("word", "num", "hint"),
    [
        ("liner", 1, " Did you mean 'linear'?"),
        ("linear", 1, " Did you mean 'linear'?"),
        ("nothing like them", 1, ""),
        (3, 1, ""),  # files hold other things than words
        ("mettrics", 3, " Did you mean 'metrics'?"),
    ],
)
def test_a_hint_names_the_nearest_known_word(word: object, num: int, hint: str) -> None:
    assert did_you_mean(word, KNOWN, num=num) == hint


def test_several_near_words_are_named_best_first() -> None:
    hint = did_you_mean("vit_tinny", {"vit_tiny": 0, "vit_tiny2": 1, "resnet": 2}, num=3)
    assert hint == " Did you mean 'vit_tiny' or 'vit_tiny2'?"


def test_hints_are_worded_in_one_place() -> None:
    files = Path(ssl_vision.__file__).parent.rglob("*.py")
    assert {path.name for path in files if "get_close_matches" in path.read_text()} == {"errors.py"}


@pytest.mark.parametrize(
    ("message", "section", "expected"),
    [
        ("size_px=0 must", "data.views.a", "data.views.a.size_px=0 must"),
        ("blur.prob=3 is", "data.views.a.blur", "data.views.a.blur.prob=3 is"),
        ("decode.white_level=-1", "data.decode", "data.decode.white_level=-1"),
        ("decode.white_level=-1", "decode", "decode.white_level=-1"),
        ("data.mean=[2] must", "data", "data.mean=[2] must"),
        ("knn.k=[0]", "knn", "knn.k=[0]"),
        ("size_px and count", "data.views.a", "data.views.a.size_px and count"),
        ("the smallest size exceeds", "method.elastic", "the smallest size exceeds"),
        ("seed=-1 must", "", "seed=-1 must"),
        ("views.a.blur.prob=3", "data.views.a.blur", "data.views.a.blur.prob=3"),
    ],
)
def test_a_setting_is_named_as_it_is_typed(message: str, section: str, expected: str) -> None:
    assert with_whole_key(message, section=section, names=["size_px", "seed"]) == expected


def test_errors_and_warnings_are_told_in_other_words() -> None:
    names = {"data.decode.": "decode."}
    with (
        pytest.warns(SslVisionWarning, match=r"^over decode\.background$"),
        warnings_renamed(names),
    ):
        warnings.warn("over data.decode.background", SslVisionWarning, stacklevel=1)
    with pytest.raises(DataError, match=r"^set decode\.white_level$"), warnings_renamed(names):
        raise DataError("set data.decode.white_level")
