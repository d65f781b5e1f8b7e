"""Shell completion: recipes by name, keys of settings, words a setting allows; else files."""

from collections.abc import Iterator, Sequence

from click.shell_completion import CompletionItem

from ssl_vision.commands.settings import Setting, settings_of, table_of_classes
from ssl_vision.commands.table import COMMANDS
from ssl_vision.recipes import recipe_names

_RECIPES = ("train", "quickstart", "recipes")


def complete(command: str, incomplete: str, before: Sequence[str] = ()) -> list[CompletionItem]:
    """What a word of a command may become.

    Args:
        command: Name of the command.
        incomplete: The word as far as it is typed.
        before: Words before it. To bash `key=value` is three, of which the last is completed.
    """
    if (key := _key_before(command, incomplete, before)) is not None:
        found = [word for word in _words(command, key) if word.startswith(incomplete)]
        return [CompletionItem(word) for word in found] or [CompletionItem(incomplete, type="file")]
    key, equals, value = incomplete.partition("=")
    if equals:
        return [CompletionItem(f"{key}={w}") for w in _words(command, key) if w.startswith(value)]
    found = [name for name in _names(command) if name.startswith(incomplete)]
    items = [CompletionItem(name) for name in dict.fromkeys(found)]
    return items or [CompletionItem(incomplete, type="file")]


def _key_before(command: str, incomplete: str, before: Sequence[str]) -> str | None:
    """The key whose value is completed, where a shell has cut it off."""
    if len(before) > 1 and before[-1] == "=":
        return before[-2]
    if before and not incomplete and before[-1] in {s.key for s in _settings(command)}:
        return before[-1]  # click takes a lone = for nothing typed
    return None


def _names(command: str) -> Iterator[str]:
    if command == "train":
        yield "auto"
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
