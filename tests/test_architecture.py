import ast
import re
import subprocess
import sys
from pathlib import Path

from ssl_vision.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssl_vision"


def test_every_module_is_tested_at_the_mirrored_path_or_by_name() -> None:
    modules = [p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"]
    assert len(modules) > 10
    texts = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    untested = []
    for module in modules:
        relative = module.relative_to(PACKAGE)
        mirrored = (ROOT / "tests" / relative.parent).glob(f"test_{module.stem}*")
        name = ".".join(("ssl_vision", *relative.with_suffix("").parts))
        # Tasks are run one by one, by their table, in tests/tasks/test_evaluate.py.
        is_task = relative.parent.name == "tasks" and module.stem in TASKS
        is_named = re.search(rf"{re.escape(name)}\b", texts)
        if not (list(mirrored) or is_named or is_task or _has_no_code(module)):
            untested.append(str(relative))
    assert not untested, "\n".join(untested)


def _has_no_code(module: Path) -> bool:
    """Records only: dataclasses without methods, exceptions."""
    body = ast.parse(module.read_text()).body
    return not any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.Module(body, [])))


def test_importing_the_package_imports_nothing_heavy_and_changes_no_thread_counts() -> None:
    code = (
        "import sys, ssl_vision; "
        "heavy = {'torch', 'lightning', 'timm', 'ffcv', 'faiss', 'numba'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_tools_are_thin_doors() -> None:
    tools = sorted((ROOT / "tools").glob("*.py"))
    assert tools
    for tool in tools:
        assert len(tool.read_text().splitlines()) <= 80, f"{tool.name}: move logic into commands/"


def test_public_rooms_are_reachable_from_the_package_alone() -> None:
    code = (
        "import ssl_vision as s; "
        "s.losses.barlow_twins_loss, s.losses.masked_patch_loss, s.losses.dino_loss; "
        "s.losses.chamfer_distance, s.optim.LARS, s.evaluation.knn_classify, s.evaluation.rankme; "
        "s.backbones.elastic.sizes, s.backbones.elastic.forward, s.backbones.elastic.extract; "
        "assert all(map(callable, (s.evaluation.linear_probe, s.train, s.evaluate))); "
        "assert callable(s.load_backbone)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
