#!/usr/bin/env python3
"""Pretrain a tiny network and compare it with what costs nothing: RECIPE.yaml [key=value ...].

For example: tools/quickstart.py configs/mae/tiny_cpu.yaml run_dir=runs/mae
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["quickstart", *sys.argv[1:]]))
