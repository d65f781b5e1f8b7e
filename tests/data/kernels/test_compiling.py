"""Compiled code is kept on disk, until any source of the kernels changes."""

import subprocess
import sys
from pathlib import Path

from ssl_vision.data.kernels import compiling

KERNEL = """
from compiling import jit
from other import one

@jit
def two(x):
    return one(x) + 1
"""
OTHER = """
from compiling import jit

@jit
def one(x):
    return x + {}
"""
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from kernel import two
print(two(1), sum(two.stats.cache_hits.values()), two.targetoptions["fastmath"])
"""


def test_code_is_cached_until_the_file_of_a_callee_changes(tmp_path) -> None:
    (tmp_path / "compiling.py").write_text(Path(compiling.__file__).read_text())
    (tmp_path / "kernel.py").write_text(KERNEL)

    def run(number: int) -> list[str]:
        (tmp_path / "other.py").write_text(OTHER.format(number))
        command = [sys.executable, "-B", "-c", RUN, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    assert run(1) == ["3", "0", "False"]
    assert run(1) == ["3", "1", "False"]
    assert run(5) == ["7", "0", "False"]
