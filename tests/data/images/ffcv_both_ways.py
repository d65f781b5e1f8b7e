"""ffcv reads what we pack and runs our decoder; we read what ffcv writes. Run with a folder."""

import sys
from pathlib import Path

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter

from ssl_vision.data.decode import Decoder
from ssl_vision.data.images.beton import BetonSource, multi_view_decoder, split_views
from ssl_vision.data.images.find import build_source
from ssl_vision.data.images.loader import MultiViewLoader
from ssl_vision.data.images.pack import PackConfig, pack
from ssl_vision.views import BlurConfig, JitterConfig, SolarizeConfig, ViewConfig

VIEWS = {
    "a": ViewConfig(size_px=24, jitter=JitterConfig(), blur=BlurConfig(), gray_prob=0.2),
    "b": ViewConfig(size_px=16, count=2, interpolation="bilinear", solarize=SolarizeConfig()),
}
ORDER = OrderOption.SEQUENTIAL


class Samples:
    """The folder as ffcv's writer wants it."""

    def __init__(self, folder: Path) -> None:
        self.source = build_source(str(folder))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.source.sample(i, Decoder()).copy(), int(self.source.labels[i])


def packed(folder: Path, mode: str) -> Path:
    path = folder.parent / f"{mode}.beton"
    pack(build_source(str(folder)), path, PackConfig(mode=mode))
    return path


def check_our_decoder_in_their_loader_draws_our_views(folder: Path) -> None:
    mixed = packed(folder, "proportion")
    decoder = multi_view_decoder(VIEWS, seed=1)
    steps = {"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]}
    theirs = Loader(str(mixed), batch_size=8, num_workers=1, order=ORDER, pipelines=steps)
    ours = MultiViewLoader(BetonSource(mixed), VIEWS, batch_size=8, seed=1, shuffle=False)
    for epoch in range(2):
        decoder.set_epoch(epoch)
        for (flat, label), batch in zip(theirs, ours, strict=True):
            views = split_views(flat, VIEWS)
            assert all(torch.equal(views[name], batch.views[name]) for name in VIEWS)
            assert torch.equal(label.flatten(), batch.label)
        decoder.check()


def check_they_read_ours(folder: Path) -> None:
    for mode in ("keep", "raw"):
        steps = {"image": [CenterCropRGBImageDecoder((30, 30), 1.0)], "label": None}
        path = str(packed(folder, mode))
        loader = Loader(path, batch_size=8, num_workers=1, order=ORDER, pipelines=steps)
        assert sum(len(batch[0]) for batch in loader) == 24


def check_we_read_theirs(folder: Path) -> None:
    samples, target = Samples(folder), folder.parent / "theirs.beton"
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(target), fields, num_workers=1).from_indexed_dataset(samples)
    written = build_source(str(target))
    assert written.labels.tolist() == samples.source.labels.tolist()
    for i in range(len(samples)):
        assert np.array_equal(written.sample(i, Decoder()), samples[i][0])


if __name__ == "__main__":
    images = Path(sys.argv[1])
    check_our_decoder_in_their_loader_draws_our_views(images)
    check_they_read_ours(images)
    check_we_read_theirs(images)
