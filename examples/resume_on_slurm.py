"""A run that SLURM may stop at any time: `sbatch examples/resume_on_slurm.sbatch`.

Before the time limit SLURM sends SIGUSR1: the run saves after the update under way, asks for its
job to be queued again, and leaves. When the job starts again, the same lines go on, to the bit.
"""

import os
import sys
from typing import Any

import ssl_vision


def main(run_dir: str = "runs/slurm", **settings: Any) -> int:
    """Train, on as many processes as srun started; the exit status."""
    environment = os.environ
    processes = {
        "trainer.num_nodes": int(environment.get("SLURM_JOB_NUM_NODES", 1)),
        "trainer.devices": int(environment.get("SLURM_NTASKS_PER_NODE", 1)),
    }
    try:
        result = ssl_vision.train(
            "dino/tiny_cpu",  # dino/vit_s16_imagenet1k on GPUs
            data=environment.get("DATA", "digits"),
            run_dir=run_dir,  # on a file system that all nodes see
            **{"trainer.checkpoint_every_steps": 500, **processes, **settings},
        )
    except ssl_vision.errors.SslVisionError as error:  # one line, and SLURM sees how it ended
        print(error, file=sys.stderr)
        return error.exit_code
    print("done after", result.steps, "updates:", result.export)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
