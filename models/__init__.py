"""Architectures, one a file; each has a `build` that returns a `tff_dp.ModelSpec`.

All are Keras 3 models that give logits, with the loss that belongs to them. Their initial weights come
from Keras's random seed, so that `keras.utils.set_random_seed` repeats them.
"""

from __future__ import annotations
