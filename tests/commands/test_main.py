"""The mistakes people make, and the one line each of them prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ssl_vision.commands.main import main
from ssl_vision.commands.table import COMMANDS

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "configs" / "barlow_twins" / "tiny_cpu.yaml")


@pytest.fixture
def broken_images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:40])
    return folder


@pytest.fixture
def fails(tmp_path, capsys, monkeypatch):
    """`fails(code, pattern, *arguments)`: one line on stderr, the exit code, no traceback."""
    monkeypatch.chdir(tmp_path)

    def check(code, pattern, *arguments):
        status = main(arguments)
        lines = capsys.readouterr().err.strip().splitlines()
        assert status == code, lines
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert re.search(pattern, lines[0]), lines[0]
        return lines[0]

    return check


@pytest.mark.parametrize(
    ("code", "pattern", "arguments"),
    [
        (2, r"optim\.base_lrr.*Did you mean.*base_lr", ["train", RECIPE, "optim.base_lrr=1"]),
        (65, r"'nowhere' does not exist; give", ["train", RECIPE, "data.path=nowhere"]),
        (65, r"empty holds no image files.*check data\.path", ["train", RECIPE, "data.path=empty"]),
        (2, r"trainer\.epochs=ten must be a whole number", ["train", RECIPE, "trainer.epochs=ten"]),
        (2, r"trainer\.epochs", ["train", RECIPE, "trainer.epochs=1e2"]),
        (74, r"run_dir=/proc/x.*cannot be written", ["train", RECIPE, "run_dir=/proc/x"]),
        (2, r"resnet51.*Did you mean.*resnet50", ["train", RECIPE, "backbone.name=resnet51"]),
        (2, r"global_batch_size=1\b", ["train", RECIPE, "data.global_batch_size=1"]),
        (2, r"in_chans=5.*cannot take the first batch", ["train", RECIPE, "backbone.in_chans=5"]),
        (
            2,
            r"layers=\[0\]: each value must be 1 or more",
            ["train", RECIPE, "backbone.args.layers=[0]"],
        ),
        (2, r"max_bank=1 must be 2 or more", ["train", RECIPE, "online_eval.max_bank=1"]),
        (74, r"File name too long", ["train", RECIPE, "run_dir=" + 300 * "r"]),
        (2, r"no such recipe", ["train", "missing.yaml"]),
        (2, r"needs a recipe", ["train"]),
        (2, r"--epochs", ["train", RECIPE, "--epochs=3"]),
        (2, r"nowhere.*neither", ["evaluate", "nowhere", "data.path=digits", "tasks=knn"]),
        (2, r"'trian' is not a command.*Did you mean 'train'", ["trian"]),
        (
            2,
            r"does not divide over 1 process.*; use 63 or 70",
            ["train", RECIPE, "trainer.accumulate=7"],
        ),
    ],
    ids=lambda value: value[-1].rpartition("/")[2] if isinstance(value, list) else None,
)
def test_one_line_says_what_and_how_to_go_on(fails, tmp_path, code, pattern, arguments):
    (tmp_path / "empty").mkdir()
    run = (
        [] if any("run_dir" in a for a in arguments) or arguments[0] != "train" else ["run_dir=run"]
    )
    fails(code, pattern, *arguments, *([*run] if len(arguments) > 1 and run else []))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_corrupt_image(fails, broken_images):
    settings = ["run_dir=run", "data.global_batch_size=4", f"data.path={broken_images}"]
    fails(65, r"3\.png.*on_error=substitute", "train", RECIPE, *settings)


def test_unknown_task(fails):
    weights = "timm:resnet10t?pretrained=false"
    pattern = r"tasks=kn: .*Did you mean 'knn'"
    fails(2, pattern, "evaluate", weights, "data.path=digits", "tasks=kn")


def test_resume_from_another_method(fails, tmp_path):
    train_once = [
        "train",
        RECIPE,
        "run_dir=run",
        "trainer.max_steps=1",
        "online_eval.every_epochs=0",
    ]
    assert main(train_once) == 0
    (tmp_path / "run/config.yaml").replace(tmp_path / "kept.yaml")
    for damaged in ("", "[]", "a: [1,"):
        (tmp_path / "run/config.yaml").write_text(damaged)
        fails(74, r"config\.yaml is damaged.*resume=never", "train", RECIPE, "run_dir=run")
    (tmp_path / "kept.yaml").replace(tmp_path / "run/config.yaml")
    (tmp_path / "run/metrics.jsonl").unlink()
    (tmp_path / "run/metrics.jsonl").mkdir()
    fails(74, r"metrics\.jsonl cannot be read.*folder", *train_once[:3], "trainer.max_steps=2")
    other = str(ROOT / "configs" / "mae" / "tiny_cpu.yaml")
    fails(2, r"method\.name=barlow_twins \(now mae\)", "train", other, "run_dir=run")


def test_memory_and_interruption_have_their_codes(fails, monkeypatch):
    import torch

    def run(error):
        def command(arguments):
            raise error

        monkeypatch.setattr("ssl_vision.commands.train.run_train", command)

    run(torch.OutOfMemoryError("CUDA out of memory.\nTried"))
    fails(70, "out of memory", "train")
    run(KeyboardInterrupt())
    fails(130, "interrupted", "train")


def test_every_command_exists_and_is_listed(capsys):
    from importlib import import_module

    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in shown
        module, _, function = command.run.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_imports_nothing_heavy_and_shows_its_examples(name):
    code = (
        "import sys; from ssl_vision.commands.main import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'timm', 'omegaconf', 'numpy'} & set(sys.modules); "
        "sys.exit(status or bool(heavy))"
    )
    command = [sys.executable, "-c", code, name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith(f"Usage: ssl-vision {name}")
    assert all(example in done.stdout for example in COMMANDS[name].examples)


def test_every_tool_is_a_command_and_every_example_names_one():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert tools - {"benchmark", "make_benchmark_images", "render_rooms"} <= set(COMMANDS)
    for command in COMMANDS.values():
        for example in command.examples:
            assert example.split()[:1] == ["ssl-vision"]
            assert example.split()[1] in COMMANDS


STAMPS = Path("/usr/share/tuxpaint/stamps")


@pytest.mark.slow
@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's tuxpaint-stamps-default")
def test_a_flat_folder_without_labels_from_pictures_to_embeddings(tmp_path, capsys):
    """Mixed sizes, RGBA and palette PNGs: train, and embed, with no label anywhere."""
    import numpy as np

    folder = tmp_path / "stamps"
    folder.mkdir()
    for path in sorted(STAMPS.rglob("*.png"))[:80]:
        (folder / f"{path.parent.name}-{path.name}").symlink_to(path)
    run = tmp_path / "run"
    recipe = str(ROOT / "configs" / "dino" / "tiny_cpu.yaml")
    settings = ["data.global_batch_size=16", "trainer.epochs=1", f"run_dir={run}"]
    assert main(["train", recipe, f"data.path={folder}", *settings]) == 0
    metrics = (run / "metrics.jsonl").read_text()
    assert "eval/rankme" in metrics
    assert "knn" not in metrics
    assert main(["embed", str(run), f"data.path={folder}", str(tmp_path / "features")]) == 0
    (array,) = (np.load(p) for p in (tmp_path / "features").rglob("*.npy") if "pooled" in p.name)
    assert len(array) == len(list(folder.iterdir()))
    assert np.isfinite(array).all()


def test_a_reader_that_goes_away_stops_no_work(tmp_path):
    picture = tmp_path / "photos" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (40, 40)).save(picture)
    weights = "timm:resnet18?pretrained=false"
    command = ["embed", weights, f"data.path={picture.parent}", str(tmp_path / "out")]
    command.append("data.size_px=32")
    with subprocess.Popen(
        [sys.executable, "-m", "ssl_vision", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 0
    assert (tmp_path / "out/pooled.npy").exists()
