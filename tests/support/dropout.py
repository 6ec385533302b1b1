"""Reads the masks that dropout has drawn off the weights that a round has changed.

With inputs of ones, a kernel that starts at zero, the loss y * prediction and learning rate 1, one
step of one example moves a kernel by -y * mask / keep. With y = 2^i in the i-th of all clients'
steps, the sum of all the movements holds every step's mask as its i-th bit, exactly in float32.
"""

from __future__ import annotations

import numpy as np

from tff_dp import data
from tff_dp.algorithms import FedAvg
from tff_dp.optimizers import SGD

UNITS, CLIENTS, STEPS = 256, 4, 4


def bit_clients():
    y = 2.0 ** np.arange(CLIENTS * STEPS, dtype=np.float32)[:, None]
    x = np.ones([CLIENTS * STEPS, UNITS], np.float32)
    return data.Clients(x, y, STEPS * np.arange(CLIENTS + 1))


def linear_loss(y, predictions):
    return y * predictions


def two_dropouts(kind):
    x = kind.layers.Input([UNITS])
    branches = [
        kind.layers.Dense(1, kernel_initializer="zeros", use_bias=False)(
            kind.layers.Dropout(0.5)(x)
        )
        for _ in range(2)
    ]
    return kind.Model(x, kind.layers.Add()(branches))


def masks_of(run):
    """Returns the masks of two rounds, bool [round, branch, step of any client, unit]."""
    rounds = []
    for before, after in zip(run.weights[:-1], run.weights[1:], strict=True):
        branches = []
        for a, b in zip(before.trainable, after.trainable, strict=True):
            sums = np.ravel(a - b) * CLIENTS / 2  # the mean over clients; kept units are doubled
            integers = sums.astype(np.int64)
            assert (integers == sums).all()
            branches.append([(integers >> bit) & 1 for bit in range(CLIENTS * STEPS)])
        rounds.append(branches)
    return np.array(rounds, bool)


UNIFORM = FedAvg(client_optimizer=SGD(learning_rate=1.0), weighting="uniform")


def assert_fresh(masks):
    flat = masks.reshape(-1, UNITS)  # of 2 rounds, 2 layers and 16 steps
    # 16384 fair bits: their mean is within 0.025 of 1/2 but for 6.4 standard deviations (2e-10). Two
    # masks agree in half of the units, within 0.2 but for 6.4 of them, in each of 2016 pairs (3e-7).
    assert abs(flat.mean() - 0.5) < 0.025
    agreement = np.array([(a == b).mean() for i, a in enumerate(flat) for b in flat[:i]])
    assert abs(agreement - 0.5).max() < 0.2
