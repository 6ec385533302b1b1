"""Real data sets that are installed with the project: one module a data set, each with `load`.

Nothing is downloaded. Whatever is read is compared with the sha256 of the file that the figures here
were made with, before it is unpickled or parsed. All features are scaled and missing values are
replaced by public constants (round numbers from what a variable means, never a mean or a deviation
of the data), so that preparing the data releases nothing: the privacy of a model trained on them is
that of its training alone. The modules say what each feature is and which defects the data have.

The number of clients is part of what is released, as everywhere in `tff_dp`.
"""

from experiments.data._split import Split

__all__ = ["Split"]
