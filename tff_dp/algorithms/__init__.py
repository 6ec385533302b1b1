"""Federated learning algorithms: the computation of a client, and the step of the server.

Each algorithm is a frozen dataclass that composes its own TFF learning process. TensorFlow is
imported when a process is composed, and not before.
"""

from tff_dp.algorithms.base import Algorithm, Components, compose_with_client_work
from tff_dp.algorithms.fed_avg import FedAvg, FedOpt
from tff_dp.algorithms.fed_prox import FedProx
from tff_dp.algorithms.fed_sgd import FedSGD

__all__ = [
    "Algorithm",
    "Components",
    "FedAvg",
    "FedOpt",
    "FedProx",
    "FedSGD",
    "compose_with_client_work",
]
