#!/usr/bin/env python3
"""Cut ImageNet-like JPEGs from Debian's wallpapers: make_benchmark_images.py OUT [num=3000]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmarks.images import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
