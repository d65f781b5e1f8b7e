import pytest

from ssl_vision.errors import ConfigError
from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig, evaluation_view


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ViewConfig(size_px=0), ["size_px"]),
        (lambda: ViewConfig(crop_area=(0.5, 0.1)), ["crop_area", "0.5"]),
        (lambda: ViewConfig(crop_area=(0.1, 1.5)), ["crop_area", "1.5"]),
        (lambda: ViewConfig(flip_prob=1.5), ["flip_prob=1.5"]),
        (lambda: JitterConfig(hue=0.7), ["hue=0.7", "0.5"]),
        (lambda: JitterConfig(contrast=-1), ["contrast=-1"]),
        (lambda: BlurConfig(sigma_px=(0.0, 1.0)), ["sigma_px"]),
        (lambda: BlurConfig(kernel_px=8), ["kernel_px=8", "odd"]),
        (lambda: BlurConfig(kernel_px=-1), ["kernel_px=-1"]),
        (lambda: SolarizeConfig(threshold=300), ["threshold=300"]),
        (lambda: evaluation_view(size_px=224, interpolation="area"), ["area", "bicubic"]),
    ],
)
def test_impossible_settings_name_the_field_and_the_value(build, words) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert all(word in str(caught.value) for word in words)


def test_the_evaluation_view_has_no_randomness() -> None:
    view = evaluation_view(size_px=224)
    assert view.crop == "center"
    assert view.flip_prob == view.gray_prob == 0
    assert view.jitter is view.blur is view.solarize is None
