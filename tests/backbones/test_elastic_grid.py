from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from ssl_vision.backbones.elastic_grid import (
    ElasticConfig,
    Extent,
    candidates,
    draw,
    kept_blocks,
)
from ssl_vision.errors import ConfigError

VIT_L = Extent(min_size=(384, 12), max_size=(1024, 24), width_step=64, depth_step=1)
SWIN_B = Extent(min_size=(96, 6), max_size=(128, 18), width_step=16, depth_step=1)
RESNET = Extent(min_size=(64, 4, 6), max_size=(128, 8, 36), width_step=32, depth_step=1)


@pytest.mark.parametrize(("extent", "count"), [(VIT_L, 143), (SWIN_B, 39), (RESNET, 465)])
def test_grids_have_the_papers_number_of_sizes(extent: Extent, count: int) -> None:
    assert len(set(extent.sizes)) == len(extent.sizes) == count
    assert extent.sizes[0] == extent.min_size
    assert extent.sizes[-1] == extent.max_size


def test_a_coarse_grid_keeps_both_ends() -> None:
    extent = Extent(min_size=(384, 12), max_size=(1024, 24), width_step=256, depth_step=5)
    assert extent.widths == [384, 640, 896, 1024]
    assert extent.depths == [(12,), (17,), (22,), (24,)]


@pytest.mark.parametrize(
    ("extent", "biases", "count"),
    [(VIT_L, (3, 3), 572), (VIT_L, (1, 1), 142), (SWIN_B, (2, 2), 88), (RESNET, (1, 2), 698)],
)
def test_multisets_have_the_official_length(
    extent: Extent, biases: tuple[float, float], count: int
) -> None:
    drawn = candidates(extent, width_bias=biases[0], depth_bias=biases[1])
    assert len(drawn) == count
    assert extent.max_size not in drawn
    assert set(drawn) | {extent.max_size} == set(extent.sizes)


def test_multisets_and_blocks_are_the_official_ones(
    golden: Callable[[str], dict[str, np.ndarray]],
) -> None:
    arrays = golden("poa_vit")
    for bias in (1, 2, 3):
        official = Counter(map(tuple, arrays[f"grid.vitl.scale{bias}"].tolist()))
        official[1024, 24] -= 1  # its last entry, the intact network, is left out
        assert Counter(candidates(VIT_L, width_bias=bias, depth_bias=bias)) == +official
    for depth in range(12, 25):
        expected = arrays[f"grid.vitl.blocks{depth}"].tolist()
        assert kept_blocks(24, depth, is_paired=False) == expected


def test_a_grid_of_one_size_draws_the_parent() -> None:
    only = Extent(min_size=(64, 4), max_size=(64, 4), width_step=8, depth_step=1)
    assert candidates(only, width_bias=3.0, depth_bias=3.0) == [(64, 4)]


def test_pairs_of_eighteen_blocks() -> None:
    assert kept_blocks(18, 6, is_paired=True) == [0, 1, 8, 9, 16, 17]
    assert kept_blocks(18, 6, is_paired=False) == [0, 3, 6, 10, 13, 17]


@pytest.mark.parametrize("is_paired", [True, False])
def test_kept_blocks_rise_start_at_zero_and_keep_parity_in_pairs(is_paired: bool) -> None:
    for num_blocks in range(1, 31):
        assert kept_blocks(num_blocks, num_blocks, is_paired=is_paired) == list(range(num_blocks))
        for num_kept in range(1, num_blocks + 1):
            kept = kept_blocks(num_blocks, num_kept, is_paired=is_paired)
            assert len(kept) == num_kept
            assert kept[0] == 0
            assert kept[-1] < num_blocks
            assert kept == sorted(set(kept))
            if is_paired:
                assert all(block % 2 == i % 2 for i, block in enumerate(kept))
            elif num_kept > 1:
                assert kept[-1] == num_blocks - 1


def test_a_walk_takes_every_entry_once_per_round_in_new_orders() -> None:
    drawn = candidates(SWIN_B, width_bias=2.0, depth_bias=2.0)
    walk = [draw(drawn, step=step, key=(0, "size", 3)) for step in range(3 * len(drawn))]
    rounds = [walk[i * len(drawn) : (i + 1) * len(drawn)] for i in range(3)]
    assert all(Counter(one_round) == Counter(drawn) for one_round in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_draw_depends_on_step_and_key_alone() -> None:
    drawn = candidates(SWIN_B, width_bias=2.0, depth_bias=2.0)
    assert draw(drawn, step=17, key=(0, 1)) == draw(drawn, step=17, key=(0, 1))
    first, second = ([draw(drawn, step=i, key=(0, rank)) for i in range(88)] for rank in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: ElasticConfig(depth_step=0), "method.elastic.depth_step=0"),
        (lambda: ElasticConfig(min_depth=()), "method.elastic.min_depth"),
        (
            lambda: Extent(min_size=(8, 2), max_size=(8, 2, 2), width_step=8, depth_step=1),
            "one number per elastic stage; this network has 2",
        ),
        (
            lambda: Extent(min_size=(96, 6), max_size=(64, 12), width_step=8, depth_step=1),
            "smallest size 96,6 exceeds the network itself, 64,12",
        ),
    ],
)
def test_impossible_grids_are_explained(mistake: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        mistake()
