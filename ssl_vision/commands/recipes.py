"""The `recipes` command, and recipes by name."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import yaml

from ssl_vision.commands.settings import settings_of, table_of_classes
from ssl_vision.errors import ConfigError
from ssl_vision.recipes import find_recipe, recipe_names, recipes_folder


def run_recipes(arguments: Sequence[str]) -> int:
    """`recipes [RECIPE]`: the list, or one with every setting."""
    if len(arguments) > 1:
        raise ConfigError("recipes takes the name of one recipe, or nothing for the list.")
    click.echo(_one(arguments[0]) if arguments else _list())
    return 0


def headline(path: Path) -> str:
    """First sentence of a recipe's header, without its reference in brackets."""
    text = re.sub(r"\s*\([^)]*\)", "", " ".join(header(path)))
    return text.split(". ")[0].rstrip(".")


def header(path: Path) -> list[str]:
    """Lines of the comment a recipe begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return lines


def method_settings(name: str) -> dict[str, str]:
    """Which class describes the parts of a recipe that depend on its method."""
    table = table_of_classes("ssl_vision.methods", "METHODS")
    if name not in table:
        raise ConfigError(f"method.name={name!r} is unknown; choose one of {', '.join(table)}.")
    data = table_of_classes("ssl_vision.methods", "METHODS", argument=2)
    return {"method": table[name], "data": data[name]}


def _list() -> str:
    formatter = click.HelpFormatter(max_width=100)
    rows = [(name, headline(recipes_folder() / f"{name}.yaml")) for name in recipe_names()]
    with formatter.section("Recipes"):
        formatter.write_dl(rows)
    formatter.write_paragraph()
    formatter.write_text("ssl-vision train NAME data.path=DIR; ssl-vision recipes NAME for more")
    return formatter.getvalue().rstrip()


def _one(name: str) -> str:
    path = find_recipe(name)
    given = dict(_flat(yaml.safe_load(path.read_text(encoding="utf-8")), ""))
    formatter = click.HelpFormatter(max_width=100)
    formatter.write("\n".join(header(path)) + "\n")
    described = settings_of("ssl_vision.config:TrainConfig", method_settings(given["method.name"]))
    with formatter.section("Settings of the recipe"):
        meanings = {s.key: s.meaning for s in described}
        formatter.write_dl([(f"{k}={v}", meanings.get(_plain(k), "")) for k, v in given.items()])
    with formatter.section("Defaults of all others"):
        named = {_plain(key) for key in given}
        left = [s for s in described if s.key not in named]
        formatter.write_dl([(f"{s.key}={s.default}", s.meaning) for s in left])
    return formatter.getvalue().rstrip()


def _plain(key: str) -> str:
    """`data.views.global_1.size_px` as the settings' table has it: `data.views.NAME.size_px`."""
    parts = key.split(".")
    if len(parts) > 2 and parts[:2] == ["data", "views"]:
        parts[2] = "NAME"
    return ".".join(parts)


def _flat(content: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif content is None:
        yield prefix, "null"
    elif isinstance(content, bool):
        yield prefix, str(content).lower()
    else:
        yield prefix, str(content)
