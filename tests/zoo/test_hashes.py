"""The hash of a file is the one every other tool gives."""

import hashlib
from pathlib import Path

from ssl_vision.zoo.hashes import sha256_of


def test_hash_of_a_file_larger_than_any_buffer(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
