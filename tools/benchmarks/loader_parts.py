"""The parts of the loader alone: crops, colour, decoding, first batch, opening a large file.

    tools/benchmark.py loader_parts image=FILE.jpg [repeats=200]

CPU milliseconds of one thread: the smallest of many short measurements, which is what a quiet core
does. First batches are wall seconds of a fresh process from the loader's construction, once with
the kernels' cache and once with an empty one.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from benchmarks._settings import read_settings

_ROOT = Path(__file__).resolve().parents[2]
_FIRST = """
import time, numpy as np
from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.loader import MultiViewLoader

from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig
view = ViewConfig(jitter=JitterConfig(), blur=BlurConfig(), solarize=SolarizeConfig(), gray_prob=.2)
images = np.zeros((64, 375, 500, 3), np.uint8)
begin = time.perf_counter()
next(iter(MultiViewLoader(ArraySource(images), {"a": view}, batch_size=8, seed=0, num_threads=2)))
print(time.perf_counter() - begin)
"""


def _best_ms(function: Callable[[int], object], repeats: int) -> float:
    function(0)
    best = float("inf")
    for number in range(repeats):
        start = time.thread_time()
        for part in range(3):
            function(3 * number + part)
        best = min(best, (time.thread_time() - start) / 3)
    return 1000 * best


def _mean_of_best_ms(function: Callable[[int], object], repeats: int) -> float:
    """Mean over 24 keys of the best of each: draws differ in cost."""
    each = [_best_ms(lambda _, key=key: function(key), repeats // 20) for key in range(24)]
    return float(np.mean(each))


def main(arguments: list[str]) -> int:
    """Measure and print; the exit status."""
    from ssl_vision.data.decode import Decoder, turbojpeg

    settings = read_settings(arguments, {"image": "", "repeats": 200})
    if not settings["image"]:
        print("image=FILE.jpg is needed", file=sys.stderr)
        return 2
    repeats = settings["repeats"]
    data = Path(settings["image"]).read_bytes()
    decoder = Decoder()
    pixels = decoder.decode(data).copy()
    height, width, _ = pixels.shape
    name = "libjpeg-turbo" if turbojpeg() else "Pillow"
    title = f"decode {width}x{height}, {len(data) / 1000:.0f} kB, {name}"
    rows = [(title, _best_ms(lambda _: decoder.decode(data), repeats))]
    for size, area in ((224, (0.08, 1.0)), (96, (0.05, 0.32))):
        rows += _view_parts(pixels, size, area, repeats)
    lines = ["| part | CPU ms |", "|---|---|", *(f"| {part} | {ms:.3f} |" for part, ms in rows)]
    print("\n".join([*lines, *_first_batches()]))
    return 0


def _view_parts(
    pixels: np.ndarray, size: int, area: tuple[float, float], repeats: int
) -> list[tuple[str, float]]:
    from ssl_vision.data.kernels import color
    from ssl_vision.data.kernels.crop import crop_bicubic, crop_bilinear, crop_table
    from ssl_vision.data.kernels.draws import view_key
    from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

    height, width, _ = pixels.shape
    flat, out = pixels.reshape(-1), np.empty((3, size, size), np.uint8)
    scratch = np.empty(color.scratch_size(size), np.float32)
    keys = [np.uint64(view_key(np.uint64(1), 0, i, 0)) for i in range(24)]
    jitter, blur, solarize = JitterConfig(), BlurConfig(), SolarizeConfig()
    view = ViewConfig(
        size_px=size, crop_area=area, gray_prob=0.2, jitter=jitter, blur=blur, solarize=solarize
    )
    crops = crop_table(view)
    rows = []
    for kind, crop in (("bilinear", crop_bilinear), ("bicubic", crop_bicubic)):
        cost = _mean_of_best_ms(
            lambda i, crop=crop: crop(flat, height, width, crops, keys[i], out), repeats
        )
        rows.append((f"crop and flip to {size}, {kind}", cost))
    table = color.color_table(view)
    title = f"jitter .8, gray .2, blur .5, solarize .2 at {size}"
    cost = _mean_of_best_ms(lambda i: color.recolor(out, table, keys[i], scratch), repeats)
    return [*rows, (title, cost)]


def _first_batches() -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}

    def run(**extra: str) -> float:
        command = [sys.executable, "-c", _FIRST]
        done = subprocess.run(
            command, env=environment | extra, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    with tempfile.TemporaryDirectory() as empty:
        cold = run(NUMBA_CACHE_DIR=empty)
        warm = min(run(NUMBA_CACHE_DIR=empty) for _ in range(3))
    return ["", f"First batch: {warm:.2f} s with cached kernels, {cold:.1f} s without."]
