"""Import of TFF, with an error that reports which installed packages differ from the tested ones."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tff_dp._compat import stack
from tff_dp._compat.tff import finder
from tff_dp.errors import StackError


def load() -> Any:
    """Imports TensorFlow Federated on the installed TensorFlow.

    `TF_USE_LEGACY_KERAS=1` is set for this process unless the variable is set already, since TFF's
    own code expects `tf.keras` to be Keras 2. `import keras` still imports Keras 3. The variable
    has an effect only if `tf.keras` has not been used before.

    Returns:
      The module `tensorflow_federated`.

    Raises:
      StackError: A package is missing or does not work with the others.
    """
    tff = sys.modules.get(finder.TFF)
    if tff is None or not hasattr(tff, "__version__"):
        finder.register()
        try:
            tff = importlib.import_module(finder.TFF)
        except ImportError as error:
            problems = "; ".join(stack.check_stack()) or "all of them are present"
            raise StackError(
                f"tensorflow_federated cannot be imported: {error}. Packages that differ from those "
                f"tested: {problems}. Install the tested set: pip install --no-deps -r "
                "requirements.lock (docs/stack.md)."
            ) from error
    from tff_dp._compat.tff import setup  # it imports parts of TFF

    setup.mend(tff, is_new=False)
    return tff
