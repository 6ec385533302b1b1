"""Where the checkout is: for tests that read its files, or run programs that import its tests."""

from __future__ import annotations

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
