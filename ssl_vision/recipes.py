"""The recipes that come with the package, by name: `dino/tiny_cpu`."""

from pathlib import Path

from ssl_vision.errors import ConfigError, did_you_mean
from ssl_vision.files import shipped_folder


def recipes_folder() -> Path:
    """Where the recipes are."""
    return shipped_folder("configs")


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    folder = recipes_folder()
    found = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return sorted(path.with_suffix("").as_posix() for path in found)


def find_recipe(name: str) -> Path:
    """File of a recipe: an own file by its path, or one of ours by its name.

    A file of that path comes first, so that an own recipe is never taken for one of ours.

    Raises:
        ConfigError: There is neither; the message has the nearest names.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    names = recipe_names()
    if name in names:
        return recipes_folder() / f"{name}.yaml"
    of_method = [each for each in names if each.split("/")[0] == name]
    hint = f" Of {name}: {', '.join(of_method)}." if of_method else did_you_mean(name, names, num=3)
    raise ConfigError(
        f"{name!r} is neither a .yaml file nor a recipe; ssl-vision recipes lists those there "
        f"are.{hint}"
    )
