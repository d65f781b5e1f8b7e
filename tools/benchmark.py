#!/usr/bin/env python3
"""Contenders side by side on this machine.

    tools/benchmark.py PART [key=value ...]

Each part is a module in tools/benchmarks/ with its own documentation, which
`tools/benchmark.py PART help` prints.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main(arguments: list[str]) -> int:
    """Run one part; the exit status."""
    folder = Path(__file__).resolve().parent / "benchmarks"
    parts = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if not arguments or arguments[0] not in parts:
        print(f"{__doc__}\nParts: {', '.join(parts)}", file=sys.stderr)
        return 2
    part = importlib.import_module(f"benchmarks.{arguments[0]}")
    if "help" in arguments[1:]:
        print(part.__doc__)
        return 0
    return int(part.main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
