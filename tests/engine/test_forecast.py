"""A run says what it is going to do, and how long it will take, once, and warns of days."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ssl_vision.config import TrainConfig
from ssl_vision.engine.checkpoint import list_checkpoints, load_state
from ssl_vision.engine.exporter import Exporter
from ssl_vision.engine.forecast import Forecast, long_run_advice, memory_gib
from ssl_vision.engine.metrics import duration
from ssl_vision.engine.run import ENDLESS
from ssl_vision.engine.run_dir import Best, RunFolder, best_sentence, read_best
from ssl_vision.engine.train import train
from ssl_vision.methods.base import Method
from ssl_vision.zoo.weights import resolve_weights


class Talker:
    """What `Forecast` uses of a run."""

    def __init__(self, stop_step: int) -> None:
        self.stop_step, self.lines, self.has_end = stop_step, [], stop_step != ENDLESS
        self.config = SimpleNamespace(method=SimpleNamespace(name="dino"))
        self.say = self.warn = self.lines.append


def play(
    seconds: float, stop_step: int, monkeypatch: pytest.MonkeyPatch, updates: int
) -> list[str]:
    run, watcher, now = Talker(stop_step), Forecast(), [100.0]
    monkeypatch.setattr("ssl_vision.engine.forecast.time.perf_counter", lambda: now[0])
    watcher.start()
    method = SimpleNamespace(
        step=0, plan=SimpleNamespace(steps_per_epoch=30), device=torch.device("cpu")
    )
    for step in range(1, updates + 1):
        method.step = step
        now[0] += seconds
        watcher.after_update(run, method, None)
    return run.lines


def test_a_run_without_an_end_is_not_said_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = play(40.0, ENDLESS, monkeypatch, updates=4)
    assert "per epoch" in line
    assert "to the end" not in line


def test_time_is_said_once_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = play(2.0, 300, monkeypatch, 200)
    (line,) = lines
    # 31 updates are done after 60 s of updates behind the first: 269 are left, 2 s each.
    assert line.startswith("2 s per update: 1 min per epoch, 9 min to the end; memory so far")
    assert play(2.0, 300, monkeypatch, 20) == []


def test_days_are_warned_of_with_a_recipe_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    said, warned = play(100.0, 10_001, monkeypatch, 1)  # one update is longer than a minute
    assert "11.6 days to the end" in said
    assert "11.6 days on this machine (cpu); dino/tiny_cpu is made for it" in warned
    assert "dino/small" in long_run_advice("dino", 1e6, device=torch.device("cuda"))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (61, "1 min"), (7200, "2.0 h"), (3e5, "3.5 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_memory_is_what_the_process_had() -> None:
    before = memory_gib(torch.device("cpu"))
    held = torch.ones(1 << 26)  # 256 MiB, touched
    assert 0.01 < before < 64
    assert memory_gib(torch.device("cpu")) >= before
    assert held.sum() > 0


def test_a_run_begins_with_a_table_and_ends_with_best_and_next(
    recipe: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe("barlow_twins", "online_eval.every_epochs=1", "trainer.epochs=3")
    result = train(config)
    out = capsys.readouterr().out
    assert "1,497 on digits" in " ".join(out.split())
    assert "depth=2" in out
    assert ": 24 features, input 16" in " ".join(out.split())
    first = next(line for line in out.splitlines() if line.startswith("step 1/"))
    assert "loss" in first
    assert " left" not in first
    lines = [json.loads(x) for x in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    scores = {x["step"]: x["eval/knn_top1"] for x in lines if x.get("eval/knn_top1") and x["step"]}
    best = json.loads((result.run_dir / "best.json").read_text())
    assert best["value"] == max(scores.values())
    assert best["step"] == min(s for s, v in scores.items() if v == best["value"])
    same = resolve_weights(result.export).sha256
    assert (resolve_weights(result.run_dir / "export_best").sha256 == same) == (
        best["step"] == result.steps
    )
    report = (result.run_dir / "report.html").read_text()
    assert "Go on from here" in report
    assert "ssl-vision evaluate" in report
    assert "export_best/" in report


def test_the_whole_state_of_the_best_outlives_later_checkpoints(
    recipe: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first score is made the best; it falls between checkpoints, of which one is kept."""
    keep = Exporter.keep_best

    def first(self: Exporter, method: Method, *, score: str, value: float) -> bool:
        return keep(self, method, score=score, value=1 / (1 + method.step))

    monkeypatch.setattr(Exporter, "keep_best", first)
    words = ["online_eval.every_epochs=1", "trainer.epochs=4", "trainer.keep_checkpoints=1"]
    result = train(recipe("mae", *words, "trainer.checkpoint_every_epochs=3"))
    folder = result.run_dir / "checkpoints"
    best, last = list_checkpoints(folder)
    assert (4 * best.step, last.step) == (result.steps, result.steps)
    tensors = dict(load_file(result.run_dir / "export_best/model.safetensors"))
    described = json.loads((best.path / "backbone.json").read_text())
    state = load_state(best)["state_dict"]
    assert all(torch.equal(t, state[described["prefix"] + n]) for n, t in tensors.items())
    sentence = f"(whole state: checkpoints/{best.path.name}/); export/ is the last"
    assert sentence in (result.run_dir / "report.html").read_text()


def test_the_best_export_holds_what_the_last_one_holds(recipe: Callable[..., TrainConfig]) -> None:
    result = train(recipe("simclr", "online_eval.every_epochs=1", "trainer.epochs=1"))
    last, best = (
        {path.name for path in (result.run_dir / name).iterdir()}
        for name in ("export", "export_best")
    )
    assert "heads.safetensors" in last  # fine-tuning may start inside SimCLR's head
    assert best == last


def test_a_run_that_was_set_back_forgets_a_best_of_later(
    recipe: Callable[..., TrainConfig],
) -> None:
    folder = RunFolder(recipe().run_path)
    folder.path.mkdir()
    assert read_best(folder) is None
    folder.write_json("best.json", {"step": 5, "score": "knn_top1", "value": 0.5})
    assert read_best(folder) == Best(5, "knn_top1", 0.5)
    assert "best by knn top1 50.00% is update 5" in str(best_sentence(folder, last_step=9))
    assert "the last update, 5, scored best" in str(best_sentence(folder, last_step=5))
    for bad in ("[]", "{}", "{", '{"step": "x", "score": 1, "value": 2}'):
        (folder.path / "best.json").write_text(bad)
        assert read_best(folder) is None
