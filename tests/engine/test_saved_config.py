"""A run's settings come back as they were written, or not at all."""

from pathlib import Path

import pytest

from ssl_vision.commands.main import main
from ssl_vision.config import load_train_config, to_yaml
from ssl_vision.engine.saved_config import is_run, load_run_config, run_settings
from ssl_vision.errors import CheckpointError, ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    config = load_train_config([CONFIGS / "poa/tiny_cpu.yaml"], [f"run_dir={folder}"])
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def test_a_whole_file_is_read(run: Path) -> None:
    expected = load_train_config([CONFIGS / "poa/tiny_cpu.yaml"], [f"run_dir={run}", "seed=3"])
    assert load_run_config(run, ["seed=3"]) == expected
    assert run_settings(run)["method"]["name"] == "poa"
    assert is_run(run)
    (run / "checkpoints").rmdir()
    assert not is_run(run)


def test_a_file_cut_anywhere_is_refused(run: Path) -> None:
    path = run / "config.yaml"
    text = path.read_text()
    last = text.rindex("\nloggers")
    for end in [*range(0, last, 37), *range(last - 20, last + len("\nloggers") + 1)]:
        path.write_text(text[:end])
        with pytest.raises(CheckpointError, match=r"config\.yaml is damaged \(.+\); put") as caught:
            load_run_config(run)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [b"", b"\xff\xfe", b"[1, 2]", b"a: [", b"a: &x [*x", b"\0", b"[" * 5000, b"!!python/x 1"],
)
def test_what_holds_no_settings_is_refused(run: Path, damage: bytes) -> None:
    (run / "config.yaml").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged"):
        run_settings(run)
    (run / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="is no run folder"):
        run_settings(run)


def test_a_section_that_is_none_is_refused_and_a_wrong_value_is_named(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("optim:", "optim: 3\nx:", 1))
    with pytest.raises(CheckpointError, match="optim holds no settings"):
        load_run_config(run)
    (run / "config.yaml").write_text(text.replace("\nseed: ", "\nseed: -1 #", 1))
    with pytest.raises(ConfigError, match="seed=-1"):
        load_run_config(run)


@pytest.mark.parametrize(
    "command",
    [
        ["extract", "RUN", "list=true"],
        ["evaluate", "RUN", "data.path=digits"],
        ["compare", "RUN", "RUN"],
        ["train", "poa/tiny_cpu", "run_dir=RUN"],
    ],
)
def test_no_command_goes_on_with_half_a_file(
    run: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    (run / "checkpoints/step_000001").mkdir()
    (run / "checkpoints/step_000001/manifest.json").write_text("{}")
    assert main([word.replace("RUN", str(run)) for word in command]) == 74
    err = capsys.readouterr().err
    assert "config.yaml is damaged" in err
    assert "Traceback" not in err
