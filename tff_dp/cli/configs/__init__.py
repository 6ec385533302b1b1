"""Configurations of runs: TOML files, of which all mistakes are reported at once."""

from tff_dp.cli.configs.around import around_of
from tff_dp.cli.configs.inputs import clients_of, find_modules, model_of
from tff_dp.cli.configs.mistakes import Mistakes
from tff_dp.cli.configs.prepared import (
    Prepared,
    check_device,
    device_of,
    import_classes,
    prepare,
)
from tff_dp.cli.configs.source import Source, read_source, restored_source

__all__ = [
    "Mistakes",
    "Prepared",
    "Source",
    "around_of",
    "check_device",
    "clients_of",
    "device_of",
    "find_modules",
    "import_classes",
    "model_of",
    "prepare",
    "read_source",
    "restored_source",
]
