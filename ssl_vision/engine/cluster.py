"""Who starts the processes of a run: SLURM's srun, torchrun, or the run itself."""

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from ssl_vision.errors import ConfigError

_NUMBERS = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def cluster_environment(*, devices: int, num_nodes: int) -> ClusterEnvironment | None:
    """What Fabric is to be told about a SLURM job around this process; None outside of one.

    torchrun decides where it was used, also below srun. A job whose processes were not started by
    srun (salloc, a batch script, a shell of srun's) is no matter of ours.

    Raises:
        ConfigError: srun started another number of processes than the settings want, or its
            variables are missing or no numbers.
    """
    if "SLURM_NTASKS" not in os.environ:
        return None
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_STEP_ID" not in os.environ or not SLURMEnvironment.detect():
        return LightningEnvironment()
    numbers = [_number(name) for name in _NUMBERS]
    wanted = devices * num_nodes
    if numbers[0] != wanted:
        raise ConfigError(
            f"srun started SLURM_NTASKS={numbers[0]} processes, but trainer.devices={devices} "
            f"times trainer.num_nodes={num_nodes} are {wanted}; set them, or srun's "
            "--nodes and --ntasks-per-node, to agree."
        )
    try:
        environment = SLURMEnvironment(auto_requeue=False)  # `preemption` does it
        environment.validate_settings(num_devices=devices, num_nodes=num_nodes)
        _ = environment.main_port  # read from SLURM_JOB_ID or MASTER_PORT
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition(" HINT")[0]
        raise ConfigError(f"the variables of SLURM cannot be used: {reason}") from error
    return environment


def _number(name: str) -> int:
    text = os.environ.get(name)
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"{name}={text or ''} is no number, though SLURM_STEP_ID says that srun started this "
            "process; start it by srun, or unset SLURM_STEP_ID."
        )
    return int(text)
