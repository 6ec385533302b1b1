"""Architectures, one a file; each has a `build` that returns a `tff_dp.ModelSpec`."""
