"""The cross-view test: what its shuffled lists hold, and that it measures what was trained."""

from pathlib import Path

import pytest
from benchmarks import cross_view


def test_shuffled_pairs_have_the_second_views_of_others(tmp_path: Path) -> None:
    data = tmp_path / "rooms"
    data.mkdir()
    pairs = [(f"images/a{i}.png", f"images/b{i}.png") for i in range(40)]
    (data / "train.txt").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    found = cross_view._shuffled(data, tmp_path, seed=3)
    rows = [line.split("\t") for line in found.read_text().splitlines()]
    assert [a for a, _ in rows] == [str(data / a) for a, _ in pairs]
    assert sorted(b for _, b in rows) == sorted(str(data / b) for _, b in pairs)
    assert sum(b == str(data / own) for (_, b), (_, own) in zip(rows, pairs, strict=True)) < 6
    assert cross_view._shuffled(data, tmp_path, seed=4).read_text() != found.read_text()


@pytest.mark.slow
def test_a_run_is_trained_once_and_then_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "data=blocks", "kinds=true", "seeds=0", f"out={tmp_path}", "trainer.max_steps=1",
        "optim.base_lr=1e-12", "backbone.args.depth=1", "data.global_batch_size=4",
    ]  # fmt: skip
    cross_view.main(words)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| true")]
    config = tmp_path / "true/seed_0/run/config.yaml"
    trained = config.stat().st_mtime_ns
    cross_view.main(words)
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| true")]
    assert again == table
    assert config.stat().st_mtime_ns == trained
    true, other, black = (float(each) for each in table[0].split("|")[3:6])
    assert min(true, other, black) > 0.9  # a network as drawn: no better than the mean
    assert abs(other - true) < 0.02
