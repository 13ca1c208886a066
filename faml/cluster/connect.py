"""From what ``--cluster`` says to workers: this machine, a scheduler's address, a batch system."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from faml.cluster.remote import processor
from faml.config import validated
from faml.em.workers import Workers
from faml.errors import ClusterError, ConfigurationError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["BatchSystem", "check_cluster", "connected"]

_LOG = logging.getLogger("faml")
_ADDRESSES = ("tcp://", "tls://", "ucx://", "ws://", "wss://")
_PATIENCE_S = 600.0
_EXPECTED = (
    "local:N, the address of a scheduler (tcp://host:8786), its scheduler file (.json), or a "
    "batch system (.toml)"
)
_BATCH_CLASSES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",
}
_ALLOWED_FAILURES = 10
"""Workers that may die with a task before Dask gives it up: nodes die for other reasons, too."""
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LARGEST_ARGUMENT = "100GB"
"""From here on Dask warns of large arguments, which a pass has."""


class BatchSystem(BaseModel):
    """A TOML file that says how jobs of a batch system become workers (`dask_jobqueue`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["slurm", "pbs", "sge", "lsf", "oar", "htcondor", "local"] = "slurm"
    """`local` starts the jobs as processes of this machine, to try a file out."""
    jobs: int | None = Field(default=None, ge=1)
    """How many are asked for."""
    adapt: tuple[int, int] | None = None
    """Fewest and most, instead: jobs that end are replaced while there is work."""
    wait_minutes: float = Field(default=60.0, gt=0)
    """How long to wait for workers while there is none."""
    options: dict[str, Any] = {}
    """Arguments of dask_jobqueue's class: cores, processes, memory, queue, walltime, ..."""


def check_cluster(cluster: str | None) -> None:
    """Raise ConfigurationError for what `connected` would not understand."""
    if cluster is not None and _understood(cluster)[0] == "batch":
        _batch_system(Path(cluster))


@contextmanager
def connected(cluster: str | None) -> Iterator[Workers | None]:
    """Workers for the time of a block; None where there is no cluster.

    Parameters
    ----------
    cluster : str or None
        ``local:N`` starts N processes on this machine. ``tcp://host:port`` is the address of a
        Dask scheduler, a ``.json`` file one that a scheduler has written, a ``.toml`` file a
        `BatchSystem`.

    Raises
    ------
    ConfigurationError
        It says nothing that can be understood, or Dask is not installed.
    ClusterError
        The scheduler cannot be reached, or no worker comes.
    """
    if cluster is None:
        yield None
        return
    kind, local = _understood(cluster)
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ConfigurationError(
            f"--cluster needs Dask, which cannot be imported ({error}); install it with: pip "
            "install 'faml[cluster]'"
        ) from error
    from faml.cluster.dask_workers import DaskWorkers

    with ExitStack() as stack:
        settings = {
            "distributed.admin.large-graph-warning-threshold": _LARGEST_ARGUMENT,
            "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
            "distributed.worker.profile.enabled": False,
            # Nothing of ours can be moved to the disk: a worker that waits for that waits for ever.
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            # Dask's own hands memory back at once, to get it again page by page.
            "distributed.nanny.pre-spawn-environ": dict.fromkeys(_ONE_THREAD, 1),
        }
        stack.enter_context(dask.config.set(settings))
        patience = _PATIENCE_S
        client: Client
        try:
            if kind == "local":
                here = distributed.LocalCluster(
                    n_workers=local,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    # Who can talk to a scheduler can run code: not every user of this machine.
                    security=True,
                    silence_logs=logging.ERROR,
                )
                client = stack.enter_context(distributed.Client(stack.enter_context(here)))
            elif kind == "batch":
                batch = _batch_system(Path(cluster))
                patience = 60.0 * batch.wait_minutes
                client = stack.enter_context(
                    distributed.Client(stack.enter_context(_jobs(batch, cluster)))
                )
            elif kind == "file":
                client = stack.enter_context(distributed.Client(scheduler_file=cluster))
            else:
                client = stack.enter_context(distributed.Client(cluster))
            client.wait_for_workers(1, timeout=patience)
            _say_who(client)
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"--cluster {cluster}: no scheduler or no worker could be reached ({error}); see "
                "that both run and that this machine may connect to them"
            ) from error
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                "interrupted while waiting for workers; nothing has changed"
            ) from error
        except ImportError as error:
            raise ClusterError(
                f"--cluster {cluster}: {error}; install faml with its extra `cluster` here and on "
                "every worker"
            ) from error
        yield DaskWorkers(client, patience)


def _understood(cluster: str) -> tuple[Literal["local", "file", "batch", "address"], int]:
    """What kind of cluster is meant, and the number of local workers."""
    if cluster.startswith("local:"):
        number = cluster.removeprefix("local:")
        if not number.isdecimal() or int(number) < 1:
            raise ConfigurationError(
                f"--cluster: expected local:N with a number of processes from 1, found {cluster!r}"
            )
        return "local", int(number)
    if cluster.startswith(_ADDRESSES):
        return "address", 0
    suffix = Path(cluster).suffix.lower()
    if suffix not in (".json", ".toml"):
        raise ConfigurationError(f"--cluster: expected {_EXPECTED}; found {cluster!r}")
    if not Path(cluster).is_file():
        raise ConfigurationError(f"--cluster {cluster}: expected a file, found none")
    return ("file" if suffix == ".json" else "batch"), 0


def _batch_system(path: Path) -> BatchSystem:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"--cluster {path}: not readable as TOML: {error}") from error
    batch = validated(BatchSystem, values, unknown=f" in {path}")
    if (batch.jobs is None) == (batch.adapt is None):
        raise ConfigurationError(
            f"--cluster {path}: expected either jobs = N or adapt = [FEWEST, MOST], found "
            f"{'neither' if batch.jobs is None else 'both'}"
        )
    return batch


def _jobs(batch: BatchSystem, path: str) -> Any:
    """A cluster whose workers are jobs of a batch system."""
    try:
        import dask_jobqueue
        import dask_jobqueue.local
    except ImportError as error:
        raise ConfigurationError(
            f"--cluster {path} needs dask-jobqueue, which cannot be imported ({error}); install it "
            "with: pip install 'faml[cluster]'"
        ) from error
    module = dask_jobqueue.local if batch.kind == "local" else dask_jobqueue
    make = getattr(module, _BATCH_CLASSES[batch.kind])
    try:
        # Two runs on one machine must not quarrel over the port of Dask's own pages.
        cluster = make(**{"scheduler_options": {"dashboard_address": ":0"}} | batch.options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"--cluster {path}: [options] do not suit {make.__name__}: {error}"
        ) from error
    if batch.jobs is not None:
        cluster.scale(jobs=batch.jobs)
    elif batch.adapt is not None:
        cluster.adapt(minimum_jobs=batch.adapt[0], maximum_jobs=batch.adapt[1])
    return cluster


def _say_who(client: Client) -> None:
    """Log the workers, once they have shown that they know faml."""
    addresses = client.run(processor)
    _LOG.info(
        "%d workers on %s, process %d asks", len(addresses), client.scheduler.address, os.getpid()
    )
