"""Every setting with its default and meaning, as the dataclasses' own source states them.

Read from the text, not from the imported classes: help must answer in half a second, and importing
a method imports torch. Meanings are the comments behind the fields, which no import would show.
"""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]  # of the package's folder


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: Full key, `data.views.NAME.size_px`.
        kind: Type as written, `int | None`.
        default: Default as written; "???" where a value must be given.
        meaning: The comment behind the field; empty where its name says it all.
    """

    key: str
    kind: str
    default: str
    meaning: str

    @property
    def words(self) -> tuple[str, ...]:
        """The words it allows; none where it takes anything of its kind."""
        if self.kind == "bool":
            return ("true", "false")
        kind = self.kind.removesuffix(" | None")
        if not kind.startswith("Literal["):
            return ()
        return tuple(w.strip() for w in kind.removeprefix("Literal[").rstrip("]").split(","))


@dataclass(frozen=True)
class _Class:
    module: str
    node: ast.ClassDef


EVAL_CONFIG = "ssl_vision.config:EvalConfig"
_EVAL_DATA = "ssl_vision.data.modalities:AnyEvalData"  # of all modalities; the weights choose one


def settings_of(place: str, chosen: Mapping[str, str] | None = None) -> list[Setting]:
    """Settings of a dataclass, and of the dataclasses in it; an evaluation's with its tasks'.

    Args:
        place: `module:Class`.
        chosen: Key -> `module:Class` for parts whose class depends on another setting.

    Raises:
        KeyError: There is no such class.
    """
    module, _, name = place.partition(":")
    if place == EVAL_CONFIG:
        chosen = {"data": _EVAL_DATA, **(chosen or {})}
    found = list(_settings(_find(module, name), "", chosen or {}))
    if place == EVAL_CONFIG:
        for section, kind in sections_of_tasks().items():
            inner_module, _, inner = kind.partition(":")
            found += _settings(_find(inner_module, inner), f"{section}.", {})
    return found


def table_of_classes(module: str, table: str, argument: int = 0) -> dict[str, str]:
    """Classes that a table of records names: `METHODS` of `ssl_vision.methods` -> name to config.

    Args:
        module: Where the table is.
        table: Its name: a dictionary whose values are calls.
        argument: Which argument of the call is the class.

    Returns:
        Key -> `module:Class`.
    """
    for node in _parse(module).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == table:
            assert isinstance(node, ast.AnnAssign)
            assert isinstance(node.value, ast.Dict)
            return dict(_rows(node.value, module, argument))
    raise KeyError(f"{module}.{table}")


def sections_of_tasks() -> dict[str, str]:
    """Sections that the tasks of an evaluation own: name -> `module:Class`."""
    found: dict[str, str] = {}
    for node in _parse("ssl_vision.tasks").body:
        if isinstance(node, ast.ImportFrom) and node.module == "ssl_vision.tasks":
            for alias in node.names:
                found |= dict(_sections(f"ssl_vision.tasks.{alias.name}"))
    return found


def _sections(module: str) -> Iterator[tuple[str, str]]:
    """Sections of one task's file: `TASK = Task(..., settings={"knn": KnnConfig})`."""
    for node in _parse(module).body:
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "TASK":
            continue
        assert isinstance(node.value, ast.Call)
        for keyword in node.value.keywords:
            if keyword.arg == "settings" and isinstance(keyword.value, ast.Dict):
                for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                    assert isinstance(key, ast.Constant)
                    assert isinstance(value, ast.Name)
                    yield str(key.value), _place(module, value.id)


def _place(module: str, name: str) -> str:
    found = _find(module, name)
    return f"{found.module}:{found.node.name}"


def _rows(table: ast.Dict, module: str, argument: int) -> Iterator[tuple[str, str]]:
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant)
        assert isinstance(value, ast.Call)
        named = value.args[argument]
        assert isinstance(named, ast.Name)
        yield str(key.value), _place(module, named.id)


def _settings(found: _Class, prefix: str, chosen: Mapping[str, str]) -> Iterator[Setting]:
    for module, node in _fields(found).values():
        assert isinstance(node.target, ast.Name)
        key = f"{prefix}{node.target.id}"
        inner, many = _inner(module, node.annotation)
        if key in chosen:
            inner_module, _, name = chosen[key].partition(":")
            inner, many = _find(inner_module, name), False
        if inner is None:
            yield _setting(key, module, node)
        else:
            yield from _settings(inner, f"{key}.NAME." if many else f"{key}.", chosen)


def _setting(key: str, module: str, node: ast.AnnAssign) -> Setting:
    return Setting(
        key=key,
        kind=ast.unparse(node.annotation).replace("'", ""),
        default=_default(node.value),
        meaning=_comments(module).get(node.end_lineno or node.lineno, ""),
    )


def _default(value: ast.expr | None) -> str:
    if value is None or (isinstance(value, ast.Name) and value.id == "MISSING"):
        return "???"
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        factory = next((k.value for k in value.keywords if k.arg == "default_factory"), None)
        if isinstance(factory, ast.Lambda):
            return ast.unparse(factory.body)
        return {"dict": "{}", "list": "[]"}.get(ast.unparse(factory) if factory else "", "")
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return {"None": "null", "True": "true", "False": "false"}.get(
        ast.unparse(value), ast.unparse(value)
    )


def _fields(found: _Class) -> dict[str, tuple[str, ast.AnnAssign]]:
    """Annotated fields in the order of the dataclass: bases first, overridden in place."""
    fields: dict[str, tuple[str, ast.AnnAssign]] = {}
    for base in found.node.bases:
        parent = _resolve(found.module, base.id) if isinstance(base, ast.Name) else None
        if parent is not None:
            fields |= _fields(parent)
    for node in found.node.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if not ast.unparse(node.annotation).startswith("ClassVar"):
            fields[node.target.id] = (found.module, node)
    return fields


def _inner(module: str, annotation: ast.expr) -> tuple[_Class | None, bool]:
    """The dataclass an annotation holds, and whether it holds several by name."""
    if isinstance(annotation, ast.BinOp):  # `Config | None`
        return _inner(module, annotation.left)
    if isinstance(annotation, ast.Subscript):
        if ast.unparse(annotation.value) == "dict" and isinstance(annotation.slice, ast.Tuple):
            return _inner(module, annotation.slice.elts[1])[0], True
        return None, False
    if not isinstance(annotation, ast.Name):
        return None, False
    found = _resolve(module, annotation.id)
    is_record = found is not None and any(
        "dataclass" in ast.unparse(each) for each in found.node.decorator_list
    )
    return (found if is_record else None), False


def _find(module: str, name: str) -> _Class:
    found = _resolve(module, name)
    if found is None:
        raise KeyError(f"{module}:{name}")
    return found


def _resolve(module: str, name: str) -> _Class | None:
    """The class behind a name in a module of this package, through its imports."""
    for node in _parse(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _Class(module, node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssl_vision"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _resolve(str(node.module), alias.name)
    return None


@cache
def _source(module: str) -> str:
    path = _ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


@cache
def _parse(module: str) -> ast.Module:
    return ast.parse(_source(module))


@cache
def _comments(module: str) -> dict[int, str]:
    """Trailing comments by line; a comment that goes on in lines of its own is joined."""
    comments: dict[int, str] = {}
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(_source(module)).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, column = token.start
        text = token.string.lstrip("# ")
        is_alone = not token.line[:column].strip()
        if not is_alone:
            comments[row], last = text, row
        elif last in comments and row == last + 1 + _joined(comments[last]):
            comments[last] += f"\n{text}"
    return {row: text.replace("\n", " ") for row, text in comments.items()}


def _joined(text: str) -> int:
    return text.count("\n")
