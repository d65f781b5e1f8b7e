"""Pages of the documentation that are made of the code: public names, commands, settings."""

import html
import inspect
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import ssl_vision
from ssl_vision.commands.recipes import method_settings
from ssl_vision.commands.settings import Setting, settings_of, table_of_classes
from ssl_vision.commands.table import COMMANDS

_TRAIN = "ssl_vision.config:TrainConfig"
# Functions of tensors alone, beside the names of the package itself.
_ROOMS = ("ssl_vision.losses", "ssl_vision.evaluation", "ssl_vision.optim", "ssl_vision.mixing")


def python_page() -> str:
    """Every public name with its signature and docstring."""
    parts = ["# Python", "", "Names of `ssl_vision`, looked up on first use.", ""]
    for name in sorted(ssl_vision.__all__):
        thing = getattr(ssl_vision, name)
        if callable(thing):
            parts += _described(f"ssl_vision.{name}", thing)
    for room in _ROOMS:
        module = import_module(room)
        parts += [f"## `{room}`", "", inspect.getdoc(module) or "", ""]
        for name in getattr(module, "__all__", ()):
            parts += _described(f"{room}.{name}", getattr(module, name), level=3)
    return "\n".join(parts)


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
