#!/usr/bin/env python3
"""Networks of other sizes out of a POA run: RUN [list=true] [size=W,D ...] [all=true] OUT.

For example: tools/extract.py runs/poa max_params=10e6 OUT
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
