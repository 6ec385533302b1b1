"""Integer noise, the grid that it shares with clipped updates, and the random bits it is made of.

A mechanism that is analyzed over the real numbers but runs in floating point is a different
mechanism: sums depend on their order, noise has a largest value, and the low bits of a result
reveal what was added (Mironov, CCS 2012; Casacuberta et al., arXiv:2207.10635). Here every released
value is a whole number of grid steps. Updates are clipped and truncated to the grid (`clipping`),
their sums are exact, and the noise is a whole number as well (`gaussian`, `laplace`). Since a sum k
is an integer, k + floor(N) = floor(k + N): rounding the noise is post-processing of the mechanism
over the reals, and costs no privacy.
"""

from tff_dp.noise.clipping import Clipped, clip_l1, clip_l2, clip_l2_each
from tff_dp.noise.compiling import compiled
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
    "compiled",
    "gaussian",
    "laplace",
    "scaled_gaussian",
    "uniforms_in_word",
]
