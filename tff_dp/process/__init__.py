"""Composes a model, an algorithm and an aggregation into a TFF learning process."""

from tff_dp.process.build import build_process, compose, explained, parameters
from tff_dp.process.state import initialize_from, model_weights, with_weights

__all__ = [
    "build_process",
    "compose",
    "explained",
    "initialize_from",
    "model_weights",
    "parameters",
    "with_weights",
]
