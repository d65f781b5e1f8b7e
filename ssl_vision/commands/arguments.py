"""Arguments of the small commands: words, and `key=value` settings with known keys."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssl_vision.errors import ConfigError, did_you_mean

# zoo:name?size_px=96 is a word: its `=` comes after other characters than a key has.
_SETTING = re.compile(r"[a-z_][a-z0-9_.]*=")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What was given: words in order, and settings by key, as text."""

    words: tuple[str, ...]
    settings: Mapping[str, str]

    def number(self, key: str, default: int) -> int:
        """A setting as a whole number.

        Raises:
            ConfigError: It is something else.
        """
        value = self.settings.get(key, str(default))
        if not re.fullmatch(r"-?\d+", value):
            raise ConfigError(f"{key}={value} must be a whole number.")
        return int(value)

    def several(self, key: str) -> tuple[str, ...]:
        """A setting as words separated by commas."""
        return tuple(word for word in self.settings.get(key, "").split(",") if word)


def parse_arguments(
    arguments: Sequence[str], *, usage: str, known: Sequence[str] = (), num_words: tuple[int, int]
) -> Arguments:
    """Split and check the arguments of a command.

    Args:
        arguments: As typed.
        usage: The command's line of help, shown when words are missing.
        known: Keys the command has.
        num_words: Least and most words.

    Raises:
        ConfigError: A dashed option, an unknown or repeated key, or another number of words.
    """
    words: list[str] = []
    settings: dict[str, str] = {}
    for argument in arguments:
        if argument.startswith("-"):
            raise ConfigError(f"{argument!r}: settings are key=value, without dashes; {usage}")
        if not _SETTING.match(argument):
            words.append(argument)
            continue
        key, _, value = argument.partition("=")
        if key not in known:
            raise ConfigError(
                f"{key} is not a setting here; known are {', '.join(known) or 'none'}."
                f"{did_you_mean(key, known)}"
            )
        if key in settings:
            raise ConfigError(f"{key} is given twice.")
        settings[key] = value
    low, high = num_words
    if not low <= len(words) <= high:
        raise ConfigError(f"usage: {usage}")
    return Arguments(words=tuple(words), settings=settings)
