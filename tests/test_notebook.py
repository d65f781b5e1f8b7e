"""A notebook in a real kernel: the example runs, bars are drawn, the stop button stops."""

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("nbclient", "ipykernel", "ipywidgets"))),
        reason="nbclient, ipykernel or ipywidgets is not installed",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel runs, with this package on its path and files of Jupyter beside it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def _texts(cell: Any) -> str:
    """All that a cell shows as text or HTML."""
    parts = [each.get("text", "") for each in cell.outputs]
    for output in cell.outputs:
        data = output.get("data", {})
        parts += [data.get(kind, "") for kind in ("text/plain", "text/html")]
    return "\n".join(parts)


def test_the_example_runs(folder: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "first_steps.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)  # kept without outputs
    cells[0].source = cells[0].source.replace("10}", '2, "trainer.max_steps": 12}')
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    first, started, stopped, finished = cells[1:5]
    assert "trainable parameters" in _texts(first)  # the table of what will happen
    widgets = [each for each in first.outputs if "application/vnd.jupyter.widget-view+json" in
               each.get("data", {})]  # fmt: skip
    assert widgets, "no bar was drawn"
    assert "runs/notebook/second: running" in _texts(started)
    assert "runs/notebook/second: stopped, update 1 of 12" in _texts(stopped)
    assert "(12," in _texts(finished)
    assert "(1497, 128)" in _texts(cells[5])
    assert (folder / "runs/notebook/second/report.html").exists()


@pytest.fixture
def kernel(folder: Path) -> Iterator[Any]:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder), env=dict(os.environ))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


_CELL = """
import ssl_vision
result = ssl_vision.train(
    "barlow_twins/tiny_cpu", data="digits", run_dir="run", is_quiet=True,
    callbacks=ssl_vision.Callbacks(on_update=lambda p: print("update", p.step, flush=True)),
    **{"trainer.epochs": 4, "trainer.max_steps": 30},
)
print("done", result.steps)
"""


def test_the_stop_button_stops_and_the_same_cell_goes_on(kernel: Any) -> None:
    manager, client = kernel
    text, error = _run(client, _CELL, when="update 3\n", do=manager.interrupt_kernel)
    assert error.startswith("KeyboardInterrupt: stopped by SIGINT after update "), text[-500:]
    stopped = int(error.split("after update ")[1].split(";")[0])
    assert 3 <= stopped < 30
    text, error = _run(client, _CELL)
    assert error == ""
    assert f"update {stopped + 1}\n" in text
    assert "update 1\n" not in text
    assert text.endswith("done 30\n")


def _run(client: Any, code: str, *, when: str | None = None, do: Any = None) -> tuple[str, str]:
    """Run a cell; what it printed, and its error. Once it has printed `when`, `do` is called."""
    own, text, error = client.execute(code), "", ""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != own:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            text += content["text"]
        if message["msg_type"] == "error":
            error = f"{content['ename']}: {content['evalue']}"
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return text, error
        if when is not None and when in text:
            when = do()
    raise AssertionError(f"the cell did not end: {text[-500:]}")
