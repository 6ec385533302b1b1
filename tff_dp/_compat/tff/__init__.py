"""TensorFlow Federated 0.87.0 on the TensorFlow of today.

- `load` imports it; `finder` has a plain `import tensorflow_federated` do the same.
- `placeholders` stand for three modules whose packages are dead or were left out.
- `setup` mends what an import alone leaves broken.
- `worker_process` is the process in which stock TFF runs computations, made of a `watched_process`.
- `internals` has what is used of `tensorflow_federated.python`; importing it imports TFF.
"""

from tff_dp._compat.tff.loading import load

__all__ = ["load"]
