"""`python -m ssl_vision` is the script."""

import subprocess
import sys


def test_the_package_runs_as_a_module():
    line = [sys.executable, "-m", "ssl_vision", "zoo", "list", "--help"]
    found = subprocess.run(line, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("Usage: ssl-vision zoo list")
