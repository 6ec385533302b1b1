"""The algorithms: what a client computes, and how the server steps.

Each is a frozen description that composes its own TFF learning process. TensorFlow is imported when one
does, and not before.
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
