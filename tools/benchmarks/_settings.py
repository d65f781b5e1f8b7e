"""Settings of a benchmark from the words of its command line."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any


def read_settings(arguments: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, replaced where `key=value` is given, each of its default's type.

    Raises:
        SystemExit: Unknown key, no value, or one of another type; with status 2, after one line.
    """
    settings = dict(defaults)
    for argument in arguments:
        key, separator, value = argument.partition("=")
        try:
            if key not in defaults or not separator:
                raise ValueError(f"give key=value; keys are {', '.join(defaults)}")
            settings[key] = type(defaults[key])(value)
        except ValueError as error:
            print(f"{argument!r}: {error}", file=sys.stderr)
            raise SystemExit(2) from None
    return settings
