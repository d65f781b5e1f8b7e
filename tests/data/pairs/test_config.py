import pytest

from ssl_vision.data.pairs.config import PairData, PairViewConfig
from ssl_vision.errors import ConfigError

PLAIN = {"size_px": 8, "flip_prob": 0.0}


def data(first: dict, second: dict) -> PairData:
    views = {"first": PairViewConfig(**first), "second": PairViewConfig(**second)}
    return PairData(path="x", views=views)


@pytest.mark.parametrize("name", ["first", "second"])
def test_one_view_alone_is_not_mirrored(name: str) -> None:
    views = {"first": PLAIN, "second": PLAIN}
    with pytest.raises(ConfigError, match=rf"data\.views\.{name}\.flip_prob=0\.5 would mirror"):
        data(**{**views, name: {"size_px": 8}})


def test_both_are_mirrored_together() -> None:
    both = {"size_px": 8, "flip_prob": 0.5}
    assert data(both, {**both, "is_joint": True}).views["second"].is_joint


@pytest.mark.parametrize(
    ("name", "value"), [("size_px", 9), ("crop_area", (0.1, 0.2)), ("flip_prob", 0.3)]
)
def test_joint_views_are_cut_by_the_same_settings(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"data\.views\.second\.{name}="):
        data(PLAIN, {**PLAIN, name: value, "is_joint": True})


def test_only_the_second_follows() -> None:
    with pytest.raises(ConfigError, match=r"data\.views\.first\.is_joint=true"):
        data({**PLAIN, "is_joint": True}, PLAIN)
    with pytest.raises(ConfigError, match=r"data\.views\.second\.is_joint=true"):
        PairData(path="x", views={"second": PairViewConfig(**PLAIN, is_joint=True)})
