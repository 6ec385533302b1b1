"""The strategies of `execution.fast`, as arguments of it."""

from __future__ import annotations

from typing import Any

# A strategy that is added here has to pass the whole table.
STRATEGIES: dict[str, dict[str, Any]] = {
    "call": {"strategy": "call"},
    "scan": {"strategy": "scan", "xla": False},
    "vmap": {"strategy": "vmap", "xla": False},
    "scan-xla": {"strategy": "scan", "xla": True},
    "vmap-xla": {"strategy": "vmap", "xla": True},
    "auto": {"strategy": "auto"},
}
