"""Private and version-dependent names of other packages: all of them are here, one module a package.

The rest of tff_dp uses public names of the versions that `stack.TESTED` lists. What has no public name,
or another one in another version, is wrapped here under a name that says what it is for, so that a new
version of a package touches one module. `tests/package/test_foreign_names.py` keeps it so.

The modules that are imported below import no TensorFlow; `_compat.tensorflow`, `_compat.tff.internals`
and `_compat.tensorflow_privacy` do, and are imported by modules that need it anyway.
"""

from tff_dp._compat import keras, quiet, stack, tff

__all__ = ["keras", "quiet", "stack", "tff"]
