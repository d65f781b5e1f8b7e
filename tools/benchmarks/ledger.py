"""Methods at equal CPU seconds: every cell trained and scored by the command line, kept as JSON.

    tools/benchmark.py ledger out=FOLDER [plan=tools/benchmarks/ledger.yaml] [data=FOLDER]
        [experiments=methods,...] [contenders=simclr,...] [sets=mnist5k,...] [seeds=0,1,2]
        [budget_s=SECONDS] [results=FILE.json] [show=yes]

A cell is a contender of the plan (a recipe and settings) on one data set with one seed. Its length
follows from the budget of CPU seconds of the training process, start included: two short runs tell
what a start and an update cost, and the epochs are those that fit, so that schedules end with the
run. `budget_s: 0` in the plan keeps the length of the recipe and its settings.

Cells that have a record in FOLDER are skipped, and two processes may work on one FOLDER: each takes
what the other has not. The table shows the cells that were asked for and are there; results=FILE
adds their records to a JSON file. show=yes only shows, from FILE too where there is no FOLDER.
In the plan's settings, {data} is the folder of data, {seed} the seed, {run NAME} the run folder of
another contender (or {run EXPERIMENT/NAME}) on the same data and seed, which is waited for, and
{labels N} a list of N training images per class, drawn by the seed.
"""

import fcntl
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from benchmarks._children import run_timed
from benchmarks._ledger import Cell, Length, Record, cells_of, table
from benchmarks._settings import read_settings

from ssl_vision.commands import main as cli
from ssl_vision.config import load_train_config
from ssl_vision.data.find import find_source
from ssl_vision.data.images.arrays import mnist5k
from ssl_vision.data.source import Source
from ssl_vision.engine.run_dir import describe_environment, git_state, read_jsonl
from ssl_vision.files import write_atomically
from ssl_vision.recipes import find_recipe
from ssl_vision.tasks.baselines import MAJORITY
from ssl_vision.tasks.few_shot import draw_shots

_DEFAULTS = {
    "out": "", "plan": str(Path(__file__).with_suffix(".yaml")), "data": "", "experiments": "",
    "contenders": "", "sets": "", "seeds": "0,1,2", "budget_s": "", "results": "", "show": "no",
}  # fmt: skip
_FIRST_STEPS = 4  # of a timed run, whose cost counts as that of a start
_TIMED_S = 3.0  # CPU seconds of updates that a timing rests on
# One thread; nothing is scored, saved or logged often within the seconds that are counted.
_COMMON = (
    "data.num_threads=1", "trainer.accelerator=cpu", "trainer.checkpoint_every_epochs=100000",
    "trainer.log_every_steps=50", "resume=never",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, and print the tables; the exit status."""
    settings = read_settings(arguments, _DEFAULTS)
    plan = yaml.safe_load(Path(settings["plan"]).read_text())
    cells, out = cells_of(plan, settings), Path(settings["out"] or "(not given)")
    is_whole = True
    if settings["show"] != "yes":
        wants_data = any("{data}" in word for cell in cells for word in cell.settings)
        if not settings["out"] or not cells or (wants_data and not settings["data"]):
            missing = "out=FOLDER" if not settings["out"] else "data=FOLDER (or other sets=)"
            print(f"{missing if cells else 'another cell'} is needed", file=sys.stderr)
            return 2
        torch.set_num_threads(1)
        _warm(cells[0])
        is_whole = _run_all(cells, out.resolve(), settings["data"])
    records = _records(cells, out, settings["results"])
    for experiment in dict.fromkeys(cell.experiment for cell in cells):
        print(f"\n{experiment}\n\n{table([r for r in records if r['experiment'] == experiment])}")
    return 0 if is_whole else 1


def _records(cells: Sequence[Cell], out: Path, results: str) -> list[Record]:
    """Records of cells, from FOLDER or else the file of results, which gets what is new."""
    file = Path(results)
    kept: dict[str, Record] = json.loads(file.read_text()) if results and file.exists() else {}
    for cell in cells:
        path = out / cell.folder / "record.json"
        if path.exists():
            kept[cell.folder] = json.loads(path.read_text())
    if results:
        lines = [f"{json.dumps(key)}: {json.dumps(kept[key])}" for key in sorted(kept)]
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return [kept[cell.folder] for cell in cells if cell.folder in kept]


# Running -------------------------------------------------------------------------------------


def _warm(cell: Cell) -> None:
    """One update and its evaluation here, so that forked processes find modules and kernels."""
    with TemporaryDirectory() as folder:
        small = ["data.path=digits", "data.global_batch_size=8", "trainer.max_steps=1", *_COMMON]
        log = redirect_stdout(StringIO())
        with log, redirect_stderr(StringIO()):
            cli.main(["train", cell.recipe, *small, f"run_dir={folder}/run"])
            cli.main(["evaluate", f"{folder}/run", "data.path=digits", "tasks=knn,linear"])
    if "data.path=mnist5k" in cell.settings:
        mnist5k("train")  # takes seconds to read, and is kept


def _run_all(cells: Sequence[Cell], out: Path, data: str) -> bool:
    """All cells without a record, each behind those it needs; whether none failed."""
    left, failed = list(cells), set[str]()
    coming = {cell.folder for cell in cells}

    def is_done(folder: str) -> bool:
        return (out / folder / "record.json").exists()

    while left:
        before = len(left)
        for cell in left:
            missing = [need for need in cell.needs() if not is_done(need)]
            lost = [need for need in missing if need in failed or need not in coming]
            if lost:
                print(f"{cell.folder}: left out, for want of {lost[0]}", file=sys.stderr)
                failed.add(cell.folder)
            elif not missing and not _run_here(cell, out, data):
                failed.add(cell.folder)
        left = [each for each in left if not (is_done(each.folder) or each.folder in failed)]
        if len(left) == before:
            time.sleep(2)  # another process is at them
    return not failed


def _run_here(cell: Cell, out: Path, data: str) -> bool:
    """Run a cell unless it has a record or another process is at it; whether that went well."""
    record = out / cell.folder / "record.json"
    with _claimed(record.parent) as is_ours:
        if not is_ours or record.exists():
            return True
        try:
            found = _run(cell, out, data)
        except RuntimeError as error:
            print(f"{cell.folder} failed: {error}", file=sys.stderr)
            return False
        write_atomically(record, json.dumps(found, indent=1))
        print(f"{cell.folder}: {_summary(found)}", flush=True)
        return True


@contextmanager
def _claimed(folder: Path, *, waits: bool = False) -> Iterator[bool]:
    """Whether no other process works on a folder; a process that ends leaves it free."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _run(cell: Cell, out: Path, data: str) -> Record:
    """Train and score a cell; its record."""
    folder = out / cell.folder
    words = [*cell.settings, f"seed={cell.seed}", *_COMMON]
    has_own_score = not cell.scored
    words.append(f"online_eval.every_epochs={100000 if has_own_score else 0}")
    length = _length(cell, out, data, words) if cell.budget_s else None
    if length is not None:
        words.append(f"trainer.epochs={length.epochs(cell.budget_s)}")
    shutil.rmtree(folder / "run", ignore_errors=True)
    filled = _filled(cell, words, out, data)
    cpu_s = _call(["train", cell.recipe, *filled, f"run_dir={folder / 'run'}"], folder / "log")
    log, _ = read_jsonl(folder / "run" / "metrics.jsonl")
    record: Record = {
        "experiment": cell.experiment,
        "contender": cell.name,
        "set": cell.set,
        "seed": cell.seed,
        "command": ["train", cell.recipe, *words],
        "budget_s": cell.budget_s,
        "cpu_s": round(cpu_s, 1),
        "updates": max(int(line["step"]) for line in log),
        "timing": None if length is None else length._asdict(),
        "environment": _environment(),
    }
    if has_own_score:
        top1 = [line["eval/top1"] for line in log if "eval/top1" in line][-1]
        return record | {"scores": {"top1": {"value": top1, "interval": None}}}
    scored = [*cell.scored, "cache.mode=off", "data.num_threads=1"]
    filled = _filled(cell, scored, out, data)
    weights = [str(folder / "run"), f"out={folder / 'evaluation'}"]
    seconds = _call(["evaluate", *weights, *filled], folder / "log")
    found = json.loads((folder / "evaluation" / "results.json").read_text())
    return record | {
        "evaluate_command": ["evaluate", f"{{run {cell.name}}}", *scored],
        "evaluate_cpu_s": round(seconds, 1),
        "num_parameters": found["weights"]["num_parameters"],
        "num_train_val": [found["data"]["num_train"], found["data"]["num_val"]],
        "scores": _scores(found),
    }


def _scores(found: Mapping[str, Any]) -> Record:
    """What each task reports with its 95 % interval, and what kNN gives of baselines."""
    scores = {}
    for task, result in found["tasks"].items():
        headline = result["headline"]
        for each in result["measurements"]:
            name = each["name"]
            is_baseline = name.startswith("top1 of ") and name != f"top1 of {MAJORITY}"
            if name == headline or (is_baseline and task == "knn"):
                key = f"{task}{name.removeprefix(headline)}"
                scores[key] = {"value": each["value"], "interval": each["interval"]}
        scores[task]["protocol"] = result["protocol"]
    return scores


def _length(cell: Cell, out: Path, data: str, words: Sequence[str]) -> Length:
    """What a contender costs on a data set; measured once for all seeds."""
    folder = (out / cell.folder).parent / "timing"
    kept = folder / "length.json"
    with _claimed(folder, waits=True):
        if not kept.exists():
            filled = _filled(cell, words, out, data)
            short_s, _ = _timed(cell, filled, folder, _FIRST_STEPS)
            num = 60
            while True:
                long_s, steps_per_epoch = _timed(cell, filled, folder, _FIRST_STEPS + num)
                spent_s = max(long_s - short_s, 0.1)
                if spent_s > 0.6 * _TIMED_S:
                    break
                num = round(num * min(10.0, 1.2 * _TIMED_S / spent_s))
            update_s = spent_s / num
            start_s = short_s - _FIRST_STEPS * update_s
            length = Length(round(start_s, 2), round(update_s, 5), steps_per_epoch)
            kept.write_text(json.dumps(length._asdict()))
        return Length(**json.loads(kept.read_text()))


def _timed(cell: Cell, words: Sequence[str], folder: Path, steps: int) -> tuple[float, int]:
    """CPU seconds of a run of so many updates, and the updates of an epoch."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    more = ["trainer.epochs=100000", f"trainer.max_steps={steps}", f"run_dir={folder / 'run'}"]
    cpu_s = _call(["train", cell.recipe, *words, *more], folder / "log")
    last = read_jsonl(folder / "run" / "metrics.jsonl")[0][-1]
    return cpu_s, round(last["step"] / last["epoch"])


def _call(arguments: Sequence[str], log: Path) -> float:
    """Run a command in a process of its own; its CPU seconds.

    Raises:
        RuntimeError: It failed; with the end of what it printed.
    """
    status, cpu_s = run_timed(lambda: cli.main(list(arguments)), log)
    if status:
        raise RuntimeError(f"{' '.join(arguments)}\n{log.read_text()[-2000:]}")
    return cpu_s


def _filled(cell: Cell, words: Sequence[str], out: Path, data: str) -> list[str]:
    """Settings without placeholders; the lists of images they name are written."""
    for per_class in re.findall(r"\{labels (\d+)\}", " ".join(words)):
        path = cell.label_list(per_class, out)
        if not path.exists():
            source = _training_images(cell, out, data)
            labels = torch.from_numpy(np.asarray(source.labels))
            rows = draw_shots(labels, int(per_class), seed=cell.seed, draw=0).tolist()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "".join(f"{source.name(row)}\n" for row in rows))
    return cell.filled(words, out, data)


def _training_images(cell: Cell, out: Path, data: str) -> Source:
    words = [word for word in cell.settings if word.startswith("data.path=")]
    config = load_train_config([find_recipe(cell.recipe)], cell.filled(words, out, data)).data
    return find_source(config.path, split="train", config=config)


def _environment() -> Record:
    found = describe_environment(world_size=1, device="cpu")
    return {key: found[key] for key in ("python", "versions")} | {
        "commit": (git_state(Path(__file__).parent) or {}).get("commit")
    }


def _summary(record: Record) -> str:
    scores = {name: f"{100 * each['value']:.1f}" for name, each in record["scores"].items()}
    return f"{scores} after {record['updates']} updates, {record['cpu_s']} CPU s"
