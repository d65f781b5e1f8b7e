from pathlib import Path

import pytest

import ssl_vision
from ssl_vision.errors import did_you_mean

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
