"""Client data: the class `Clients`, the sources that make it, and partitions of pooled data."""

from tff_dp.data.clients import Clients
from tff_dp.data.cohort import Cohort
from tff_dp.data.partition import by_column, dirichlet, iid, shards
from tff_dp.data.sources import from_arrays, from_client_data, from_datasets, from_frame

__all__ = [
    "Clients",
    "Cohort",
    "by_column",
    "dirichlet",
    "from_arrays",
    "from_client_data",
    "from_datasets",
    "from_frame",
    "iid",
    "shards",
]
