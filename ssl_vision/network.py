"""Whether the network may be touched at all: SSL_VISION_OFFLINE=1 forbids it, everywhere."""

import os


def is_offline() -> bool:
    """Whether SSL_VISION_OFFLINE forbids the network."""
    return os.environ.get("SSL_VISION_OFFLINE", "0").lower() not in ("", "0", "false", "no")
