"""Parts of cohorts on other processes and machines, by Ray.

The driver is the process that trains: it draws cohorts, charges the ledger, derives keys, and runs the
server's part of a round, noise included. Workers compute sums over a few clients each, and know neither
plan nor ledger. Ray schedules the parts, moves what they need, and runs them again elsewhere if a worker
dies; nothing here does. `tff_dp.execution.fast(cluster=...)` uses this package, and
`execution.round.on_cluster` is what it runs.

Importing it imports neither Ray nor TensorFlow.
"""

from tff_dp.cluster.options import Cluster

__all__ = ["Cluster"]
