"""Settings in layers: the last one wins, and `auto` is taken out."""

from pathlib import Path

import pytest
import yaml

from ssl_vision.config import load_train_config, make_train_config
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


_LAYERED = """
method: {name: distill, teachers: {one: {weights: a}, two: {weights: b, weight: 2.0}}}
backbone: {name: resnet18, args: {layers: [1, 1, 1, 1], stem_width: 8}}
data: {path: digits, views: {view: {size_px: 16}}}
optim: {name: adamw, base_lr: 1e-3}
"""


@pytest.mark.parametrize("is_program", [False, True])
def test_null_takes_an_entry_of_a_mapping_away_and_empties_a_whole_one(tmp_path, is_program):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_LAYERED)

    def load(*lines):
        if not is_program:
            return load_train_config([recipe], lines)
        pairs = (line.split("=", 1) for line in lines)
        return make_train_config(recipe, {key: yaml.safe_load(text) for key, text in pairs})

    def teachers(*lines):
        found = load(*lines).method.teachers
        return {name: (each.weights, each.weight) for name, each in found.items()}

    one, two, new = ("a", 1.0), ("b", 2.0), ("c", 1.0)
    assert teachers() == {"one": one, "two": two}
    assert teachers("method.teachers.one=null") == {"two": two}
    mine = "method.teachers.mine.weights=c"
    assert teachers("method.teachers.one=null", mine) == {"two": two, "mine": new}
    assert teachers("method.teachers=null", mine) == {"mine": new}
    assert teachers("method.teachers={}", mine) == {"mine": new}
    assert teachers("method.teachers={one: null, mine: {weights: c}}") == {"two": two, "mine": new}
    back = ("method.teachers.two=null", "method.teachers.two.weights=c")
    assert teachers(*back) == {"one": one, "two": new}  # nothing of the old entry stays
    with pytest.raises(ConfigError, match=r"method\.teachers is empty"):
        load("method.teachers={}")
    views = ("data.views.view=null", "data.views.other.size_px=8")
    assert list(load(*views).data.views) == ["other"]
    assert load("backbone.args.layers=null").backbone.args == {"stem_width": 8}
    for line in ("backbone.args=null", "backbone.args={}"):
        assert load(line).backbone.args == {}
    assert (
        load("backbone.args.drop_block=null").backbone.args["drop_block"] is None
    )  # none was there
    with pytest.raises(ConfigError, match=r"trainer\.log_every_steps|log_every_steps"):
        load("trainer.log_every_steps=null")  # no mapping of any names
