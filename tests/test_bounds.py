"""Every number among the settings has bounds, and what is out of them is one line with its key."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest

from ssl_vision.bounds import check_bounds, check_some
from ssl_vision.config import OnlineEvalConfig, TrainerConfig, load_train_config
from ssl_vision.data.config import EvalDataConfig
from ssl_vision.errors import ConfigError
from ssl_vision.evaluation.settings import CacheConfig
from ssl_vision.recipes import find_recipe
from ssl_vision.tasks.settings import SECTIONS, load_settings

_COMMON = ("weights=w", "data.path=d")
_EVALUATION = {"data": EvalDataConfig, "cache": CacheConfig, **SECTIONS.kinds}
_TRAINING = {"trainer": TrainerConfig, "online_eval": OnlineEvalConfig}


def _numbers(kind: type, prefix: str) -> Iterator[tuple[str, int]]:
    """Full key of each numeric setting, and how many numbers it takes."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        key = f"{prefix}.{field.name}"
        wanted: Any = hints[field.name]
        (wanted,) = (
            [each for each in get_args(wanted) if each is not NoneType] or [wanted]
            if (NoneType in get_args(wanted))
            else [wanted]
        )
        if is_dataclass(wanted):
            assert isinstance(wanted, type)
            yield from _numbers(wanted, key)
        elif wanted in (int, float):
            yield key, 1
        elif get_args(wanted) and get_args(wanted)[0] in (int, float):
            yield key, 1 if get_args(wanted)[-1] is ... else len(get_args(wanted))


def _keys(sections: dict[str, type]) -> list[tuple[str, int]]:
    return [each for name, kind in sections.items() for each in _numbers(kind, name)]


def test_there_are_as_many_numbers_as_one_expects():
    assert len(_keys(_EVALUATION)) > 60
    assert ("data.std", 3) in _keys(_EVALUATION)
    assert ("linear.base_lrs", 1) in _keys(_EVALUATION)


@pytest.mark.parametrize(("key", "count"), _keys(_EVALUATION))
def test_no_number_of_an_evaluation_may_be_negative(key, count):
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        load_settings([], [*_COMMON, f"{key}={','.join(['-1'] * count)}"])


@pytest.mark.parametrize(("key", "count"), _keys(_TRAINING))
def test_no_number_of_a_run_may_be_negative(key, count):
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        load_train_config([find_recipe("mae/tiny_cpu")], [f"{key}=-1"])


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
        with pytest.raises(ConfigError, match=r"a=.* must be 1 or more and 1 or less"):
            check_bounds("a", value, least=1, most=1)
    with pytest.raises(ConfigError, match="a=0 must be above 0"):
        check_bounds("a", 0, above=0)
    with pytest.raises(ConfigError, match="a="):
        check_some("a", ())
