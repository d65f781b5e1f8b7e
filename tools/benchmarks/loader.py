"""Image loaders on the same JPEG bytes, contenders alternating in one run.

    tools/benchmark.py loader images=FOLDER [views=2x224|2x224+8x96|1x224] [recipe=crops|full]
        [rounds=5] [only=SUBSTRING;SUBSTRING] [python=OTHER_PYTHON] [num=IMAGES_PER_PASS]
        [out=FILE] [limit_s=3600]

FOLDER holds class folders of JPEGs (tools/make_benchmark_images.py makes one). Each contender is a
process of its own with two threads or workers; a round lets each make one pass over all images, one
after the other. Reported: medians over the rounds of CPU milliseconds per image (all threads and
workers) and of images per second. `python` names an interpreter that also has nvidia-dali and
lightly; a contender that cannot be imported is left out, and named. No round begins after `limit_s`
seconds.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._settings import read_settings

_HERE = Path(__file__).resolve()
_FULL = [
    "ours, full recipe",
    "ours, full recipe, floats out",
    "lightly, full recipe",
    "PIL, full recipe",
]
_DEFAULTS = {
    "images": "", "views": "2x224", "recipe": "crops", "rounds": "5", "only": "",
    "python": sys.executable, "num": "1000", "out": "", "limit_s": "3600",
}  # fmt: skip
_OTHER_PYTHON = ("DALI CPU", "lightly, full recipe")


def main(arguments: list[str]) -> int:
    """Run the comparison and print a table; the exit status."""
    settings = read_settings(arguments, _DEFAULTS)
    if not Path(settings["images"]).is_dir() or not settings["images"]:
        print("images=FOLDER is needed; tools/make_benchmark_images.py makes one", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as work:
        paths = _prepare(Path(settings["images"]), Path(work), int(settings["num"]))
        results = _measure(settings, paths)
    table = _table(settings, results)
    print(table)
    if settings["out"]:
        with open(settings["out"], "a") as file:
            file.write(table + "\n")
    return 0


def _prepare(images: Path, work: Path, num: int) -> dict[str, str]:
    """The same files as a folder, as a .beton of the same bytes, and as a raw .beton."""
    from ssl_vision.data.images.find import build_source
    from ssl_vision.data.images.pack import PackConfig, pack

    folder = work / "folder"
    for path in sorted(images.rglob("*.jpg"), key=lambda path: path.name)[:num]:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    source = build_source(str(folder))
    for mode in ("keep", "raw"):
        pack(source, work / f"{mode}.beton", PackConfig(mode=mode, verify=False))  # type: ignore[arg-type]
    paths = {"folder": folder, "beton": work / "keep.beton", "raw": work / "raw.beton"}
    return {kind: str(path) for kind, path in paths.items()}


def _start(name: str, settings: dict[str, str], paths: dict[str, str]) -> Any:
    from benchmarks._loader_contenders import CONTENDERS

    python = settings["python"] if name in _OTHER_PYTHON else sys.executable
    command = [
        python, str(_HERE.with_name("_loader_contenders.py")),
        name, paths[CONTENDERS[name][2]], settings["views"],
    ]  # fmt: skip
    # One thread per library pool: parallelism is the contender's own threads or workers.
    variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = os.environ | variables | {"PYTHONPATH": str(_HERE.parents[2])}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment,
    )  # fmt: skip


def _measure(settings: dict[str, str], paths: dict[str, str]) -> dict[str, Any]:
    from benchmarks._loader_contenders import CONTENDERS

    if settings["recipe"] == "full":
        names = ["ours, beton", *_FULL]
    else:
        names = [name for name in CONTENDERS if name not in _FULL]
    wanted = [part.strip() for part in settings["only"].split(";")]
    names = [name for name in names if any(part in name for part in wanted)]
    begin = time.monotonic()
    processes, results = {}, {}
    for name in names:  # one at a time: each compiles and warms up undisturbed
        process = _start(name, settings, paths)
        line = process.stdout.readline()
        if line:
            processes[name], results[name] = process, []
            print(f"{name}: ready after {json.loads(line)['ready_s']:.1f} s", file=sys.stderr)
        else:
            problem = process.stderr.read().strip().splitlines()[-1:]
            print(f"{name}: left out ({''.join(problem)})", file=sys.stderr)
    for _ in range(int(settings["rounds"])):
        if time.monotonic() - begin > float(settings["limit_s"]):
            break
        for name, process in processes.items():
            process.stdin.write("pass\n")
            process.stdin.flush()
            results[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.kill()
    return results


def _table(settings: dict[str, str], results: dict[str, Any]) -> str:
    cpu = {
        name: statistics.median(1000 * r["cpu_s"] / r["images"] for r in rounds)
        for name, rounds in results.items()
    }
    first = next(iter(cpu.values()), 1.0)
    lines = [
        f"### {settings['views']}, {settings['recipe']} ({settings['num']} images a pass, "
        f"median of {len(next(iter(results.values()), []))})",
        "",
        "| loader | CPU ms/image | relative | images/s |",
        "|---|---|---|---|",
    ]
    for name, rounds in results.items():
        rate = statistics.median(r["images"] / r["wall_s"] for r in rounds)
        lines.append(f"| {name} | {cpu[name]:.2f} | {cpu[name] / first:.2f} | {rate:.0f} |")
    return "\n".join(lines) + "\n"
