"""How long to wait before the next attempt: soon at first, because most failures are over at once, then more patient.

Chance takes up to half of it away, so that those who failed together do not come back together.
"""

from __future__ import annotations

import random

# 2 ** 10 times the least wait is beyond any sensible longest one.
DOUBLED_MAX = 10


def backoff_seconds(failures: int, *, least: float, most: float) -> float:
    """Seconds to wait after so many failures in a row (1 or more): `least` doubled for each further one, to `most`."""
    longest = min(most, least * 2 ** min(failures - 1, DOUBLED_MAX))
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, not a secret
