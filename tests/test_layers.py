"""Settings in layers: the last one wins, and `auto` is taken out."""

from pathlib import Path

import pytest

from ssl_vision.errors import ConfigError
from ssl_vision.layers import last_given, layers_of, nested, read_layers, take_auto

_KEYS = ("trainer.epochs", "data.mean")


def test_layers_are_files_then_overrides_and_name_their_origin(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("trainer: {epochs: 3}\n")
    layers = read_layers([file], ["trainer.epochs=4", "data.path=a=b"])
    assert [origin for origin, _ in layers] == [str(file), "'trainer.epochs=4'", "'data.path=a=b'"]
    assert last_given(layers, "trainer", "epochs") == "4"
    assert last_given(layers, "data", "path") == "a=b"
    assert last_given(layers, "data", "mean") is None
    with pytest.raises(ConfigError, match="key=value"):
        read_layers([], ["epochs"])


def test_values_of_programs_by_full_name_or_nested() -> None:
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    layers = layers_of({"trainer": {"epochs": 3}, "trainer.max_steps": 5})
    assert last_given(layers, "trainer", "epochs") == 3
    assert last_given(layers, "trainer", "max_steps") == 5


@pytest.mark.parametrize(
    ("values", "wanted", "epochs"),
    [
        ([3, "auto"], ("trainer.epochs",), 3),
        (["auto", 3], (), 3),
        (["auto"], ("trainer.epochs",), None),
        ([3], (), 3),
    ],
)
def test_auto_is_taken_out_and_wanted_where_it_came_last(
    values: list[object], wanted: tuple[str, ...], epochs: int | None
) -> None:
    layers = [(str(i), {"trainer": {"epochs": v, "devices": 1}}) for i, v in enumerate(values)]
    rest, found = take_auto(layers, _KEYS)
    assert found == wanted
    assert last_given(rest, "trainer", "epochs") == epochs
    assert last_given(rest, "trainer", "devices") == 1
    assert last_given(layers, "trainer", "epochs") == values[-1]  # what came in is as it was


def test_auto_in_braces_of_the_command_line() -> None:
    layers = read_layers([], ["data={mean: auto, path: x}", "trainer.accelerator=auto"])
    rest, wanted = take_auto(layers, _KEYS)
    assert wanted == ("data.mean",)
    assert last_given(rest, "data", "path") == "x"
    assert last_given(rest, "data", "mean") is None
    assert last_given(rest, "trainer", "accelerator") == "auto"  # no setting of ours
