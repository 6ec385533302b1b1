"""Configurations of runs: TOML files, of which all mistakes are reported at once."""

from tff_dp.cli.configs.inputs import Inputs, read_inputs
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.prepared import Prepared, prepare
from tff_dp.cli.configs.source import Source, read_source, restored_source

__all__ = [
    "Inputs",
    "Mistakes",
    "Prepared",
    "Source",
    "prepare",
    "read_inputs",
    "read_source",
    "restored_source",
]
