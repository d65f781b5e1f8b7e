"""Cells of the ledger: what a plan asks for, how long each may be, and their records as a table."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]


class Length(NamedTuple):
    """What a run costs in CPU seconds, and how long it is in an epoch's updates."""

    start_s: float
    update_s: float
    steps_per_epoch: int

    def epochs(self, budget_s: float) -> int:
        """Epochs, at least one, whose cost is nearest to the budget."""
        updates = (budget_s - self.start_s) / self.update_s
        return max(1, round(updates / self.steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One contender on one data set with one seed; settings still have their {placeholders}."""

    experiment: str
    name: str
    set: str
    seed: int
    recipe: str
    settings: tuple[str, ...]
    scored: tuple[str, ...]  # settings of `evaluate`; none: the run's own accuracy with labels
    budget_s: float  # 0: as long as recipe and settings say

    @property
    def folder(self) -> str:
        """Where it lies below FOLDER."""
        return f"{self.experiment}/{self.set}/{self.name.replace(' ', '_')}/seed_{self.seed}"

    def needs(self) -> list[str]:
        """Folders of the cells whose runs it starts from."""
        found = re.findall(r"\{run ([^}]+)\}", " ".join(self.settings))
        return [self._folder_of(name) for name in found]

    def _folder_of(self, name: str) -> str:
        experiment, _, own = name.rpartition("/")
        folder = own.replace(" ", "_")
        return f"{experiment or self.experiment}/{self.set}/{folder}/seed_{self.seed}"

    def filled(self, words: Sequence[str], out: Path, data: str) -> list[str]:
        """Settings with {data}, {seed}, {run NAME} and {labels N} filled in."""

        def fill(found: re.Match[str]) -> str:
            key, _, value = found[1].partition(" ")
            filled = {
                "data": data,
                "seed": str(self.seed),
                "run": f"{out / self._folder_of(value)}/run",
                "labels": str(self.label_list(value, out)),
            }
            return filled[key]

        return [re.sub(r"\{(data|seed|(?:run|labels) [^}]+)\}", fill, word) for word in words]

    def label_list(self, per_class: str, out: Path) -> Path:
        """File that names so many training images of each class."""
        return out / "labels" / f"{self.set}_{per_class}_{self.seed}.txt"


def cells_of(plan: Mapping[str, Any], settings: Mapping[str, str]) -> list[Cell]:
    """Cells of a plan that the settings ask for, in its order, all contenders of a seed together.

    Args:
        plan: Content of the plan's file.
        settings: `experiments`, `contenders` and `sets` to take, comma-separated, empty for all;
            `seeds`; and `budget_s` in place of the experiments' own, or empty.
    """
    cells = []
    for experiment, part in plan["experiments"].items():
        for seed, name, of_set in product(
            map(int, settings["seeds"].split(",")), part["contenders"], part["sets"]
        ):
            asked = {"experiments": experiment, "contenders": name, "sets": of_set}
            if all(
                not settings[key] or each in settings[key].split(",") for key, each in asked.items()
            ):
                cells.append(_cell(plan, experiment, name, of_set, seed, settings["budget_s"]))
    return cells


def _cell(
    plan: Mapping[str, Any], experiment: str, name: str, of_set: str, seed: int, budget_s: str
) -> Cell:
    part, data = plan["experiments"][experiment], plan["sets"][of_set]
    own = part["contenders"][name]

    def words(key: str) -> tuple[str, ...]:
        return tuple(w for each in (data, part, own) for w in each.get(key, []))

    evaluate = (*data["both"], *words("evaluate"))
    return Cell(
        experiment=experiment,
        name=name,
        set=of_set,
        seed=seed,
        recipe=own["recipe"],
        settings=(*data["both"], *words("train")),
        scored=() if own.get("is_classifier", False) else evaluate,
        budget_s=float(own.get("budget_s", budget_s or part["budget_s"])),
    )


def table(records: Sequence[Record]) -> str:
    """Markdown: a row a contender; for each data set and score the mean and the range of seeds.

    `± x` is half the 95 % interval of a single figure, by the number of test images alone.
    """
    sets = list(dict.fromkeys(record["set"] for record in records))
    names = list(dict.fromkeys(n for r in records for n in r["scores"] if " of " not in n))
    rows = [("contender", *(f"{s}: {n} %" for s in sets for n in names), "updates", "CPU s")]
    contenders = dict.fromkeys(record["contender"] for record in records)
    for contender in contenders:
        own = [record for record in records if record["contender"] == contender]
        cells = []
        for each in sets:
            here = [record for record in own if record["set"] == each]
            cells += [_spread([r["scores"][n] for r in here if n in r["scores"]]) for n in names]
        updates = [statistics.median(r["updates"] for r in own if r["set"] == s) for s in sets
                   if any(r["set"] == s for r in own)]  # fmt: skip
        seconds = [record["cpu_s"] for record in own]
        lengths = " / ".join(f"{value:,.0f}" for value in updates)
        rows.append((contender, *cells, lengths, f"{min(seconds):.0f} to {max(seconds):.0f}"))
    rows.insert(1, ("---",) * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _spread(scores: Sequence[Mapping[str, Any]]) -> str:
    """`66.1 (65.0 to 67.1) ± 2.9`, in percent."""
    if not scores:
        return "-"
    values = [100 * score["value"] for score in scores]
    text = f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    halves = [50 * (s["interval"][1] - s["interval"][0]) for s in scores if s["interval"]]
    return f"{text} ± {statistics.mean(halves):.1f}" if halves else text
