#!/usr/bin/env python3
"""Write features as .npy files: WEIGHTS data.path=DIR OUT [patches=true] [key=value ...].

For example: tools/embed.py runs/mine data.path=/my/images features
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
