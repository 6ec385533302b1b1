"""A few cases of the fuzz, of other rounds and data than those of `test_rounds`."""

from __future__ import annotations

import pytest

from tests.cluster import fuzz
from tff_dp.errors import TffDpError


@pytest.mark.slow
def test_random_rounds_have_the_bits_of_this_process(nodes, tmp_path):
    parts = 0
    for seed in range(12):
        try:
            found, count = fuzz.differing(fuzz.drawn(seed), nodes.address, tmp_path)
        except TffDpError:  # such a process is refused, before any round
            continue
        assert found is None, found
        parts += count
    assert parts > 20
