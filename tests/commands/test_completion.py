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
        ("prepare", "mode=pro", "mode=proportion"),
    ],
)
def test_names_keys_and_words_are_completed(command: str, typed: str, expected: str) -> None:
    assert expected in [item.value for item in complete(command, typed)]


def test_what_is_no_name_is_left_to_the_shell_as_a_file() -> None:
    (item,) = complete("export", "runs/fi")
    assert (item.value, item.type) == ("runs/fi", "file")
