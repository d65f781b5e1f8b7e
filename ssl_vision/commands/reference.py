"""Pages of the documentation that are made of the code: public names, commands, settings."""

import html
import inspect
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import ssl_vision
from ssl_vision.commands.recipes import method_settings
from ssl_vision.commands.settings import Setting, settings_of, table_of_classes
from ssl_vision.commands.table import COMMANDS

_TRAIN = "ssl_vision.config:TrainConfig"


def python_page() -> str:
    """Every public name with its signature and docstring."""
    parts = ["# Python", "", "Names of `ssl_vision`, looked up on first use.", ""]
    for name in sorted(ssl_vision.__all__):
        thing = getattr(ssl_vision, name)
        if callable(thing):
            parts += _described(f"ssl_vision.{name}", thing)
    for name, room in _rooms("ssl_vision", ssl_vision):
        parts += [f"## `{name}`", "", inspect.getdoc(room) or "", ""]
        for own in names_of(room):
            parts += _described(f"{name}.{own}", getattr(room, own), level=3)
    return "\n".join(parts)


def _rooms(name: str, module: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    """The modules that a module names, and theirs."""
    for each in sorted(getattr(module, "__all__", ())):
        room = getattr(module, each)
        if inspect.ismodule(room):
            yield f"{name}.{each}", room
            yield from _rooms(f"{name}.{each}", room)


def names_of(room: ModuleType) -> list[str]:
    """Public functions and classes of a room: what it names, else what it defines."""
    named = getattr(room, "__all__", None)
    found = sorted(vars(room)) if named is None else sorted(named)
    things = {name: getattr(room, name) for name in found if not name.startswith("_")}
    return [
        name
        for name, thing in things.items()
        if inspect.isroutine(thing) or inspect.isclass(thing)
        if named is not None or thing.__module__ == room.__name__
    ]


def settings_page() -> str:
    """Every command, and every setting with its default and meaning."""
    parts = ["# Commands and settings", "", "Settings are `key=value`.", ""]
    for name, command in COMMANDS.items():
        parts += [
            f"## ssl-vision {name}",
            "",
            f"{command.summary[0].upper()}{command.summary[1:]}.",
        ]
        parts += ["", "```text", f"ssl-vision {name} {command.words}".rstrip(), "```", ""]
        parts += [f"- `{word}`: {meaning}" for word, meaning in command.meanings.items()] + [""]
        if command.settings == _TRAIN:
            parts += ["See [settings of a run](#settings-of-a-run).", ""]
        elif command.settings is not None:
            parts += _table(settings_of(command.settings))
    parts += ["## Settings of a run", ""]
    methods = list(table_of_classes("ssl_vision.methods", "METHODS"))
    common = [s for s in settings_of(_TRAIN) if not s.key.startswith(("method", "data"))]
    parts += _table(common)
    for method in methods:
        own = settings_of(_TRAIN, method_settings(method))
        parts += [f"### {method}", ""]
        parts += _table([s for s in own if s.key.startswith(("method.", "data."))])
    return "\n".join(parts)


def _described(name: str, thing: object, *, level: int = 2) -> Iterator[str]:
    try:
        signature = str(inspect.signature(thing)) if callable(thing) else ""
    except ValueError:
        signature = ""
    yield from (f"{'#' * level} `{name}`", "", "```text", f"{name}{signature}", "")
    yield from ((inspect.getdoc(thing) or "").replace("```", "'''"), "```", "")
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            if key.startswith("_") or not callable(getattr(thing, key, None)):
                continue
            function = getattr(member, "__func__", member)
            yield from _described(f"{name}.{key}", function, level=level + 1)


def _table(settings: Sequence[Setting]) -> list[str]:
    rows = [
        f"| `{s.key}` | `{_cell(s.default) or ' '}` | {_cell(s.kind)} | {_cell(s.meaning)} |"
        for s in settings
    ]
    return ["| setting | default | kind | meaning |", "|---|---|---|---|", *rows, ""]


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "reference_python.md": python_page,
    "reference_settings.md": settings_page,
}
