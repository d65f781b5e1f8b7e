"""Settings in layers, as they come in: recipe files, `key=value` as typed, values of programs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml

from ssl_vision.errors import ConfigError
from ssl_vision.files import plain_text
from ssl_vision.typed import Typed, convert, read_yaml

Layer: TypeAlias = tuple[str, dict[str, Any]]  # where it comes from, and its content

AUTO = "auto"  # a value that is to be chosen, by data and machine


def read_layers(paths: Iterable[str | Path], overrides: Iterable[str] = ()) -> list[Layer]:
    """Of files and `key=value`, the later laid over the earlier.

    Raises:
        ConfigError: A file that is not there or no mapping, or a text that is not `key=value`.
    """
    layers = [(str(path), read_file(Path(path))) for path in paths]
    return layers + [(repr(override), _read_override(override)) for override in overrides]


def layers_of(values: Mapping[str, Any]) -> list[Layer]:
    """Of a program's values, nested or by full name (`trainer.epochs`), the later last."""
    return [(name, nested(name, value)) for name, value in values.items()]


def read_file(path: Path) -> dict[str, Any]:
    """Content of a recipe file.

    Raises:
        ConfigError: It is not there, not readable, or no mapping.
    """
    try:
        content = read_yaml(plain_text(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of settings, not a list or a value.")
    return content


def _read_override(override: str) -> dict[str, Any]:
    """`a.b=text` -> {a: {b: text}}; all that follows the first `=` is the value, as typed."""
    key, separator, value = override.partition("=")
    names = key.split(".")
    if not separator or not all(names) or key.startswith("-"):
        raise ConfigError(f"{override!r}: overrides are written key=value.")
    return nested(key, Typed(value, is_plain=True, is_argument=True))


def nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b`, value -> {a: {b: value}}."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return cast(dict[str, Any], value)


def last_given(layers: Iterable[Layer], section: str, key: str) -> Any:
    """Value of `section.key` after merging, None where no layer has it."""
    value = None
    for _, content in layers:
        part = _section(content, section)
        if isinstance(part, dict):
            value = part.get(key, value)
    return value


def take_auto(layers: Iterable[Layer], keys: Sequence[str]) -> tuple[list[Layer], tuple[str, ...]]:
    """The layers without values that are `auto`, and the keys whose last value that was.

    Args:
        layers: Of a run.
        keys: `section.key` of the settings that may be `auto`.
    """
    layers = list(layers)
    pairs = [(key, *key.split(".")) for key in keys]
    wanted = tuple(key for key, *names in pairs if last_given(layers, *names) == AUTO)
    return [(origin, _without_auto(content, keys)) for origin, content in layers], wanted


def _without_auto(content: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys:
        section, name = key.split(".")
        part = _section(content, section)
        if isinstance(part, dict) and part.get(name) == AUTO:
            rest = {other: value for other, value in part.items() if other != name}
            content = {**content, section: rest}
    return content


def _section(content: Mapping[str, Any], section: str) -> Any:
    part = content.get(section)
    if isinstance(part, Typed) and part.lstrip().startswith("{"):  # of the command line
        return convert(part, dict[str, Any], key=section)
    return part


def one_line(error: Exception) -> str:
    """What an error says, in its first line."""
    message = str(error).replace("Did you mean: ", "Did you mean ")  # as `did_you_mean` says it
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return lines[0] if lines else type(error).__name__
