"""The algorithms: what a client computes, and how the server steps."""

from tff_dp.algorithms.fed_avg import Algorithm, FedAvg, FedOpt, FedProx, FedSGD

__all__ = ["Algorithm", "FedAvg", "FedOpt", "FedProx", "FedSGD"]
