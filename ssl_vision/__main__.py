"""`python -m ssl_vision` is the script `ssl-vision`."""

import sys

from ssl_vision.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
