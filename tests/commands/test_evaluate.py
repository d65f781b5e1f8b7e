from ssl_vision.commands.evaluate import split_files


def test_yaml_files_are_told_from_weights_in_any_order() -> None:
    files, weights = split_files(["runs/a", "more.yaml", "zoo:b", "c.yml"])
    assert files == ["more.yaml", "c.yml"]
    assert weights == ["runs/a", "zoo:b"]
