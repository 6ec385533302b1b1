"""Private and version-dependent names of other packages, with one module for each package.

The rest of tff_dp uses only public names of the versions that `stack.TESTED` lists. A private name,
or one that differs between versions, is wrapped here under a name that says what it is for, so that
supporting a new version of a package changes one module. `tests/package/test_foreign_names.py`
enforces this.

The modules that are imported below do not import TensorFlow. `_compat.tensorflow`,
`_compat.tff.internals` and `_compat.tensorflow_privacy` do; only modules that need TensorFlow
anyway import them.
"""

from tff_dp._compat import keras, quiet, stack, tff

__all__ = ["keras", "quiet", "stack", "tff"]
