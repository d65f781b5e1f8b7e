"""Shell completion: recipes by name, keys of settings, words a setting allows; else files."""

from collections.abc import Iterator

from click.shell_completion import CompletionItem

from ssl_vision.commands.settings import Setting, settings_of, table_of_classes
from ssl_vision.commands.table import COMMANDS
from ssl_vision.recipes import recipe_names

_RECIPES = ("train", "quickstart", "recipes")


def complete(command: str, incomplete: str) -> list[CompletionItem]:
    """What a word of a command may become.

    Args:
        command: Name of the command.
        incomplete: The word as far as it is typed.
    """
    key, equals, value = incomplete.partition("=")
    if equals:
        return [CompletionItem(f"{key}={w}") for w in _words(command, key) if w.startswith(value)]
    found = [name for name in _names(command) if name.startswith(incomplete)]
    items = [CompletionItem(name) for name in dict.fromkeys(found)]
    return items or [CompletionItem(incomplete, type="file")]


def _names(command: str) -> Iterator[str]:
    if command in _RECIPES:
        yield from recipe_names()
    for setting in _settings(command):
        yield f"{setting.key}="


def _words(command: str, key: str) -> list[str]:
    """Words a setting allows."""
    found = [word for s in _settings(command) if s.key == key for word in s.words]
    return list(dict.fromkeys(found))


def _settings(command: str) -> Iterator[Setting]:
    """A command's settings; those of all methods where the method is not known."""
    place = COMMANDS[command].settings
    if place is None:
        return
    is_training = place.endswith(":TrainConfig")
    methods = table_of_classes("ssl_vision.methods", "METHODS")
    for chosen in [{"method": each} for each in methods.values()] if is_training else [{}]:
        yield from (s for s in settings_of(place, chosen) if "NAME" not in s.key)
