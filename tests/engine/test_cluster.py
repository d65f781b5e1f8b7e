"""Variables of SLURM: srun's tasks are joined, jobs around us are ignored, nonsense is one line."""

import os

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from ssl_vision.engine.cluster import cluster_environment
from ssl_vision.engine.strategy import build_fabric
from ssl_vision.errors import ConfigError

TASK = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
        "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "12345"}  # fmt: skip


@pytest.fixture
def slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "TORCHELASTIC"))]:
        monkeypatch.delenv(name)

    def put(**changes: str | None) -> None:
        for name, value in (TASK | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    monkeypatch.delenv("MASTER_PORT", raising=False)
    return put


def test_tasks_of_srun_are_joined(slurm):
    slurm()
    environment = cluster_environment(devices=2, num_nodes=1)
    assert isinstance(environment, SLURMEnvironment)
    assert (environment.global_rank(), environment.world_size()) == (1, 2)
    os.environ.pop("MASTER_PORT", None)  # lightning leaves it there


def test_outside_a_job_fabric_decides(slurm):
    assert cluster_environment(devices=1, num_nodes=1) is None


@pytest.mark.parametrize("ntasks", ["1", "2", "64", "no number"])
def test_a_job_without_srun_is_one_process(slurm, recipe, ntasks):
    slurm(SLURM_STEP_ID=None, SLURM_NTASKS=ntasks, SLURM_NTASKS_PER_NODE=None, SLURM_PROCID="0")
    assert isinstance(cluster_environment(devices=1, num_nodes=1), LightningEnvironment)
    fabric = build_fabric(recipe("mae"))
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def test_a_shell_of_srun_is_no_task(slurm):
    slurm(SLURM_JOB_NAME="bash")
    assert isinstance(cluster_environment(devices=1, num_nodes=1), LightningEnvironment)


def test_torchrun_below_srun_decides(slurm, monkeypatch):
    slurm(SLURM_NTASKS="1")
    for name in ("TORCHELASTIC_RUN_ID", "GROUP_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    assert isinstance(cluster_environment(devices=8, num_nodes=1), TorchElasticEnvironment)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, r"SLURM_NTASKS=4 .* are 2"),
        ({"SLURM_NTASKS": "many"}, r"SLURM_NTASKS=many is no number"),
        ({"SLURM_PROCID": None}, r"SLURM_PROCID= is no number"),
        ({"SLURM_LOCALID": "-1"}, r"SLURM_LOCALID=-1 is no number"),
        ({"SLURM_NODEID": ""}, r"SLURM_NODEID= is no number"),
        ({"SLURM_NTASKS_PER_NODE": None}, "variables of SLURM cannot be used"),
        ({"SLURM_NTASKS_PER_NODE": "1"}, "variables of SLURM cannot be used"),
        ({"SLURM_NTASKS_PER_NODE": "two"}, "variables of SLURM cannot be used"),
        ({"SLURM_NNODES": "7"}, "variables of SLURM cannot be used"),
        ({"SLURM_JOB_ID": "x"}, "variables of SLURM cannot be used"),
    ],
)
def test_what_cannot_be_is_one_line(slurm, recipe, changes, words):
    slurm(**changes)
    with pytest.raises(ConfigError, match=words) as caught:
        build_fabric(recipe("mae", "trainer.devices=2"))
    assert "\n" not in str(caught.value)
