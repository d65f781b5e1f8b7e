import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from ssl_vision.commands.settings import Setting, settings_of, table_of_classes
from ssl_vision.config import TrainConfig
from ssl_vision.methods import METHODS
from ssl_vision.tasks.settings import SECTIONS

_CLASSES = table_of_classes("ssl_vision.methods", "METHODS")


def _imported(place: str) -> type:
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found


def _fields(kind: type, prefix: str = "") -> Iterator[tuple[str, type, Any]]:
    """Keys of the imported dataclasses, with their default where it is a plain value."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        parts = [inner, *getattr(inner, "__args__", ())]
        record = next((p for p in parts if dataclasses.is_dataclass(p)), None)
        if isinstance(record, type):
            many = ".NAME" if getattr(inner, "__origin__", None) is dict else ""
            yield from _fields(record, f"{prefix}{field.name}{many}.")
        else:
            yield f"{prefix}{field.name}", inner, field.default


@pytest.mark.parametrize("method", METHODS)
def test_what_the_source_says_of_a_methods_settings_is_what_is_imported(method: str) -> None:
    kind = METHODS[method].config
    assert _imported(_CLASSES[method]) is kind
    _same(settings_of(_CLASSES[method]), kind)


@pytest.mark.parametrize("kind", [TrainConfig, SECTIONS.config()], ids=lambda kind: kind.__name__)
def test_what_the_source_says_of_a_configuration_is_what_is_imported(kind: type) -> None:
    _same(settings_of(f"ssl_vision.config:{kind.__name__}"), kind)


def _same(read: list[Setting], kind: type) -> None:
    imported = {key: default for key, _, default in _fields(kind)}
    assert sorted(setting.key for setting in read) == sorted(imported)
    for setting in read:
        default = imported[setting.key]
        if type(default) in (int, float):
            assert eval(setting.default) == default, setting  # written as an expression
        elif isinstance(default, bool):
            assert setting.default == str(default).lower(), setting
        elif default is None:
            assert setting.default == "null", setting
        elif isinstance(default, str) and default != "???":
            assert setting.default == default, setting


def test_meanings_are_the_comments_behind_the_fields_also_over_two_lines(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ssl_vision"
    package.mkdir()
    (package / "made.py").write_text(
        "@dataclass\nclass Made:\n"
        "    first: int = 1  # one thing,\n"
        "    # and more of it\n"
        "    second: Literal['a', 'b'] | None = None  # another\n"
        "    third: bool = False\n"
    )
    monkeypatch.setattr("ssl_vision.commands.settings._ROOT", tmp_path)
    first, second, third = settings_of("ssl_vision.made:Made")
    assert first.meaning == "one thing, and more of it"
    assert (second.meaning, second.words, second.default) == ("another", ("a", "b"), "null")
    assert (third.meaning, third.words, third.default) == ("", ("true", "false"), "false")
