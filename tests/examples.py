"""How many examples a property is tried with."""

from __future__ import annotations

import os

QUICK = "WATTLINE_TEST_QUICK"
"""Set by `./dev test quick`."""


def examples(full: int) -> int:
    """So many, or a tenth of them where the tests are to be quick."""
    return max(10, full // 10) if QUICK in os.environ else full
