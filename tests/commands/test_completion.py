import os
import shutil
import subprocess
import sys

import pytest

from ssl_vision.commands.completion import complete


@pytest.mark.parametrize(
    ("command", "typed", "expected"),
    [
        ("train", "dino/t", "dino/tiny_cpu"),
        ("train", "optim.base", "optim.base_lr="),
        ("train", "method.mask_r", "method.mask_ratio="),
        ("train", "optim.schedule=inf", "optim.schedule=infinite"),
        ("train", "method.name=poi", "method.name=point_mae"),
        ("evaluate", "knn.is_leave_one_out=t", "knn.is_leave_one_out=true"),
        ("train", "au", "auto"),
        ("prepare", "mode=pro", "mode=proportion"),
    ],
)
def test_names_keys_and_words_are_completed(command: str, typed: str, expected: str) -> None:
    assert expected in [item.value for item in complete(command, typed)]


def test_what_is_no_name_is_left_to_the_shell_as_a_file() -> None:
    (item,) = complete("export", "runs/fi")
    assert (item.value, item.type) == ("runs/fi", "file")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["train", "dino/sm"], ["dino/small"]),
        (["train", "dino/small", "optim.base"], ["optim.base_lr="]),
        (["train", "dino/small", "optim.schedule", "=", "inf"], ["infinite"]),
        (["train", "dino/small", "method.name", "=", "poi"], ["point_cmae", "point_mae"]),
        (["train", "dino/small", "trainer.strategy", "="], ["auto", "ddp", "fsdp2"]),
    ],
)
def test_bash_completes_what_it_cuts_at_equals_signs(tmp_path, words, expected) -> None:
    """The functions that `eval` defines, called as bash calls them for the last word."""
    program = tmp_path / "ssl-vision"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ssl_vision "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_SSL_VISION_COMPLETE=bash_source ssl-vision)"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _ssl_vision_completion ssl-vision
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", "ssl-vision", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert sorted(done.stdout.split()) == expected
