"""The same array from Python: python submitit_array.py (package submitit).

submitit submits a task again that ran out of time; it then goes on where it was.
"""

from functools import partial

import submitit

from lmaps_science import reconstruct_many

PARTS = 8


def main() -> None:
    executor = submitit.AutoExecutor(folder="submitit-logs")
    executor.update_parameters(
        name="lmaps",
        gpus_per_node=1,
        cpus_per_task=4,
        mem_gb=16,
        timeout_min=240,
        slurm_array_parallelism=PARTS,
    )
    part = partial(
        reconstruct_many,
        "black_hole/uvfits",
        "obs/*.uvfits",
        "results",
        n_samples=8,
        batch_size=64,
        device="cuda",
    )
    with executor.batch():
        jobs = [executor.submit(part, shard=f"{k + 1}/{PARTS}") for k in range(PARTS)]
    for job in jobs:
        print(job.result())


if __name__ == "__main__":
    main()
