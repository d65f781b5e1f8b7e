#!/usr/bin/env python3
"""Weights by name: list | show NAME | download NAME | convert FILE OUT | pin | forget NAME | table.

For example: tools/zoo.py convert checkpoint.pth OUT key=student
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["zoo", *sys.argv[1:]]))
