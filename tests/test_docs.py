"""The documentation: links lead somewhere, commands are commands, names are names."""

import ast
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import ssl_vision
from ssl_vision.commands.arguments import parse
from ssl_vision.commands.reference import PAGES
from ssl_vision.commands.settings import EVAL_CONFIG, settings_of
from ssl_vision.commands.table import COMMANDS
from ssl_vision.config import load_train_config
from ssl_vision.recipes import find_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES_AND_README = [*DOCS, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
NUM_WORDS = re.compile(r"RECIPE|WEIGHTS|SOURCE|RUN")


def blocks(path: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def commands() -> list[tuple[str, str]]:
    found = []
    for path in DOCS:
        for block in blocks(path, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(path.name, each) for each in lines if each.startswith("ssl-vision ")]
    return found


@pytest.mark.parametrize("path", PAGES_AND_README, ids=lambda path: path.name)
def test_links_lead_to_files_that_are_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http", "#", "mailto:")):
            continue
        file = target.partition("#")[0]
        assert (path.parent / file).exists() or file in PAGES, f"{path.name}: {target}"


def test_every_page_is_in_the_menu() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    for name in [*(path.name for path in DOCS), *PAGES]:
        assert f": {name}\n" in text, name


def test_there_are_commands() -> None:
    assert len(commands()) > 30
    assert len({line.split()[1] for _, line in commands()}) > 10


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_taken_by_their_parsers(page: str, line: str) -> None:
    _, name, *arguments = shlex.split(line)
    assert name in COMMANDS
    given = parse(name, arguments, num_words=(0, None))
    if name == "train" and given.words != ("auto",):
        own = [o for o in given.overrides if not o.endswith("=auto")]
        config = load_train_config([find_recipe(word) for word in given.words], own)
        assert config.method.name
        given_keys = {o.partition("=")[0] for o in given.overrides} - {
            o.partition("=")[0] for o in own
        }
        assert given_keys <= {"trainer.epochs", "data.mean", "data.std"}
        return
    place = COMMANDS[name].settings
    known = {s.key for s in settings_of(place)} if place else set()
    if name in ("embed", "search", "train"):
        known |= {s.key for s in settings_of(EVAL_CONFIG)} | {"run_dir"}
    if name == "extract":
        known |= {"list", "all", "size", "max_params"}
    unknown = {o.partition("=")[0] for o in given.overrides} - known
    assert not unknown, f"{page}: {line}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_uses_names_and_arguments_that_exist(path: Path) -> None:
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if not re.fullmatch(r"ssl_vision(\.\w+)+", name):
                continue
            thing: object = ssl_vision
            for part in name.split(".")[1:]:
                thing = getattr(thing, part)
            assert callable(thing)
            keywords = {k.arg: None for k in node.keywords if k.arg}
            inspect.signature(thing).bind(*node.args, **keywords)


def test_every_public_name_and_setting_is_in_the_reference() -> None:
    made = {name: page() for name, page in PAGES.items()}
    for name in ssl_vision.__all__:
        if callable(getattr(ssl_vision, name)):
            assert f"`ssl_vision.{name}`" in made["reference_python.md"]
    settings = made["reference_settings.md"]
    for name in COMMANDS:
        assert f"## ssl-vision {name}\n" in settings
    for key in ("trainer.epochs", "data.views.NAME.size_px", "method.num_prototypes"):
        assert f"| `{key}` |" in settings


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed")
def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["strict"] is True
    words = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/reference_settings.html").exists()
