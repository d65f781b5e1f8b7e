"""Settings as they were typed, read by the type their setting has.

YAML guesses types by looks: 2024_11_28 would become a number, 007 seven, 12:30 minutes, and
`photos #1` lose its end. Here a scalar stays the text it was typed as until it is known what is
wanted:

| wanted | read as |
|---|---|
| text | as typed; an unquoted `null` is "none" where the setting may be none |
| number | YAML 1.2: 10, -3, 0x1f, 0o17, 0.5, 1e3; finite; no 1_000, 010 is ten |
| truth | true, false, on, off, yes, no |
| list | [a, b], or a, b |
| mapping | {a: 1} |
| anything (`backbone.args`) | by YAML 1.2; on, off, yes, no are truths unless quoted |

In a file, YAML's own rules decide where a text ends and which quotes belong to it; on the command
line all that follows the first `=` is the text, quotes and # included.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ssl_vision.errors import ConfigError, did_you_mean, keys_renamed

_TRUTHS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
_NULLS = ("null", "Null", "NULL")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.?(inf|nan|infinity)", re.IGNORECASE)
_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)
_LARGEST = 1e300  # of a number: beyond it squares and sums are infinite anyway
_MAX_DIGITS = 300
_MAX_SHOWN = 24  # names in a message
_MAX_NODES = 100_000  # aliases of aliases would grow without end


def as_word(path: str | Path) -> str:
    """A path as a shell's argument that every command takes for a word, not for a setting."""
    text = str(path)
    if text.startswith("~"):  # not the home folder, in a shell or here
        text = str(Path(text).absolute())
    # What has a `/` before its `=` or `:` is neither key=value nor zoo:NAME.
    return shlex.quote(f"./{text}" if re.match(r"-|[^/]*[=:]", text) else text)


class Typed(str):
    """A scalar's text.

    Attributes:
        is_plain: Without quotes, so that it may stand for a number, a truth or nothing.
        is_argument: From the command line.
    """

    is_plain: bool
    is_argument: bool

    def __new__(cls, text: str, *, is_plain: bool, is_argument: bool = False) -> "Typed":
        """A text with what is known of it."""
        made = super().__new__(cls, text)
        made.is_plain, made.is_argument = is_plain, is_argument
        return made


class TypedList(list[Any]):
    """A list, and how it was written where that was in brackets on one line."""

    text: str | None = None


class TypedDict(dict[str, object]):
    """A mapping, and how it was written where that was in braces on one line."""

    text: str | None = None


# Text -> tree --------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Composes without guessing types; `<<` still merges."""


_Loader.yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}


def read_yaml(text: str) -> object:
    """YAML -> nested TypedDict, TypedList and Typed.

    Raises:
        yaml.YAMLError: Not valid, a key given twice, nested or repeated without end, or with tags
            of objects.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _tree(loader, node, text, iter(range(_MAX_NODES)))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply.") from None
    finally:
        loader.dispose()


def _tree(loader: _Loader, node: yaml.Node, text: str, budget: Iterator[int]) -> object:
    if next(budget, None) is None:
        raise yaml.YAMLError(f"it has more than {_MAX_NODES} values, aliases followed.")
    if node.tag not in _TAGS:
        raise _problem(f"the tag {node.tag!r} is not for settings", node)
    if isinstance(node, yaml.ScalarNode):
        return Typed(node.value, is_plain=node.style is None)
    made: TypedList | TypedDict
    if isinstance(node, yaml.SequenceNode):
        made = TypedList(_tree(loader, each, text, budget) for each in node.value)
    else:
        assert isinstance(node, yaml.MappingNode)
        _refuse_repeated(node)
        loader.flatten_mapping(node)
        made = TypedDict(
            (_key(key), _tree(loader, value, text, budget)) for key, value in node.value
        )
    if node.flow_style and node.start_mark.line == node.end_mark.line:
        made.text = text[node.start_mark.index : node.end_mark.index]
    return made


def _refuse_repeated(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not key.tag.endswith(":merge"):
            if _key(key) in seen:
                raise _problem(f"the key {_key(key)!r} is given twice", key)
            seen.add(_key(key))


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _problem("a key must be a word", node)
    return str(node.value)


def _problem(text: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


# Tree -> values of the wanted types ----------------------------------------------------------


def convert(
    value: object, kind: Any, *, key: str = "", kinds: Mapping[str, object] | None = None
) -> object:
    """A tree as values of a type; what is of another kind altogether is left for the schema.

    Args:
        value: Of `read_yaml`, a Typed, or Python values.
        kind: Annotation: a dataclass, dict, tuple, Literal, str, bool, int, float, or Optional.
        key: Full name of the setting, for messages.
        kinds: Field -> type, where it is not the one that the dataclass `kind` says.

    Raises:
        ConfigError: A text that is not of the kind, or a number that is not finite.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if _is_null(value):
            return None
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        return convert(value, kind, key=key)
    if is_dataclass(kind):
        known = get_type_hints(kind) | dict(kinds or {})
        names = {field.name for field in fields(kind)}
        made = _mapping(value, {name: known[name] for name in names}, Any, key=key)
        return _known(made, names, key=key)
    if origin is dict:
        return _mapping(value, {}, get_args(kind)[1], key=key)
    if origin is tuple:
        return _sized(_list(value, get_args(kind)[0], key=key), get_args(kind), key=key)
    if origin is Literal:
        return _one_of(_text(value, key=key), get_args(kind), key=key)
    if kind is str:
        return _text(value, key=key)
    readers = {bool: _truth, int: _whole, float: _number}
    return readers.get(kind, _anything)(value, key=key)


def _is_null(value: object) -> bool:
    if not isinstance(value, Typed):
        return value is None
    return value.is_plain and (value in _NULLS or (not value.is_argument and value in ("~", "")))


def _mapping(value: object, known: Mapping[str, object], other: Any, *, key: str) -> object:
    if isinstance(value, Typed):
        value = _flow(value, "{", key=key, wanted="a mapping, {name: value, ...}")
    if not isinstance(value, Mapping):
        return value
    return {
        str(name): convert(each, known.get(str(name), other), key=f"{key}.{name}".lstrip("."))
        for name, each in value.items()
    }


def _known(values: object, names: Collection[str], *, key: str) -> object:
    """A mapping of settings that there are; what is no mapping is left for the schema."""
    for name in values if isinstance(values, Mapping) else ():
        if name not in names:
            full, words = f"{key}.{name}".lstrip("."), sorted(names)
            shown = ", ".join(words[:_MAX_SHOWN]) + (", ..." if len(words) > _MAX_SHOWN else "")
            raise ConfigError(
                f"{full}: there is no such setting; {key or 'there'} "
                f"{'has' if key else 'are'} {shown}.{did_you_mean(name, names)}"
            )
    return values


def _one_of(value: object, words: tuple[object, ...], *, key: str) -> object:
    if isinstance(value, str) and value not in words:
        hint = did_you_mean(value, map(str, words))
        raise ConfigError(f"{key}={value} must be one of {', '.join(map(str, words))}.{hint}")
    return value


def _list(value: object, kind: Any, *, key: str) -> object:
    written = value
    if isinstance(value, Typed) and not _is_null(value):
        if value.lstrip().startswith("["):
            value = _flow(value, "[", key=key, wanted="a list, [a, b]")
        elif not value.strip() and value.is_argument:
            raise ConfigError(f"{key}: no value was given; [] is a list without entries.")
        else:
            parts = (part.strip() for part in value.split(","))
            value = [Typed(part, is_plain=value.is_plain) for part in parts if part]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, str) or not isinstance(value, Sequence):
        return None if _is_null(value) else value
    return [_entry(each, kind, written, key=key) for each in value]


def _entry(value: object, kind: Any, written: object, *, key: str) -> object:
    """An entry of a list; what is wrong with it is said beside the whole list."""
    text = getattr(written, "text", None) or (written if isinstance(written, str) else None)
    whole = {} if text in (None, value) else {f"{key}={value} ": f"{key}={text}: {value} "}
    with keys_renamed(whole):
        return convert(value, kind, key=key)


def _sized(value: object, kinds: tuple[Any, ...], *, key: str) -> object:
    """A list of as many values as the setting has; of any number where its type says `...`."""
    if isinstance(value, list) and kinds[-1] is not ... and len(value) != len(kinds):
        raise ConfigError(
            f"{key}={[_shown(each) for each in value]} must hold {len(kinds)} values, not "
            f"{len(value)}."
        )
    return value


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Typed) else value


def _flow(value: Typed, bracket: str, *, key: str, wanted: str) -> object:
    """What stands in brackets on the command line."""
    if _is_null(value):
        return None
    if not value.lstrip().startswith(bracket):
        raise ConfigError(f"{key}={value} must be {wanted}.")
    try:
        return read_yaml(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{key}={value} must be {wanted} ({problem}).") from error


def _text(value: object, *, key: str) -> object:
    if isinstance(value, TypedList | TypedDict) and value.text is not None:
        return value.text
    if isinstance(value, Typed):
        if value == "" and value.is_plain:
            raise ConfigError(f"{key}: no value was given.")
        return str(value)
    if type(value) in (int, float):
        return str(value)  # trainer.precision=32 of Python's doors
    if not isinstance(value, str | bytes | Path | bool | Sequence | Mapping | None):
        raise ConfigError(f"{key}: a {type(value).__name__} was given, and it must be a text.")
    return value


def _truth(value: object, *, key: str) -> object:
    if isinstance(value, str):
        found = {**_TRUTHS, "1": True, "0": False}.get(value.strip().lower())
        if found is None:
            raise ConfigError(f"{key}={value} must be true or false.")
        return found
    return value


def _whole(value: object, *, key: str) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not _INTEGER.fullmatch(text):
        is_whole = _FLOAT.fullmatch(text) and float(text).is_integer()
        hint = f"; write {float(text):.0f}" if is_whole else ""
        raise ConfigError(f"{key}={value} must be a whole number{hint}.")
    return _integer(text, key=key)


def _integer(text: str, *, key: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    if len(text) > _MAX_DIGITS:
        raise ConfigError(f"{key}={text[:20]}... has too many digits.")
    return int(text[2:] if base != 10 else text, base)


def _number(value: object, *, key: str) -> object:
    if isinstance(value, str):
        text = value.strip()
        if _INTEGER.fullmatch(text):
            value = _integer(text, key=key)
        elif _FLOAT.fullmatch(text):
            value = float(text)
        else:
            finite = "finite " if _ENDLESS.fullmatch(text) else ""
            raise ConfigError(f"{key}={value} must be a {finite}number.")
    return _finite(value, key=key)


def _finite(value: object, *, key: str) -> object:
    if isinstance(value, int | float) and not abs(value) < _LARGEST:
        raise ConfigError(f"{key}={str(value)[:40]} must be a finite number.")
    return value


def _anything(value: object, *, key: str) -> object:
    if isinstance(value, Mapping):
        return {str(name): _anything(each, key=f"{key}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_anything(each, key=key) for each in value]
    if not isinstance(value, Typed):
        return _finite(value, key=key)
    if value.is_argument and value[:1] in ("[", "{"):
        return _anything(_flow(value, value[0], key=key, wanted="YAML"), key=key)
    return _finite(guess(value), key=key) if value.is_plain else str(value)


def guess(value: str) -> object:
    """A plain scalar where nothing says what is wanted: YAML 1.2, and on/off, yes/no."""
    if value in (*_NULLS, "~", ""):
        return None
    if value.lower() in _TRUTHS:
        return _TRUTHS[value.lower()]
    if _INTEGER.fullmatch(value):
        return _integer(value, key="")
    is_endless = _ENDLESS.fullmatch(value) and "." in value
    return float(value.replace(".", "")) if is_endless else _decimal(value)


def _decimal(value: str) -> object:
    return float(value) if _FLOAT.fullmatch(value) else str(value)
