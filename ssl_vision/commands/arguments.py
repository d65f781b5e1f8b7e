"""What a command was given: words, and `key=value` settings of a dataclass."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from ssl_vision.commands.table import COMMANDS
from ssl_vision.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Settings = TypeVar("_Settings", bound="DataclassInstance")
# What precedes the first `=` of a setting. zoo:name?size_px=96 and runs/lr=0.1 are words: their
# `=` comes after characters that no key has.
_SETTING = re.compile(r"[A-Za-z_][\w.]*=")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of a command.

    Attributes:
        words: In order.
        overrides: `key=value`, as typed.
    """

    words: tuple[str, ...]
    overrides: tuple[str, ...]

    def settings(self, kind: type[_Settings]) -> _Settings:
        """All settings, as the dataclass wants them.

        Raises:
            ConfigError: An unknown or repeated key, or a value of another kind.
        """
        from ssl_vision.config import load_settings  # imports torch, which `doctor` must not

        keys = [override.partition("=")[0] for override in self.overrides]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{key} is given twice.")
        return load_settings(kind, self.overrides)

    def take(self, kind: type[_Settings]) -> tuple[_Settings, tuple[str, ...]]:
        """The settings that a dataclass has, and what is left of `overrides` for another.

        Raises:
            ConfigError: As of `settings`.
        """
        own = {field.name for field in fields(kind)}
        mine = tuple(o for o in self.overrides if o.partition("=")[0] in own)
        rest = tuple(o for o in self.overrides if o not in mine)
        return Arguments(words=(), overrides=mine).settings(kind), rest

    @property
    def given(self) -> frozenset[str]:
        """Keys that were given."""
        return frozenset(override.partition("=")[0] for override in self.overrides)


def parse(
    command: str,
    arguments: Sequence[str],
    *,
    num_words: tuple[int, int | None],
    usages: Mapping[str, str] | None = None,
) -> Arguments:
    """Tell words from settings, and count the words.

    Args:
        command: Its name, for the message.
        arguments: As typed.
        num_words: Least and most words; None where there is no most.
        usages: Usage by command; of the table of commands by default.

    Raises:
        ConfigError: A dashed option, or another number of words.
    """
    words: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            key = argument.lstrip("-").split("=")[0]
            raise ConfigError(
                f"{argument!r}: settings are given as key=value, without dashes (for example "
                f"{key.replace('-', '_')}=...); ssl-vision {command.split()[0]} --help lists them."
            )
        (overrides if _SETTING.match(argument) else words).append(argument)
    low, high = num_words
    if len(words) < low or (high is not None and len(words) > high):
        usage = usages[command] if usages is not None else f"{command} {COMMANDS[command].words}"
        raise ConfigError(f"usage: ssl-vision {usage.strip()}; got {len(words)} word(s).")
    return Arguments(words=tuple(words), overrides=tuple(overrides))
