#!/usr/bin/env python3
"""Evaluate weights: WEIGHTS [WEIGHTS ...] data.path=DIR [tasks=knn,linear,metrics] [key=value ...].

For example: tools/evaluate.py runs/mine data.path=mnist5k tasks=knn,linear,metrics
Several WEIGHTS end in one table; `tools/evaluate.py compare FOLDER FOLDER` compares old results.
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
