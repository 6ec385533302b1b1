"""Differentially private federated learning for Keras, on TensorFlow Federated.

A Keras model goes in; a private federated model and an epsilon come out:

```python
import keras, tff_dp

plan = tff_dp.PrivacyPlan(
    mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0),
    population=clients.num_clients, cohort=40, rounds=100, delta=1e-4,
).calibrated(target_epsilon=4.0)
result = tff_dp.fit(keras.Sequential([...]), clients, loss="mse", privacy=plan)
result.model, result.epsilon
```

Nothing here imports TensorFlow before it is needed. Once tff_dp has been imported,
`import tensorflow_federated as tff` works on the installed TensorFlow; so does `from tff_dp import tff`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tff_dp import _caching, _memory_growth
from tff_dp._compat.tff import finder

__version__ = "0.1.0"

# Where each public name lives. A name is imported when it is first asked for.
_HOMES = {
    "AccountingError": "errors",
    "Adagrad": "optimizers",
    "Adam": "optimizers",
    "AdaptiveGaussianMechanism": "mechanisms",
    "Adjacency": "sampling",
    "ArgumentError": "errors",
    "ArgumentTypeError": "errors",
    "BandedMechanism": "mechanisms",
    "Charges": "charges",
    "Clients": "data",
    "ComputationError": "errors",
    "CyclicPoissonSampler": "sampling",
    "DataError": "errors",
    "DistributedGaussianMechanism": "mechanisms",
    "DistributedSkellamMechanism": "mechanisms",
    "EndOnNaN": "training.callbacks",
    "EpsilonReport": "accounting",
    "FedAvg": "algorithms",
    "FedOpt": "algorithms",
    "FedProx": "algorithms",
    "FedSGD": "algorithms",
    "FitResult": "training.results",
    "FixedSizeSampler": "sampling",
    "FullParticipation": "sampling",
    "GaussianMechanism": "mechanisms",
    "LaplaceMechanism": "mechanisms",
    "Ledger": "ledger",
    "LedgerError": "errors",
    "LocalGaussianMechanism": "mechanisms",
    "LocalLaplaceMechanism": "mechanisms",
    "MinSeparationSampler": "sampling",
    "ModelError": "errors",
    "ModelSpec": "model",
    "NoPrivacy": "plan",
    "PerLayerGaussianMechanism": "mechanisms",
    "PoissonSampler": "sampling",
    "PrivacyPlan": "plan",
    "PrivateMetric": "mechanisms",
    "RecordGaussianMechanism": "mechanisms",
    "RunFolderError": "errors",
    "SGD": "optimizers",
    "SelfTestReport": "selftest",
    "StackError": "errors",
    "TffDpError": "errors",
    "TreeMechanism": "mechanisms",
    "Yogi": "optimizers",
    "build_process": "process",
    "fit": "training",
    "load_model": "provenance",
    "resume": "training",
    "self_test": "selftest",
}
_MODULES = ("accounting", "data", "execution", "ledger", "report", "runs")

__all__ = [
    "AccountingError",
    "Adagrad",
    "Adam",
    "AdaptiveGaussianMechanism",
    "Adjacency",
    "ArgumentError",
    "ArgumentTypeError",
    "BandedMechanism",
    "Charges",
    "Clients",
    "ComputationError",
    "CyclicPoissonSampler",
    "DataError",
    "DistributedGaussianMechanism",
    "DistributedSkellamMechanism",
    "EndOnNaN",
    "EpsilonReport",
    "FedAvg",
    "FedOpt",
    "FedProx",
    "FedSGD",
    "FitResult",
    "FixedSizeSampler",
    "FullParticipation",
    "GaussianMechanism",
    "LaplaceMechanism",
    "Ledger",
    "LedgerError",
    "LocalGaussianMechanism",
    "LocalLaplaceMechanism",
    "MinSeparationSampler",
    "ModelError",
    "ModelSpec",
    "NoPrivacy",
    "PerLayerGaussianMechanism",
    "PoissonSampler",
    "PrivacyPlan",
    "PrivateMetric",
    "RecordGaussianMechanism",
    "RunFolderError",
    "SGD",
    "SelfTestReport",
    "StackError",
    "TffDpError",
    "TreeMechanism",
    "Yogi",
    "__version__",
    "accounting",
    "build_process",
    "data",
    "execution",
    "fit",
    "ledger",
    "load_model",
    "report",
    "resume",
    "runs",
    "self_test",
    "tff",
]

if TYPE_CHECKING:
    from tff_dp import accounting, data, execution, ledger, report, runs
    from tff_dp.accounting import EpsilonReport
    from tff_dp.algorithms import FedAvg, FedOpt, FedProx, FedSGD
    from tff_dp.charges import Charges
    from tff_dp.data import Clients
    from tff_dp.errors import (
        AccountingError,
        ArgumentError,
        ArgumentTypeError,
        ComputationError,
        DataError,
        LedgerError,
        ModelError,
        RunFolderError,
        StackError,
        TffDpError,
    )
    from tff_dp.ledger import Ledger
    from tff_dp.mechanisms import (
        AdaptiveGaussianMechanism,
        BandedMechanism,
        DistributedGaussianMechanism,
        DistributedSkellamMechanism,
        GaussianMechanism,
        LaplaceMechanism,
        LocalGaussianMechanism,
        LocalLaplaceMechanism,
        PerLayerGaussianMechanism,
        PrivateMetric,
        RecordGaussianMechanism,
        TreeMechanism,
    )
    from tff_dp.model import ModelSpec
    from tff_dp.optimizers import SGD, Adagrad, Adam, Yogi
    from tff_dp.plan import NoPrivacy, PrivacyPlan
    from tff_dp.process import build_process
    from tff_dp.provenance import load_model
    from tff_dp.sampling import (
        Adjacency,
        CyclicPoissonSampler,
        FixedSizeSampler,
        FullParticipation,
        MinSeparationSampler,
        PoissonSampler,
    )
    from tff_dp.selftest import SelfTestReport, self_test
    from tff_dp.training import fit, resume
    from tff_dp.training.callbacks import EndOnNaN
    from tff_dp.training.results import FitResult

    tff: Any


def __getattr__(name: str) -> Any:
    if name == "tff":
        from tff_dp import _compat

        value = _compat.tff.load()
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"tff_dp.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"tff_dp.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


# What importing tff_dp does beside defining names. XLA reads its flags, an environment variable, once, at
# TensorFlow's first operation: later would often be too late; so it is with GPU memory. The finder
# lets a plain `import tensorflow_federated` work, and is gone after that.
_caching.tell_xla()
_memory_growth.take_as_needed()
finder.register()
