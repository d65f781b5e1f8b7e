"""What `ssl-vision COMMAND --help` prints: usage, words, examples, and every setting."""

from collections.abc import Mapping, Sequence

import click
import yaml

from ssl_vision.commands.recipes import method_settings
from ssl_vision.commands.settings import Setting, settings_of
from ssl_vision.commands.table import COMMANDS, Command
from ssl_vision.errors import ConfigError
from ssl_vision.recipes import find_recipe

_WIDTH = 100


def command_help(name: str, arguments: Sequence[str] = ()) -> str:
    """Help of a command.

    Args:
        name: Of the command.
        arguments: What else was typed: a recipe or `method.name=` says which method's settings
            are wanted.
    """
    command = COMMANDS[name]
    if arguments and (part := command.parts.get(arguments[0])):
        command, name = part, f"{name} {arguments[0]}"
    formatter = click.HelpFormatter(max_width=_WIDTH)
    formatter.write_usage(f"ssl-vision {name}", command.words)
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(f"{command.summary[0].upper()}{command.summary[1:]}.")
    if command.meanings:
        with formatter.section("Words"):
            formatter.write_dl(list(command.meanings.items()))
    if command.examples:
        with formatter.section("Examples"):
            for example in command.examples:
                formatter.write(f"  {example}\n")
    if command.parts:
        with formatter.section("Sub-commands"):
            rows = [(f"{n} {part.words}", part.summary) for n, part in command.parts.items()]
            formatter.write_dl(rows, col_max=44)
    for title, settings in _settings(command, arguments):
        with formatter.section(title):
            formatter.write_dl([(_with_default(s), _meaning(s)) for s in settings])
    return formatter.getvalue().rstrip()


def _settings(command: Command, arguments: Sequence[str]) -> list[tuple[str, list[Setting]]]:
    """Sections of settings, by the first part of their keys."""
    if command.settings is None:
        return []
    chosen = _chosen(command, arguments)
    found = settings_of(command.settings, chosen)
    of_key = {setting.key: setting for setting in found}
    first = [of_key[key] for key in command.first if key in of_key]
    sections: dict[str, list[Setting]] = {"Settings most runs set": first} if first else {}
    # Those without a section come before the sections: last, they looked like one of them.
    sections["Further settings" if first else "Settings"] = []
    for setting in found:
        head, dot, _ = setting.key.partition(".")
        title = f"Settings: {head}" if dot else "Further settings" if first else "Settings"
        if setting not in first:
            sections.setdefault(title, []).append(setting)
    return [(title, settings) for title, settings in sections.items() if settings]


def _with_default(setting: Setting) -> str:
    return f"{setting.key}={'' if setting.default == '???' else setting.default}"


def _chosen(command: Command, arguments: Sequence[str]) -> Mapping[str, str]:
    """Classes of the parts that depend on the method; none where no method is named."""
    if command.settings != "ssl_vision.config:TrainConfig":
        return {}
    name = None
    for argument in arguments:
        if argument.startswith("method.name="):
            name = argument.partition("=")[2]
        elif "=" not in argument:
            name = _method_of(argument) or name
    return {} if name is None else method_settings(name)


def _method_of(recipe: str) -> str | None:
    path = find_recipe(recipe)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe.") from error
    method = content.get("method") if isinstance(content, dict) else None
    return str(method["name"]) if isinstance(method, dict) and "name" in method else None


def _meaning(setting: Setting) -> str:
    """Meaning, and the allowed words where there are only some."""
    words = "|".join(setting.words)
    shown = words if words and setting.kind != "bool" else setting.kind
    if setting.default == "???":
        of_recipe = "; recipes give it" if setting.key == "method.name" else ""
        shown = f"{shown}, required{of_recipe}"
    return f"{setting.meaning} ({shown})" if setting.meaning else f"({shown})"
