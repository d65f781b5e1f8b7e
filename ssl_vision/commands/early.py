"""What a command can refuse before it imports torch, which takes seconds: paths that are not there.

Texts are those of the places that would refuse later, and whatever is not certain is left to them.
"""

from collections.abc import Sequence
from pathlib import Path

from ssl_vision.commands.arguments import Arguments, parse
from ssl_vision.data.names import IMAGE_SETS, no_images_at
from ssl_vision.errors import ConfigError, DataError, no_weights
from ssl_vision.layers import last_given, read_layers
from ssl_vision.recipes import find_recipe

OF_OTHER_DATA = ("croco", "point_cmae", "point_mae")  # methods whose data are no single images
# Command -> least words; its first word is WEIGHTS.
_OF_WEIGHTS = {
    "evaluate": 1,
    "embed": 2,
    "export": 2,
    "predict": 3,
    "visualize": 3,
    "search": 2,
    "duplicates": 3,
}


def refuse_early(command: str, arguments: Sequence[str]) -> None:
    """Refuse paths that do not exist, where the command would.

    Raises:
        ConfigError: No such recipe or weights.
        DataError: No such images.
    """
    given = parse(command, arguments, num_words=(0, None))
    if command in ("train", "quickstart") and given.words:
        _of_recipe(given)
    if len(given.words) >= _OF_WEIGHTS.get(command, len(given.words) + 1):
        _of_weights(command, given)


def _of_recipe(given: Arguments) -> None:
    is_auto = given.words == ("auto",)
    recipes = [] if is_auto else [find_recipe(word) for word in given.words]
    layers = read_layers(recipes, given.overrides)
    path, method = last_given(layers, "data", "path"), last_given(layers, "method", "name")
    if path is not None and str(method) not in OF_OTHER_DATA:
        _check_images(str(path), what="data path")


def _of_weights(command: str, given: Arguments) -> None:
    words = [word for word in given.words if not word.endswith((".yaml", ".yml"))]
    if command == "evaluate" and len(words) != 1:  # of several weights the others are evaluated
        return
    if ":" not in words[0] and not Path(words[0]).expanduser().exists():
        raise ConfigError(no_weights(words[0]))
    # Wrong settings and a wrong last word are told first, by the command.
    is_plain = not given.overrides and words[-1].lower().endswith(".csv")
    if command in ("predict", "duplicates") and is_plain:
        for image in words[1:-1]:
            _check_images(image, what="IMAGES")


def _check_images(path: str, *, what: str) -> None:
    if path in IMAGE_SETS or path in ("", "???", "-") or Path(path).expanduser().exists():
        return
    raise DataError(no_images_at(str(Path(path).expanduser()), what=what))
