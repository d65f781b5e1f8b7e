"""What is missing is named with the line that brings it."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_vision.commands import doctor as doctor
from ssl_vision.commands.doctor import Finding, diagnose, remedies
from ssl_vision.commands.main import main


@pytest.fixture(autouse=True)
def _no_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_import_problem", lambda module: None)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`hide("faiss")` makes a module look uninstalled."""
    find_spec = importlib.util.find_spec

    def hide_modules(*names: str) -> None:
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda n, *a: None if n in names else find_spec(n, *a)
        )

    return hide_modules


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_everything_required_is_here_while_tests_run(capsys: pytest.CaptureFixture[str]) -> None:
    findings = by_name(diagnose())
    for name in ("torch", "lightning", "timm", "omegaconf", "safetensors"):
        assert findings[name].state == "ok"
        assert findings[name].is_required
        assert findings[name].detail[0].isdigit()
    assert main(["doctor"]) == 0
    assert "safetensors" in capsys.readouterr().out


def test_optional_things_are_missing_with_their_extra(
    hide: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hide("faiss", "ffcv", "mlxtend", "matplotlib")
    findings = by_name(diagnose())
    assert findings["faiss-cpu"].state == findings["ffcv"].state == "missing"
    line = next(text for text in remedies(findings.values()) if text.startswith("Python"))
    assert "install faiss-cpu -e '" in line
    assert "[demo,ffcv" in line
    assert main(["doctor"]) == 0


def test_a_required_thing_missing_is_a_failure(hide: Any) -> None:
    hide("timm")
    assert main(["doctor"]) == 1


def test_what_only_gpus_use_is_not_missed_without_one(
    hide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("xformers")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert by_name(diagnose())["xformers"].state == "note"


def test_system_packages_are_named_for_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(doctor, "_is_root", lambda: False)
    lines = remedies(diagnose())
    expected = "sudo apt-get install g++ libopencv-dev libturbojpeg0-dev pkg-config"
    assert f"system packages: {expected}" in lines


def test_a_package_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "ImportError: libopencv_core.so: cannot open shared object file"
    monkeypatch.setattr(doctor, "_import_problem", lambda module: problem)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: object())
    ffcv = by_name(diagnose())["ffcv"]
    assert ffcv.state == "broken"
    assert "libopencv_core.so" in ffcv.detail


def test_problems_of_importing_are_found_in_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert doctor._import_problem("json") is None
    assert "no_such_module" in str(doctor._import_problem("no_such_module"))

    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(subprocess, "run", hang)
    assert "two minutes" in str(doctor._import_problem("json"))


def test_nothing_missing_says_so() -> None:
    assert remedies([Finding(name="a", state="ok", detail="")]) == ["nothing is missing."]


def test_works_where_torch_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n in ('torch', 'ffcv') else find(n, *a); "
        "from ssl_vision.commands.main import main; sys.exit(main(['doctor']))"
    )
    root = Path(__file__).resolve().parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert finished.returncode == 1, finished.stderr
    assert "pip install torch" in finished.stdout
