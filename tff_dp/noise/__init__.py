"""Integer noise, the grid that it shares with clipped updates, and the bits it is made of.

A mechanism that is analyzed over the real numbers and run in floating point is another mechanism: sums
depend on their order, noise ends at some sigma, and the low bits of a result say what was added
(Mironov, CCS 2012; Casacuberta et al., arXiv:2207.10635). Here what is released is a whole number of
grid steps. Updates are clipped and truncated to the grid (`clipping`), sums of them are exact, and the
noise is a whole number as well (`gaussian`, `laplace`). Since a sum k is whole,
k + floor(N) = floor(k + N): rounding the noise is post-processing of the mechanism over the reals, and
costs nothing.
"""

from tff_dp.noise.clipping import Clipped, clip_l1, clip_l2, clip_l2_each
from tff_dp.noise.gaussian import Scale, gaussian, scaled_gaussian, uniforms_in_word
from tff_dp.noise.grid import Grid
from tff_dp.noise.laplace import laplace

__all__ = [
    "Clipped",
    "Grid",
    "Scale",
    "clip_l1",
    "clip_l2",
    "clip_l2_each",
    "gaussian",
    "laplace",
    "scaled_gaussian",
    "uniforms_in_word",
]
