"""Pretrain a tiny network on built-in data and compare it with what costs nothing.

tools/quickstart.py RUN_FOLDER [METHOD] [key=value ...]; METHOD is a folder of configs/ (dino).
"""

import sys
from pathlib import Path

from ssl_vision.engine.cli import guarded
from ssl_vision.engine.quickstart import quickstart

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: list[str]) -> None:
    """Split the arguments and run."""
    overrides = [argument for argument in argv if "=" in argument]
    run_dir, method, *_ = [a for a in argv if "=" not in a] + ["dino"]
    quickstart(CONFIGS / method / "tiny_cpu.yaml", Path(run_dir), overrides)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
