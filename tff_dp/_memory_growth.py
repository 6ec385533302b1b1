"""Has TensorFlow take the memory of a GPU as it is needed, and not nearly all of it at once.

TensorFlow's own setting, `tf.config.experimental.set_memory_growth`, can be changed only before anything
runs, and a Keras model that is built is something that runs. So an environment variable is set as soon as
tff_dp is imported, which TensorFlow reads when it first uses a GPU.
"""

from __future__ import annotations

import os

VARIABLE = "TF_FORCE_GPU_ALLOW_GROWTH"


def take_as_needed() -> None:
    """Sets the variable, unless it is set. Once TensorFlow has used a GPU, this has no effect."""
    os.environ.setdefault(VARIABLE, "true")
