#!/usr/bin/env python3
"""What is installed, what is missing, and the line that installs it."""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
