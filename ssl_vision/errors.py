"""Errors a user can act on; each ends a command as one line on stderr with its exit code.

Messages name the key or file, the value, what is allowed and the way out.
"""

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches


class SslVisionError(Exception):
    """Base of the errors below.

    Attributes:
        exit_code: Status the command line ends with.
    """

    exit_code = 1


class ConfigError(SslVisionError):
    """A setting cannot be used: unknown key, wrong type, value out of range, contradiction."""

    exit_code = 2


class DataError(SslVisionError):
    """A file or data set cannot be used: missing, empty, unreadable, corrupt."""

    exit_code = 65


class DeviceMemoryError(SslVisionError):
    """The device has too little memory for the batch."""

    exit_code = 70


class CheckpointError(SslVisionError):
    """A checkpoint, export or run folder cannot be read or written."""

    exit_code = 74


class NonFiniteError(SslVisionError):
    """Losses or gradients stayed NaN or infinite beyond what the policy allows."""

    exit_code = 75


class PeerError(SslVisionError):
    """Another process of the run died."""


class SslVisionWarning(UserWarning):
    """Something to know that stops nothing; the command line prints it as one line."""


class Preempted(SslVisionError):
    """A signal stopped the run after a resumable checkpoint was written."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def memory_explained(way_out: str) -> Iterator[None]:
    """Say in one line that memory did not suffice, and which settings to lower.

    Args:
        way_out: "lower a, b or c".

    Raises:
        DeviceMemoryError: Instead of MemoryError, of torch's OutOfMemoryError, and of what NumPy
            and torch say where the system refuses an allocation.
    """
    try:
        yield
    except SslVisionError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or ["no memory"])[0]
        raise DeviceMemoryError(f"out of memory ({first[:160]}); {way_out}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory could not be had, here or on a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error)
    return isinstance(error, RuntimeError | ValueError) and any(
        each in words for each in _MEMORY_WORDS
    )


# Of torch's CPU allocator, of shapes whose bytes overflow 64 bits, and of NumPy's.
_MEMORY_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "array is too big",
    "Maximum allowed dimension exceeded",
    "Maximum allowed size exceeded",
    "invalid size",
)


@contextmanager
def keys_renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Name settings as the caller's user knows them in what a room below says of them.

    Args:
        names: What the message says -> what this command, or this path, calls it.

    Raises:
        DataError: The one raised within, in other words.
        ConfigError: Likewise.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        text = renamed(str(error), names)
        if text == str(error):
            raise
        raise type(error)(text) from error


@contextmanager
def warnings_renamed(names: Mapping[str, str]) -> Iterator[None]:
    """As `keys_renamed`, also of warnings, which come when the block ends."""
    with warnings.catch_warnings(record=True) as told, keys_renamed(names):
        yield
    for each in told:
        warnings.warn(renamed(str(each.message), names), each.category, stacklevel=3)


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A text with each name in the words of `names`."""
    for name, own in names.items():
        text = text.replace(name, own)
    return text


def with_whole_key(message: str, *, section: str, names: Collection[str]) -> str:
    """A message about a setting, which then begins with the setting's key as it is typed.

    Args:
        message: Of the dataclass of a section, which need not know where the section is: it calls
            its setting by the name alone, or from one of the sections above it on.
        section: Whole key, as "data.views.a.blur"; empty at the top.
        names: Settings of the section.
    """
    parts = section.split(".")
    for start in range(len(parts)):
        if section and message.startswith(".".join(parts[start:]) + "."):
            return ".".join([*parts[:start], message])
    first = re.match(r"\w*", message)
    is_own = bool(section) and first is not None and first[0] in names
    return f"{section}.{message}" if is_own else message


def did_you_mean(word: object, known: Iterable[str], *, num: int = 1, cutoff: float = 0.6) -> str:
    """End of a message about a word that is not known: the known words that look like it.

    Args:
        word: As given; anything a file may hold.
        known: What would have been right.
        num: Most words to name.
        cutoff: Least likeness, 0 (anything) to 1 (equal), as `difflib` measures it.

    Returns:
        " Did you mean 'x'?", with a leading space, or nothing where no word is near.
    """
    near = get_close_matches(str(word), list(known), n=num, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def no_weights(text: str) -> str:
    """The message about WEIGHTS that name nothing; also said before torch is imported."""
    return (
        f"weights={text!r} is neither a folder nor zoo:NAME (see ssl-vision zoo list) nor "
        "timm:NAME; a single weight file becomes a folder by ssl-vision zoo convert."
    )
