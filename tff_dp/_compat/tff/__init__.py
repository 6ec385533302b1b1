"""TensorFlow Federated 0.87.0 on current versions of TensorFlow.

- `load` imports TFF; `finder` makes a plain `import tensorflow_federated` work as well.
- `placeholders` replace three modules whose packages are discontinued or were left out.
- `setup` repairs what is still broken after the import.
- `worker_process` manages the process in which stock TFF runs computations, a `watched_process`.
- `internals` has the names that are used from `tensorflow_federated.python`; importing it imports
  TFF.
"""

from tff_dp._compat.tff.loading import load

__all__ = ["load"]
