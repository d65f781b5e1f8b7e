"""`evaluate` from the shell: words told apart, and what becomes of several weights."""

from pathlib import Path

import pytest

from ssl_vision.commands.evaluate import split_files
from ssl_vision.commands.main import main


def test_yaml_files_are_told_from_weights_in_any_order() -> None:
    files, weights = split_files(["runs/a", "more.yaml", "zoo:b", "c.yml"])
    assert files == ["more.yaml", "c.yml"]
    assert weights == ["runs/a", "zoo:b"]


SMALL = ["data.path=digits", "data.max_train=60", "data.max_val=40", "tasks=knn", "knn.k=5"]
NETWORK = "timm:vit_tiny_patch16_224?pretrained=false&img_size=16&patch_size=8&depth=1"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_that_fail_leave_the_others_their_results(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "bad").mkdir()
    weights = [NETWORK, "bad", f"{NETWORK}&seed=1", "no/such"]
    assert main(["evaluate", *weights, *SMALL, "out=results"]) == 74
    captured = capsys.readouterr()
    err = " ".join(captured.err.split())
    assert "2 of 4 weights failed; the results of the others are written. bad:" in err
    assert "no/such failed: weights='no/such' is neither" in " ".join(captured.out.split())
    assert len(list(elsewhere.glob("results/*/results.json"))) == 2
    assert (elsewhere / "results/comparison.md").read_text().count("seed=1") == 1


def test_where_all_fail_that_is_said(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "no/such", "nor/this", *SMALL]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "2 of 2 weights failed. no/such: weights='no/such' is neither" in err
    assert main(["evaluate", "no/such", *SMALL]) == 2
    assert "of 1" not in capsys.readouterr().err


def test_a_wrong_setting_ends_it_before_anything_is_measured(elsewhere: Path) -> None:
    assert main(["evaluate", NETWORK, "no/such", *SMALL, "knn.k=0", "out=results"]) == 2
    assert not (elsewhere / "results").exists()
