#!/usr/bin/env python3
"""Pretrain (or train with labels): RECIPE.yaml [more.yaml ...] [key=value ...].

For example: tools/train.py configs/dino/tiny_cpu.yaml data.path=/my/images run_dir=runs/mine
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
