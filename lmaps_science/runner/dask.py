"""The batch engine's workers: Dask runs the same function over the same groups (extra `dask`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmaps_science.io.files import DataError
from lmaps_science.runner.batch import Group, Outcome, run_group
from lmaps_science.runner.plan import Batch
from lmaps_science.runner.signals import Sigterm
from lmaps_science.sampling.progress import Progress

__all__ = ["by_workers"]

RETRIES = 3  # of a group whose worker was lost
SECONDS = 30.0  # for a scheduler to answer


def by_workers(
    batch: Batch, groups: Sequence[Group], where: str, progress: bool = True
) -> Iterator[Outcome]:
    """Have the groups computed by the workers of a Dask cluster, as they come.

    Where workers declare a resource GPU (`dask worker --resources "GPU=1"`), a group takes one. A
    group whose worker is lost is given to another; what it had finished is found there.

    Dask sends Python objects by pickle: connect to a scheduler of your own only.

    Args:
        batch: what to do; the workers must see the same files and packages.
        groups: of `batch.groups`.
        where: the address of a scheduler, the path of a scheduler file, or "local".
        progress: show how far the work is.

    Raises:
        ImportError: Dask is missing.
        DataError: no scheduler is there.
    """
    with _client(where) as client:
        from distributed import as_completed

        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        gpus = any(worker.get("resources", {}).get("GPU") for worker in workers)
        futures = {
            future: group
            for group, future in zip(
                groups,
                client.map(
                    run_group,
                    [batch] * len(groups),
                    groups,
                    pure=False,
                    retries=RETRIES,
                    resources={"GPU": 1} if gpus else None,
                ),
                strict=True,
            )
        }
        failed = 0
        total = sum(map(len, groups))
        bar = Progress(Path(batch.out).name, total, unit="observation", shown=progress)
        with bar, Sigterm() as sigterm:
            sigterm.at_once = True  # the levels are elsewhere
            for future in as_completed(futures):
                for outcome in _outcomes(future, futures[future]):
                    failed += outcome.status == "failed"
                    bar.count(outcome.status == "found", failed=str(failed))
                    yield outcome


def _outcomes(future: Any, group: Group) -> list[Outcome]:
    error = future.exception()
    if error is None:
        found: list[Outcome] = future.result()
        return found
    if isinstance(error, (OSError, ImportError)):  # the others would meet it, too
        raise error
    reason = f"its worker was lost ({type(error).__name__})"
    return [Outcome(observation.name, "failed", reason) for observation in group]


@contextmanager
def _client(where: str) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError("--dask needs Dask: pip install 'lmaps-science[dask]'") from error
    if where == "local":
        cluster = LocalCluster(threads_per_worker=1, dashboard_address=None)
        with cluster, Client(cluster) as client:
            yield client
        return
    named = {"scheduler_file": where} if Path(where).is_file() else {"address": where}
    try:
        client = Client(**named, timeout=SECONDS)
    except (OSError, ValueError) as error:
        raise DataError(
            f"--dask {where}: no scheduler answers there ({error}). Give its address, e.g. "
            "tcp://node1:8786, the path of its --scheduler-file, or local."
        ) from error
    with client:
        yield client
