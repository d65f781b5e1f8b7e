"""Views of pairs: which image each is of, whose draws cut and colour them, exact restarts."""

import itertools

import numpy as np
import pytest
import torch

from ssl_vision.data.images.arrays import ArraySource
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.pairs.config import PairData, PairViewConfig
from ssl_vision.data.pairs.loader import PairLoader
from ssl_vision.data.pairs.modality import Pairs
from ssl_vision.data.pairs.source import PairSource
from ssl_vision.errors import ConfigError, DataError
from ssl_vision.views import JitterConfig, ViewConfig

NUM, SIDE = 12, 20
IMAGES = np.random.default_rng(0).integers(0, 256, (2 * NUM, SIDE, SIDE, 3), dtype=np.uint8)
SOURCE = PairSource(ArraySource(IMAGES), np.arange(2 * NUM).reshape(NUM, 2))
CROP = {"size_px": 16, "crop_area": (0.64, 0.64), "crop_ratio": (1.0, 1.0), "flip_prob": 0.0,
        "interpolation": "bilinear"}  # fmt: skip
JITTER = JitterConfig(prob=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)


def loader(source=SOURCE, *, joint=False, jitter=None, seed=3, **settings):
    views = {
        "first": PairViewConfig(**CROP, jitter=jitter),
        "second": PairViewConfig(**CROP, jitter=jitter, is_joint=joint),
    }
    return PairLoader(
        source, settings.pop("views", views),
        **{"batch_size": 4, "seed": seed, "num_threads": 2, **settings},
    )  # fmt: skip


def place_of(view: torch.Tensor, image: np.ndarray) -> tuple[int, int]:
    """Where a crop of 16 px was cut from an image of 20."""
    for top, left in itertools.product(range(5), repeat=2):
        cut = torch.from_numpy(image[top : top + 16, left : left + 16]).permute(2, 0, 1)
        if torch.equal(view, cut):
            return top, left
    raise AssertionError("the view is no crop of the image")


def places(batches) -> tuple[list, list]:
    found = ([], [])
    for batch in batches:
        for row, sample in enumerate(batch.index.tolist()):
            for number, name in enumerate(("first", "second")):
                image = IMAGES[2 * sample + number]
                found[number].append(place_of(batch.views[name][row], image))
    return found


def test_views_are_independent_crops_of_their_own_images() -> None:
    first, second = places(loader())
    assert len(first) == NUM
    assert first != second
    both = list(zip(first, second, strict=True))
    assert sum(a == b for a, b in both) < NUM / 2
    assert len(set(first)) > 4


def test_joint_views_are_cut_at_one_place_which_is_the_firsts() -> None:
    first, second = places(loader(joint=True))
    assert first == second
    assert first == places(loader())[0]


def test_joint_views_are_mirrored_together() -> None:
    both = {**CROP, "crop_area": (1.0, 1.0), "size_px": SIDE, "flip_prob": 0.5}
    views = {"first": PairViewConfig(**both), "second": PairViewConfig(**both, is_joint=True)}
    (batch,) = loader(views=views, batch_size=NUM)
    flipped = []
    for row, sample in enumerate(batch.index.tolist()):
        images = torch.from_numpy(IMAGES[2 * sample : 2 * sample + 2]).permute(0, 3, 1, 2)
        pair = torch.stack([batch.views["first"][row], batch.views["second"][row]])
        flipped.append(torch.equal(pair, images.flip(3)))
        assert flipped[-1] or torch.equal(pair, images)
    assert 0 < sum(flipped) < NUM


@pytest.mark.parametrize("joint", [False, True])
def test_colours_are_drawn_for_each_image(joint: bool) -> None:
    """Of two equal images, two colours; the images' own loader draws the same for that name."""
    gray = np.full((2, SIDE, SIDE, 3), 100, np.uint8)
    gray[1] += 1  # one picture twice is no pair
    source = PairSource(ArraySource(gray), np.array([[0, 1]]))
    (batch,) = loader(source, joint=joint, jitter=JITTER, batch_size=1)
    first, second = batch.views["first"].float().mean(), batch.views["second"].float().mean()
    assert abs(first - second) > 3
    alone = MultiViewLoader(
        ArraySource(gray[1:]), {"second": ViewConfig(**CROP, jitter=JITTER)},
        batch_size=1, seed=3, num_threads=1,
    )  # fmt: skip
    (other,) = alone
    assert torch.equal(other.views["second"], batch.views["second"])


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    def by_sample(batches):
        return {
            (name, sample): batch.views[name][row]
            for batch in batches
            for row, sample in enumerate(batch.index.tolist())
            for name in batch.views
        }

    plain = by_sample(loader(jitter=JITTER))
    parts = [
        loader(jitter=JITTER, rank=r, world_size=2, batch_size=2, num_threads=1) for r in (0, 1)
    ]
    split = by_sample(itertools.chain(*parts))
    assert plain.keys() == split.keys()
    assert all(torch.equal(view, split[key]) for key, view in plain.items())
    other = by_sample(loader(jitter=JITTER, seed=4))
    assert not all(torch.equal(view, other[key]) for key, view in plain.items())
    again = loader(jitter=JITTER)
    list(again)
    second_epoch = by_sample(again)
    assert not all(torch.equal(view, second_epoch[key]) for key, view in plain.items())


def test_a_restart_goes_on_with_the_very_next_batch() -> None:
    whole = [batch for _ in range(2) for batch in loader(jitter=JITTER)][:3]
    straight = loader(jitter=JITTER)
    expected = list(straight)
    broken = loader(jitter=JITTER)
    taken = iter(broken)
    next(taken)
    state = broken.state_dict()
    taken.close()
    resumed = loader(jitter=JITTER)
    resumed.load_state_dict(state)
    for ours, theirs in zip(resumed, expected[1:], strict=True):
        assert torch.equal(ours.index, theirs.index)
        for name in ours.views:
            assert torch.equal(ours.views[name], theirs.views[name])
    assert torch.equal(whole[0].views["second"], expected[0].views["second"])


def test_colours_on_the_device_are_those_of_the_cpu() -> None:
    """Within a level: both draw by the same keys, and round at different places."""
    views = {
        "first": PairViewConfig(**CROP, jitter=JITTER),
        "second": PairViewConfig(**CROP, jitter=JITTER, is_joint=True),
    }
    config = PairData(path="x", views=views, augment_on="device")
    (cpu,) = loader(views=views, batch_size=NUM)
    (crops,) = loader(views=config.loaded_views(), batch_size=NUM)
    device = Pairs().on_device(crops, config, seed=3)
    for name in views:
        difference = (cpu.views[name].int() - device.views[name].int()).abs()
        assert difference.max() <= 1


def test_an_evaluation_is_shown_the_first_image() -> None:
    view = ViewConfig(size_px=SIDE, crop="center", center_fraction=1.0, flip_prob=0.0)
    (batch,) = loader(views={"image": view}, batch_size=NUM, shuffle=False)
    expected = torch.from_numpy(IMAGES[::2]).permute(0, 3, 1, 2)
    assert torch.equal(batch.views["image"], expected)


class _OneBad(PairSource):
    def sample(self, index, decoder=None):
        if index == 5:
            raise DataError("its images are of 3 x 2 and 2 x 3 px; a pair has one size")
        return super().sample(index, decoder)


def test_a_bad_pair_is_named_or_replaced() -> None:
    source = _OneBad(SOURCE.images, SOURCE.pairs)
    with pytest.raises(DataError, match=r"sample 5 \(array\[10\] and array\[11\]\).*one size"):
        list(loader(source))
    tolerant = loader(source, on_error="substitute")
    indices = torch.cat([batch.index for batch in tolerant])
    assert len(indices) == NUM
    assert 5 not in indices
    assert list(tolerant.bad_samples) == [5]


def test_single_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="data set of images; what is asked for takes pairs"):
        loader(ArraySource(IMAGES))
