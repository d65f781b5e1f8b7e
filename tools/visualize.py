#!/usr/bin/env python3
"""Attention maps, patch features as colours, MAE reconstructions: WEIGHTS IMAGE ... OUT.

For example: tools/visualize.py runs/mae photos OUT what=reconstruction
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["visualize", *sys.argv[1:]]))
