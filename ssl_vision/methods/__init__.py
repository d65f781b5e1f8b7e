"""The table of methods: add one line here to add a method."""

from dataclasses import dataclass

from ssl_vision.data.clouds.config import CloudData
from ssl_vision.data.config import DataConfig
from ssl_vision.data.images.config import ImageData
from ssl_vision.data.pairs.config import PairData
from ssl_vision.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from ssl_vision.methods.base import Method as Method
from ssl_vision.methods.base import MethodConfig as MethodConfig
from ssl_vision.methods.base import TrainPlan as TrainPlan
from ssl_vision.methods.croco import Croco, CrocoConfig
from ssl_vision.methods.dino import Dino, DinoConfig
from ssl_vision.methods.distill import Distill, DistillConfig
from ssl_vision.methods.ijepa import Ijepa, IjepaConfig
from ssl_vision.methods.lejepa import Lejepa, LejepaConfig
from ssl_vision.methods.mae import Mae, MaeConfig
from ssl_vision.methods.poa import Poa, PoaConfig
from ssl_vision.methods.point_cmae import PointCmae, PointCmaeConfig
from ssl_vision.methods.point_mae import PointMae, PointMaeConfig
from ssl_vision.methods.random_teacher import RandomTeacher, RandomTeacherConfig
from ssl_vision.methods.simclr import Simclr, SimclrConfig
from ssl_vision.methods.supervised import Supervised, SupervisedConfig
from ssl_vision.methods.vicreg import Vicreg, VicregConfig


@dataclass(frozen=True)
class MethodEntry:
    """A method's settings, its module, and the settings of the data it takes."""

    config: type[MethodConfig]
    module: type[Method]
    data: type[DataConfig]


METHODS: dict[str, MethodEntry] = {
    "point_cmae": MethodEntry(PointCmaeConfig, PointCmae, CloudData),
    "point_mae": MethodEntry(PointMaeConfig, PointMae, CloudData),
    "barlow_twins": MethodEntry(BarlowTwinsConfig, BarlowTwins, ImageData),
    "simclr": MethodEntry(SimclrConfig, Simclr, ImageData),
    "vicreg": MethodEntry(VicregConfig, Vicreg, ImageData),
    "lejepa": MethodEntry(LejepaConfig, Lejepa, ImageData),
    "mae": MethodEntry(MaeConfig, Mae, ImageData),
    "ijepa": MethodEntry(IjepaConfig, Ijepa, ImageData),
    "croco": MethodEntry(CrocoConfig, Croco, PairData),
    "distill": MethodEntry(DistillConfig, Distill, ImageData),
    "dino": MethodEntry(DinoConfig, Dino, ImageData),
    "poa": MethodEntry(PoaConfig, Poa, ImageData),
    "random_teacher": MethodEntry(RandomTeacherConfig, RandomTeacher, ImageData),
    "supervised": MethodEntry(SupervisedConfig, Supervised, ImageData),
}
