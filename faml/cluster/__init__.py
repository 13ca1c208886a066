"""The E-step on several machines, by Dask: `connected` gives `em.workers.Workers`.

Dask is imported when a cluster is asked for, and not before: it is the extra ``faml[cluster]``.
"""

from faml.cluster.connect import check_cluster, connected

__all__ = ["check_cluster", "connected"]
