"""Every number among the settings has bounds, and what is out of them is one line with its key."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest

from ssl_vision.bounds import check_bounds, check_some
from ssl_vision.config import OnlineEvalConfig, TrainerConfig
from ssl_vision.data.clouds.config import CloudEvalData
from ssl_vision.data.config import EvalDataConfig
from ssl_vision.data.images.config import ImageEvalData
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.settings import CacheConfig
from ssl_vision.tasks.settings import SECTIONS, load_settings

_COMMON = ("weights=w", "data.path=d")
_EVALUATION = {"cache": CacheConfig, **SECTIONS.kinds}
_DATA = (ImageEvalData, CloudEvalData)
_TRAINING = {"trainer": TrainerConfig, "online_eval": OnlineEvalConfig}


def _numbers(kind: type, prefix: str) -> Iterator[tuple[str, type, str, Any]]:
    """Key, owner, field and a negative value of each numeric setting."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        key, wanted = f"{prefix}.{field.name}", hints[field.name]
        parts = [each for each in get_args(wanted) if each is not NoneType]
        if NoneType in get_args(wanted):
            (wanted,) = parts
            parts = list(get_args(wanted))
        if is_dataclass(wanted):
            assert isinstance(wanted, type)
            yield from _numbers(wanted, key)
        elif wanted in (int, float):
            yield key, kind, field.name, -1
        elif parts and parts[0] in (int, float):
            yield key, kind, field.name, (-1,) * (1 if parts[-1] is ... else len(parts))


def _all(sections: dict[str, type]) -> list[tuple[str, type, str, Any]]:
    return [each for name, kind in sections.items() for each in _numbers(kind, name)]


NUMBERS = [
    *_all({**_EVALUATION, **_TRAINING}),
    *(each for kind in _DATA for each in _numbers(kind, "data")),
]


def test_there_are_as_many_numbers_as_one_expects():
    keys = [key for key, *_ in NUMBERS]
    assert len(keys) > 90
    assert {"data.std", "linear.base_lrs", "n_way.finetune.tuning.lr", "trainer.epochs"} < {*keys}


@pytest.mark.parametrize(
    ("kind", "name", "value"), [each[1:] for each in NUMBERS], ids=[each[0] for each in NUMBERS]
)
def test_no_number_may_be_negative(kind, name, value):
    needed = {"path": "d"} if issubclass(kind, EvalDataConfig) else {}
    with pytest.raises(ConfigError, match=name):
        kind(**needed, **{name: value})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.std=0,0,0", "above 0"),
        ("data.std=58,57,57", "1 or less"),
        ("data.mean=0.5,0.5", "must hold 3 values, not 2"),
        ("data.std=[1]", "must hold 3 values, not 1"),
        ("data.num_threads=100000", "1,024 or less"),
        ("linear.crop_area=0.1,0.2,0.3", "must hold 2 values, not 3"),
        ("knn.k=99999999999", "1,000,000 or less"),
        ("knn.k=0,20", "knn.k=[0, 20]: each value must be 1 or more and"),
        ("knn.k=[20,a]", "knn.k=[20,a]: a must be a whole number."),
        ("knn.k=20,1.5", "knn.k=20,1.5: 1.5 must be a whole number."),
        ("knn.k=a", "knn.k=a must be a whole number."),
        ("data.decode.white_level=-1", "data.decode.white_level=-1.0 must be above 0"),
        ("data.decode.background=[0,0,256]", "data.decode.background=[0, 0, 256] must be"),
        ("knn.k=", "no value"),
        ("knn.k=[]", "one value or more"),
        ("tasks=", "no value"),
        ("seed=-1", "0 or more"),
        ("seed=99999999999999999999", "4,294,967,295 or less"),
        ("cache.max_gb=-1", "0 or more"),
        ("foo=1", "foo: there is no such setting; there are"),
        ("knn.foo=1", "knn.foo: there is no such setting; knn has"),
        ("precision=zz", "precision=zz must be one of 32, bf16, 16."),
        ("data.on_error=rase", "Did you mean 'raise'?"),
    ],
)
def test_odd_values_are_refused_with_key_and_range(setting, words):
    with pytest.raises(ConfigError) as refused:
        load_settings([], [*_COMMON, setting])
    assert words in str(refused.value)
    assert setting.partition("=")[0] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bounds_themselves_are_within_or_not():
    check_bounds("a", 1, least=1, most=1)
    check_bounds("a", None, least=1)
    check_bounds("a", [0.5, 0.6], above=0, below=1)
    for value in (0, 2, float("nan")):
        with pytest.raises(ConfigError, match=r"^a=\S* must be 1 or more and 1 or less"):
            check_bounds("a", value, least=1, most=1)
    with pytest.raises(ConfigError, match="a=0 must be above 0"):
        check_bounds("a", 0, above=0)
    with pytest.raises(ConfigError, match="a="):
        check_some("a", ())
    with pytest.raises(ConfigError, match=r"^a=\[1, 0\]: each value must be above 0\.$"):
        check_bounds("a", (1, 0), above=0)
