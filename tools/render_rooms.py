#!/usr/bin/env python3
r"""Render rooms in pairs of views, with depth, classes, poses and correspondences.

    tools/render_rooms.py OUT [kind=furniture] [rooms=150] [val_rooms=25] [pairs=8] [size_px=128]
        [seed=0] [furniture=/usr/share/sweethome3d/furniture]

kind=furniture: real textured models of Debian's sweethome3d-furniture (CC-BY, CC0; apt-get install
sweethome3d-furniture), rendered offscreen by pyvista (pip install pyvista). kind=blocks: the
textured blocks that are built in as data.path=blocks, on the disk; needs neither.

Rooms of `val` are none of `train`; the models in them may be the same. The same settings give the
same bytes on one machine. What is written: tools/rooms/output.py. Which views are a pair is decided
as for anyone's renders, by `ssl-vision pairs`, which writes OUT/train.txt and OUT/val.txt:

    ssl-vision train croco/tiny_cpu data.path=OUT
    ssl-vision evaluate RUN data.path=OUT/images tasks=segment,depth,correspond \
        masks.path=OUT/masks masks.labels=OUT/classes.csv depth.path=OUT/depth \
        correspond.pairs=OUT/correspond.csv
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rooms.command import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or "help" in sys.argv:
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    sys.exit(main(sys.argv[1:]))
