#!/usr/bin/env python3
"""Backbone of a run (or any WEIGHTS) for others, verified by reloading: RUN OUT [formats=...].

For example: tools/export.py runs/dino OUT formats=timm,onnx,torch_export
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
