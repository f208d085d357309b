"""Workers that SLURM starts and Dask feeds: python dask_jobqueue_slurm.py (package dask-jobqueue).

Unlike an array, a worker that is done with its part takes from what is left. Run it where it may
stay for hours, e.g. in a small job of its own; started again, it goes on where it was.
"""

from dask_jobqueue import SLURMCluster

from lmaps_science import reconstruct_many


def main() -> None:
    cluster = SLURMCluster(
        cores=1,  # one task at a time on each worker
        processes=1,
        memory="16GB",
        walltime="04:00:00",
        job_cpu=4,
        job_extra_directives=["--gres=gpu:1", "--signal=TERM@120"],
        job_script_prologue=["export OMP_NUM_THREADS=4"],
        worker_extra_args=["--resources", "GPU=1"],  # an observation's batch takes one
    )
    with cluster:
        cluster.adapt(minimum_jobs=1, maximum_jobs=8)
        report = reconstruct_many(
            "black_hole/uvfits",
            "obs/*.uvfits",
            "results",
            n_samples=8,
            batch_size=64,
            device="cuda",
            dask=cluster.scheduler_address,
        )
    print(report)


if __name__ == "__main__":
    main()
