"""The documentation: links lead somewhere, commands are commands, names are names."""

import ast
import html
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import ssl_vision
from ssl_vision.commands.arguments import parse
from ssl_vision.commands.reference import PAGES
from ssl_vision.commands.settings import EVAL_CONFIG, settings_of
from ssl_vision.commands.table import COMMANDS
from ssl_vision.config import load_train_config
from ssl_vision.recipes import find_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
RUN_PAGES = [*DOCS, ROOT / "README.md"]
PAGES_AND_README = [*RUN_PAGES, ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
# What may stand before our command in a line.
_COMMAND = re.compile(r"^(?:srun .*?|torchrun .*? -m )?(?:ssl-vision|ssl_vision) (.*)$")
_MARK = "<!-- not run:"  # above a block that needs what a test has not, and why


def blocks(path: Path, language: str, *, is_run: bool = False) -> Iterator[str]:
    """Code blocks of a page, or those that are run."""
    found = re.finditer(
        rf"^(<!--.*?-->\n+)?```{language}\n(.*?)^```", path.read_text(), re.M | re.S
    )
    yield from (each[2] for each in found if not (is_run and (each[1] or "").startswith(_MARK)))


def commands() -> list[tuple[str, str]]:
    found = []
    for path in RUN_PAGES:
        for block in blocks(path, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(path.name, each[1]) for each in map(_COMMAND.match, lines) if each]
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
    assert len({line.split()[0] for _, line in commands()}) > 10
    assert any("num_nodes=4" in line for _, line in commands())


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_taken_by_their_parsers(page: str, line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)
    assert name in COMMANDS
    given = parse(name, arguments, num_words=(0, None))
    if name == "train" and given.words != ("auto",):
        recipes = [find_recipe(word) for word in given.words if word != "my_machine.yaml"]
        assert load_train_config(recipes, given.overrides, fill=lambda config, keys: config)
        return
    place = COMMANDS[name].settings
    known = {s.key for s in settings_of(place)} if place else set()
    if name in ("embed", "search", "train"):
        known |= {s.key for s in settings_of(EVAL_CONFIG)} | {"run_dir"}
    if name == "extract":
        known |= {"list", "all", "size", "max_params"}
    unknown = {o.partition("=")[0] for o in given.overrides} - known
    assert not unknown, f"{page}: {line}"


def test_names_of_recipes_are_recipes() -> None:
    methods = "|".join(sorted({name.partition("/")[0] for name in recipe_names()}))
    for path in PAGES_AND_README:
        for name in re.findall(rf"`((?:{methods})/\w+)`", path.read_text()):
            assert name in recipe_names(), f"{path.name}: {name}"


def test_commands_in_the_text_are_commands() -> None:
    for path in PAGES_AND_README:
        for name in re.findall(r"`ssl-vision (\w+)", path.read_text()):
            assert name in COMMANDS or name == "X", f"{path.name}: ssl-vision {name}"


@pytest.mark.parametrize("path", RUN_PAGES, ids=lambda path: path.name)
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
            if any(k.arg is None for k in node.keywords):
                continue  # **settings, which the block's run tells of
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


# Blocks are run on small data, by the tiny recipe of their method, for two updates.
_SHORT = {"data.global_batch_size": 8, "trainer.max_steps": 2, "online_eval.every_epochs": 0}


def shortened(door: Callable[..., Any]) -> Callable[..., Any]:
    def run(recipe: str, **given: Any) -> Any:
        name = recipe if recipe == "auto" else f"{recipe.partition('/')[0]}/tiny_cpu"
        return door(name, **_SHORT | {"is_quiet": True} | given)

    return run


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: photos, classes, runs."""
    folder, random = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        for place in ("photos", f"labelled/{'ab'[number % 2]}"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / place / f"{number}.jpg")
    for name in ("a", "b", "query"):
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    train = shortened(ssl_vision.train)
    runs = folder / "runs"
    first = train("barlow_twins/small", data=folder / "photos", run_dir=runs / "photos")
    train(
        "supervised/small",
        data=folder / "labelled",
        run_dir=runs / "c",
        init_from=str(first.run_dir),
        **{"trainer.max_steps": 1, "method.mixing.name": "none"},
    )
    train("poa/vit_l16_imagenet1k", data="digits", run_dir=runs / "poa")
    train("point_mae/tiny_cpu", run_dir=runs / "clouds")
    train("croco/tiny_cpu", run_dir=runs / "croco")
    return folder


_WITH_PYTHON = [path for path in RUN_PAGES if any(blocks(path, "python"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", _WITH_PYTHON, ids=lambda path: path.name)
def test_python_runs(
    path: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page, one after the other, as a reader would run them."""
    code = list(blocks(path, "python", is_run=True))
    made = re.findall(r'run_dir="(runs/\w+)"', "".join(code))
    shutil.copytree(workspace, tmp_path / "w", ignore=lambda at, names: [
        name for name in names if f"{Path(at).name}/{name}" in made
    ])  # fmt: skip
    monkeypatch.chdir(tmp_path / "w")
    for name in ("train", "start"):
        monkeypatch.setattr(ssl_vision, name, shortened(getattr(ssl_vision, name)))
    names: dict[str, Any] = {"__name__": "page"}
    for block in code:
        exec(compile(block, path.name, "exec"), names)


def test_pages_with_code_are_many_and_marks_have_reasons() -> None:
    assert len(_WITH_PYTHON) >= 7
    for path in RUN_PAGES:
        for reason in re.findall(rf"{_MARK}(.*?)-->", path.read_text()):
            assert len(reason.split()) >= 3, path.name


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="mkdocs is not installed")
def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["strict"] is True
    words = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert (site / "reference_settings.html").exists()
    assert 'href="repository/BENCHMARKS.html"' in (site / "numbers.html").read_text()
    assert (site / "repository/examples/first_steps.ipynb").exists()
    # Every link and picture of every page leads to a file, and to a place in it.
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    assert len(pages) > 15
    for path, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            target, _, place = html.unescape(link).partition("#")
            if re.match(r"[a-z]+:|//|/", target):
                assert not target.startswith("http:")
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{path.name}: {link}"
            if place and file in pages:
                assert f'id="{place}"' in pages[file], f"{path.name}: {link}"


def test_every_extra_for_users_is_in_the_table_of_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = (ROOT / "docs/index.md").read_text()
    of_others = {"dev", "docs", "xformers"}  # for developers; the last is part of gpu
    for name in set(extras["optional-dependencies"]) - of_others:
        assert f"| `ssl-vision[{name}]` |" in told
