"""The ledger: which cells a plan has, how long they are, what is run, and the table of it."""

import json
from pathlib import Path

import pytest
import yaml
from benchmarks import ledger
from benchmarks._ledger import Cell, Length, cells_of, table

ALL = {"experiments": "", "contenders": "", "sets": "", "seeds": "0,1", "budget_s": ""}
PLAN = {
    "sets": {
        "digits": {"both": ["data.path=digits"], "train": ["data.mean=[0.5,0.5,0.5]"]},
        "own": {"both": ["data.path={data}/own"], "evaluate": ["data.max_train=7"]},
    },
    "experiments": {
        "methods": {
            "budget_s": 60,
            "sets": ["digits", "own"],
            "evaluate": ["tasks=knn"],
            "contenders": {
                "mae": {"recipe": "mae/tiny_cpu"},
                "small ones": {"recipe": "dino/tiny_cpu", "train": ["a=1"], "budget_s": 0},
            },
        },
        "labels": {
            "budget_s": 5,
            "sets": ["own"],
            "contenders": {
                "tuned": {
                    "recipe": "supervised/tiny_cpu",
                    "is_classifier": True,
                    "train": [
                        "init_from={run methods/small ones}",
                        "data.train_list={labels 3}",
                        "x={{not ours}}",
                    ],
                }
            },
        },
    },
}


def test_cells_are_what_the_plan_says_and_the_settings_ask_for() -> None:
    cells = cells_of(PLAN, ALL)
    assert len(cells) == 2 * (2 * 2 + 1)
    assert len({cell.folder for cell in cells}) == len(cells)
    by_folder = {cell.folder: cell for cell in cells}
    first = by_folder["methods/digits/mae/seed_1"]
    assert first.settings == ("data.path=digits", "data.mean=[0.5,0.5,0.5]")
    assert first.scored == ("data.path=digits", "tasks=knn")
    assert (first.budget_s, first.seed) == (60, 1)
    own = by_folder["methods/own/small_ones/seed_0"]
    assert own.settings == ("data.path={data}/own", "a=1")
    assert own.scored == ("data.path={data}/own", "data.max_train=7", "tasks=knn")
    assert own.budget_s == 0
    assert by_folder["labels/own/tuned/seed_0"].scored == ()

    asked = cells_of(PLAN, {**ALL, "contenders": "mae,tuned", "sets": "own", "budget_s": "9"})
    assert [(cell.name, cell.seed, cell.budget_s) for cell in asked] == [
        ("mae", 0, 9), ("mae", 1, 9), ("tuned", 0, 9), ("tuned", 1, 9),
    ]  # fmt: skip


def test_placeholders_become_folders_and_name_what_is_waited_for() -> None:
    tuned = next(cell for cell in cells_of(PLAN, ALL) if cell.name == "tuned" and cell.seed == 1)
    assert tuned.needs() == ["methods/own/small_ones/seed_1"]
    assert tuned.filled([*tuned.settings, "s={seed}"], Path("/out"), "/sets") == [
        "data.path=/sets/own",
        "init_from=/out/methods/own/small_ones/seed_1/run",
        "data.train_list=/out/labels/own_3_1.txt",
        "x={{not ours}}",
        "s=1",
    ]


@pytest.mark.parametrize(
    ("budget_s", "epochs"),
    [
        (50.0, 8),  # (50 - 2) / 0.1 = 480 updates, 8 epochs of 60
        (47.2, 8),  # 7.53 epochs
        (46.8, 7),  # 7.47 epochs
        (1.0, 1),  # not even the start
    ],
)
def test_the_epochs_are_those_that_fit_the_budget(budget_s: float, epochs: int) -> None:
    length = Length(start_s=2.0, update_s=0.1, steps_per_epoch=60)
    assert length.epochs(budget_s) == epochs


def _record(contender: str, seed: int, knn: float, *, data: str = "digits", **more: object):
    interval = [knn - 0.02, knn + 0.03]
    return {
        "experiment": "methods", "contender": contender, "set": data, "seed": seed, "cpu_s": 60.0,
        "updates": 1200, "scores": {"knn": {"value": knn, "interval": interval}}, **more,
    }  # fmt: skip


def test_the_table_has_means_ranges_and_the_interval_of_one_figure() -> None:
    records = [
        _record("mae", 0, 0.70), _record("mae", 1, 0.80, cpu_s=64.6), _record("mae", 2, 0.90),
        _record("dino", 0, 0.5, data="own"),
    ]  # fmt: skip
    records[3]["scores"]["knn of raw pixels"] = {"value": 0.9, "interval": None}  # no column
    lines = table(records).splitlines()
    assert lines[0] == "| contender | digits: knn % | own: knn % | updates | CPU s |"
    assert lines[2] == "| mae | 80.0 (70.0 to 90.0) ± 2.5 | - | 1,200 | 60 to 65 |"
    assert lines[3] == "| dino | - | 50.0 (50.0 to 50.0) ± 2.5 | 1,200 | 60 to 60 |"
    records[0]["scores"]["knn"]["interval"] = None
    assert "(70.0 to 90.0) ± 2.5" in table(records)  # of those that have one
    for record in records[:3]:
        record["scores"]["knn"]["interval"] = None
    assert "| 80.0 (70.0 to 90.0) |" in table(records)


SMALL = """
sets:
  digits: {both: [data.path=digits], train: [data.global_batch_size=8]}
experiments:
  short:
    budget_s: 0
    sets: [digits]
    evaluate: [tasks=knn, data.max_train=200]
    contenders:
      mae: {recipe: mae/tiny_cpu, train: [data.train_fraction=0.02, trainer.epochs=1]}
      tuned:
        recipe: supervised/tiny_cpu
        is_classifier: true
        train: ["init_from={run mae}", "data.train_list={labels 2}", trainer.epochs=1,
                method.mixing.name=none]
      broken: {recipe: mae/tiny_cpu, train: [method.mask_ratio=2]}
      waiting: {recipe: mae/tiny_cpu, train: ["init_from={run broken}"]}
"""


def test_cells_are_trained_scored_and_not_repeated(tmp_path, capsys) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(SMALL)
    words = [f"plan={plan}", f"out={tmp_path / 'out'}", "seeds=4", f"results={tmp_path / 'r.json'}"]
    assert ledger.main(words) == 1
    printed = capsys.readouterr()
    assert "mask_ratio=2" in printed.err
    assert "short/digits/waiting/seed_4: left out, for want of" in printed.err
    kept = json.loads((tmp_path / "r.json").read_text())
    assert set(kept) == {"short/digits/mae/seed_4", "short/digits/tuned/seed_4"}
    mae, tuned = (kept[f"short/digits/{name}/seed_4"] for name in ("mae", "tuned"))
    assert 0 < mae["scores"]["knn"]["interval"][0] <= mae["scores"]["knn"]["value"] <= 1
    assert mae["command"][:2] == ["train", "mae/tiny_cpu"]
    assert "init_from={run mae}" in tuned["command"]
    assert 0 <= tuned["scores"]["top1"]["value"] <= 1
    assert tuned["updates"] == 2  # 10 classes of 2 images in batches of 8; the rest is left out
    assert mae["cpu_s"] > 0
    named = (tmp_path / "out" / "labels" / "digits_2_4.txt").read_text().split()
    assert len(set(named)) == 20

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}
    assert len(before) == 2
    assert ledger.main([*words, "contenders=mae,tuned"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ledger.main([f"plan={plan}", "show=yes", "seeds=4", words[-1]]) == 0
    assert "| mae | " in capsys.readouterr().out.split("\nshort\n")[-1]


def test_the_plan_that_lies_in_the_repository_can_be_read() -> None:
    plan = yaml.safe_load(Path(ledger.__file__).with_suffix(".yaml").read_text())
    cells = cells_of(plan, {**ALL, "seeds": "0"})
    folders = {cell.folder for cell in cells}
    assert len(folders) == len(cells) > 10
    assert all(need in folders for cell in cells for need in cell.needs())


def test_the_length_is_timed_once_for_all_seeds(tmp_path, monkeypatch) -> None:
    """With a clock of 2 s a start and 0.05 s an update."""
    runs = []

    def timed(cell: Cell, words: list[str], folder: Path, steps: int) -> tuple[float, int]:
        runs.append(steps)
        return 2.0 + 0.05 * steps, 30

    monkeypatch.setattr(ledger, "_timed", timed)
    for seed in ("0", "1"):
        (cell,) = cells_of(PLAN, {**ALL, "sets": "digits", "contenders": "mae", "seeds": seed})
        length = ledger._length(cell, tmp_path, "", [])
        assert length == pytest.approx((2.0, 0.05, 30))
    assert len(runs) == 2  # a short one and a long one
