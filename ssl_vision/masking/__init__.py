"""Which patches a network does not see: random, paired, block and multi-block masks.

Masks are made from numbers given as arguments, so that they depend on (seed, step, sample) only:
pass `randomness.keyed_uniform` rows for noise, `randomness.derive_key` values for keys.
"""

from ssl_vision.masking.multi_block import (
    BlockSizes as BlockSizes,
)
from ssl_vision.masking.multi_block import (
    MultiBlockConfig as MultiBlockConfig,
)
from ssl_vision.masking.multi_block import (
    MultiBlockMasks as MultiBlockMasks,
)
from ssl_vision.masking.multi_block import (
    block_sizes as block_sizes,
)
from ssl_vision.masking.multi_block import (
    collator_masks as collator_masks,
)
from ssl_vision.masking.multi_block import (
    multi_block_masks as multi_block_masks,
)
from ssl_vision.masking.patches import (
    MaskSplit as MaskSplit,
)
from ssl_vision.masking.patches import (
    PairedMasks as PairedMasks,
)
from ssl_vision.masking.patches import (
    PatchMasks as PatchMasks,
)
from ssl_vision.masking.patches import (
    block_masks as block_masks,
)
from ssl_vision.masking.patches import (
    crop_masks as crop_masks,
)
from ssl_vision.masking.patches import (
    num_kept as num_kept,
)
from ssl_vision.masking.patches import (
    paired_masks as paired_masks,
)
from ssl_vision.masking.patches import (
    patch_weights as patch_weights,
)
from ssl_vision.masking.patches import (
    random_mask as random_mask,
)
from ssl_vision.masking.patches import (
    raster_mask as raster_mask,
)
from ssl_vision.masking.patches import (
    spread_ratios as spread_ratios,
)
from ssl_vision.masking.room import RARE as RARE
from ssl_vision.masking.room import BlockRoom as BlockRoom
from ssl_vision.masking.room import block_room as block_room
