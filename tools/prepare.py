#!/usr/bin/env python3
"""Pack a folder of images, or a named data set, into one .beton file.

    tools/prepare.py SOURCE OUT.beton [split=train|val] [key=value ...]

Keys: mode=keep|jpg|raw|proportion, jpg_quality, jpg_share, max_side_px, max_bad_fraction,
page_size, verify, num_threads, overwrite, download. Bad images are listed in OUT.beton.bad.
"""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
