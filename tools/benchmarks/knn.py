#!/usr/bin/env python3
"""kNN side by side: ours (FAISS and torch), DINO's way, lightly's, scikit-learn's.

Run: tools/benchmark.py knn [num_bank=50000] [width=384] [num_queries=10000] [k=20,200]
     [classes=1000] [rounds=3] [threads=2] [device=cpu] [memory=1] [out=knn.json]

Each contender classifies the same queries. Time is the best of alternating rounds in one process;
CPU seconds are over all threads, and hardly feel what else the machine does. Memory is the growth
of the peak of a fresh process that runs one contender once. Contenders that are not installed are
left out. DINO's way is written here from its description: the whole score matrix in 100 chunks of
queries, top-k, one-hot votes.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks._settings import read_settings

DEFAULTS = {
    "num_bank": 50_000, "width": 384, "num_queries": 10_000, "k": "20,200", "classes": 1000,
    "rounds": 3, "threads": 2, "device": "cpu", "out": "", "alone": "", "memory": 1,
}  # fmt: skip
TEMPERATURE = 0.07
BENCHMARK = str(Path(__file__).resolve().parents[1] / "benchmark.py")


def make_data(settings: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bank, labels and queries: noisy clusters of unit vectors, so that votes are split."""
    generator = torch.Generator().manual_seed(0)
    classes, width = settings["classes"], settings["width"]
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.randint(0, classes, (settings["num_bank"],), generator=generator)
    truth = torch.randint(0, classes, (settings["num_queries"],), generator=generator)
    noise = 2.5
    bank = centres[labels] + noise * torch.randn(len(labels), width, generator=generator)
    queries = centres[truth] + noise * torch.randn(len(truth), width, generator=generator)
    normalize = torch.nn.functional.normalize
    return normalize(bank, dim=1), labels, normalize(queries, dim=1)


def ours(search: str) -> Callable[..., torch.Tensor]:
    """Our kNN; exact order, float64 votes."""

    def classify(bank: Any, labels: Any, queries: Any, k: int, classes: int) -> torch.Tensor:
        from ssl_vision.evaluation.knn import knn_classify

        return knn_classify(
            bank, labels, queries, k=k, temperature=TEMPERATURE, num_classes=classes,
            search=search, device=bank.device,
        )  # fmt: skip

    return classify


def dino(bank: Any, labels: Any, queries: Any, k: int, classes: int) -> torch.Tensor:
    """Scores of a hundredth of the queries at a time, top-k, one-hot votes (Caron et al. 2021)."""
    columns, answers = bank.T.contiguous(), []
    for part in queries.split(max(1, len(queries) // 100)):
        scores, rows = (part @ columns).topk(k, dim=1)
        votes = labels[rows]
        one_hot = torch.zeros(len(part) * k, classes, device=bank.device)
        one_hot.scatter_(1, votes.view(-1, 1), 1)
        weights = (scores / TEMPERATURE).exp()
        votes = (one_hot.view(len(part), k, classes) * weights[:, :, None]).sum(dim=1)
        answers.append(votes.sort(dim=1, descending=True).indices[:, 0])
    return torch.cat(answers)


def lightly(bank: Any, labels: Any, queries: Any, k: int, classes: int) -> torch.Tensor:
    """lightly.utils.benchmarking.knn, batches of 256 as in its benchmarks."""
    from lightly.utils.benchmarking.knn import knn_predict

    columns = bank.T.contiguous()
    parts = [
        knn_predict(part, columns, labels, num_classes=classes, knn_k=k, knn_t=TEMPERATURE)[:, 0]
        for part in queries.split(256)
    ]
    return torch.cat(parts)


def scikit_learn(bank: Any, labels: Any, queries: Any, k: int, classes: int) -> torch.Tensor:
    """KNeighborsClassifier, brute force, cosine, the same weights."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(
        k, algorithm="brute", metric="cosine", n_jobs=torch.get_num_threads(),
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
    )  # fmt: skip
    return torch.from_numpy(model.fit(bank.numpy(), labels.numpy()).predict(queries.numpy()))


def contenders(device: str) -> dict[str, Callable[..., torch.Tensor]]:
    """Those that are installed and run on the device."""
    found: dict[str, Callable[..., torch.Tensor]] = {"ours, torch": ours("torch"), "DINO": dino}
    if importlib.util.find_spec("faiss") and device == "cpu":
        found = {"ours, FAISS": ours("faiss"), **found}
    if importlib.util.find_spec("lightly"):
        found["lightly"] = lightly
    if importlib.util.find_spec("sklearn") and device == "cpu":
        found["scikit-learn"] = scikit_learn
    return found


def run_alone(settings: dict[str, Any]) -> None:
    """One contender once in this process; prints how far it raised the peak, in MiB."""
    name, k = settings["alone"].split("/")
    bank, labels, queries = make_data(settings)
    classify = contenders("cpu")[name]
    classify(bank[:1000], labels[:1000], queries[:100], 20, settings["classes"])  # imports, caches
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = memory_mib("VmRSS")
    classify(bank, labels, queries, int(k), settings["classes"])
    print(memory_mib("VmHWM") - before)


def memory_mib(key: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def memory_of(name: str, k: int, settings: dict[str, Any]) -> float:
    """Growth of the peak in MiB, from a fresh process."""
    given = [f"{key}={value}" for key, value in settings.items() if key not in ("alone", "out")]
    command = [sys.executable, BENCHMARK, "knn", *given, f"alone={name}/{k}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Time, memory and agreement of every contender for every k."""
    device = settings["device"]
    bank, labels, queries = (part.to(device) for part in make_data(settings))
    rows = []
    for k in (int(each) for each in str(settings["k"]).split(",")):
        times: dict[str, list[float]] = {}
        answers, cpu = {}, dict[str, float]()
        for classify in contenders(device).values():  # imports, compiled kernels, caches
            classify(bank[:1000], labels[:1000], queries[:100], 20, settings["classes"])
        for _ in range(settings["rounds"]):
            for name, classify in contenders(device).items():
                start, busy = time.perf_counter(), time.process_time()
                answer = classify(bank, labels, queries, k, settings["classes"]).cpu()
                times.setdefault(name, []).append(time.perf_counter() - start)
                cpu[name] = min(cpu.get(name, float("inf")), time.process_time() - busy)
                answers[name] = answer
                print(f"{name}, k={k}: {cpu[name]:.1f} CPU seconds", file=sys.stderr, flush=True)
        reference = answers["ours, torch"]
        for name, seconds in times.items():
            row = {"contender": name, "k": k, "seconds": min(seconds), "cpu": cpu[name]}
            row["agreement"] = float((answers[name] == reference).double().mean())
            if device == "cpu" and settings["memory"]:
                row["peak_mib"] = memory_of(name, k, settings)
            rows.append(row)
    return rows


def main(argv: list[str]) -> None:
    """Measure and print a Markdown table."""
    settings = read_settings(argv, DEFAULTS)
    torch.set_num_threads(settings["threads"])
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(settings["threads"])
    if settings["alone"]:
        run_alone(settings)
        return
    rows = measure(settings)
    size = f"{settings['num_bank']} x {settings['width']} bank, {settings['num_queries']} queries"
    print(f"{size}, {settings['classes']} classes, {settings['device']}\n")
    print("| contender | k | seconds | CPU seconds | peak memory, MiB | same class as ours |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        memory = f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""
        times = f"{row['seconds']:.2f} | {row['cpu']:.1f}"
        agreement = f"{100 * row['agreement']:.3f} %"
        print(f"| {row['contender']} | {row['k']} | {times} | {memory} | {agreement} |")
    if settings["out"]:
        Path(settings["out"]).write_text(json.dumps(rows, indent=1))
