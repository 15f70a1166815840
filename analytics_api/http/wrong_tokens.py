"""How often somebody may try a token that is wrong. No I/O in it.

Each client (an IPv4 address, or the /64 of an IPv6 one) has ATTEMPTS_MAX, and one more each SECONDS_EACH. Beyond, its
tokens are not even compared, so nothing is learned by guessing on. A token that was right from there before goes on to
be right: who shares an address with somebody who guesses is not locked out. Nobody else is touched.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from config.seldom import Seldom

ATTEMPTS_MAX = 10
SECONDS_EACH = 6.0
# The oldest are forgotten beyond it; some MB.
CLIENTS_MAX = 10_000


class WrongTokens:
    """Who has tried what."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._empty_at: OrderedDict[str, float] = OrderedDict()
        """When a client has all its attempts again."""
        self._right: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self.wrong_total = 0
        self.limited_total = 0
        self.complaints = Seldom()

    def seconds_to_wait(self, client: str, digest: bytes) -> int:
        """How long this client's token is not compared; 0: compare it now."""
        until = self._empty_at.get(client)
        if until is None or (client, digest) in self._right:
            return 0
        over = until - self._clock() - (ATTEMPTS_MAX - 1) * SECONDS_EACH
        if over <= 0:
            return 0
        self.limited_total += 1
        return math.ceil(over)

    def was_wrong(self, client: str) -> None:
        """It has used up an attempt."""
        self.wrong_total += 1
        now = self._clock()
        self._empty_at[client] = max(self._empty_at.pop(client, now), now) + SECONDS_EACH
        if len(self._empty_at) > CLIENTS_MAX:
            self._empty_at.popitem(last=False)

    def was_right(self, client: str, digest: bytes) -> None:
        """It is known from now on."""
        key = (client, digest)
        self._right[key] = None
        self._right.move_to_end(key)
        if len(self._right) > CLIENTS_MAX:
            self._right.popitem(last=False)
