"""Who may stay connected to an HTTP server that has places for a number of connections. No I/O in it.

A newcomer finds a place as long as another only waits. The one that has waited longest since its last answer leaves
first, which a client that keeps its connection must expect at any time; then one that never asked. Where everybody is
being served, the newcomer is turned away with an answer, and of those only a few at a time, so that the files of a
process suffice whatever happens.
"""

from __future__ import annotations

from typing import Protocol

from config.seldom import Seldom

TURNED_AWAY_MAX = 32
"""Connections at a time that are only told to come back later."""
FIRST_WORDS_SECONDS = 1.0
"""A connection that has said nothing for so long may have to leave."""


class Guest(Protocol):
    """A connection, as seen from here."""

    def leave(self) -> None:
        """End at once; `Places.left` follows soon."""


class Places:
    """The connections of a server; each passes through `enter`, then `is_served` and `waits` in turn, and `left`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.turned_away_total = 0
        self.complaints = Seldom()
        self._new: dict[Guest, float] = {}  # since when, in the order of it
        self._kept: dict[Guest, None] = {}  # in the order in which they began to wait
        self._served: set[Guest] = set()
        self._turned_away: dict[Guest, None] = {}

    @property
    def connections(self) -> int:
        """How many there are, of every sort."""
        return self._taken() + len(self._turned_away)

    def enter(self, guest: Guest, now: float) -> bool:
        """Whether a new connection is to be served. Else it is to be turned away."""
        if self._taken() >= self.most:
            if self._kept:
                _dismiss_first(self._kept)
            elif self._new and now - next(iter(self._new.values())) >= FIRST_WORDS_SECONDS:
                _dismiss_first(self._new)
            else:
                if len(self._turned_away) >= TURNED_AWAY_MAX:
                    _dismiss_first(self._turned_away)
                self._turned_away[guest] = None
                self.turned_away_total += 1
                return False
        self._new[guest] = now
        return True

    def is_served(self, guest: Guest) -> None:
        """A whole head has come from it."""
        if guest in self._new or guest in self._kept:
            self.left(guest)
            self._served.add(guest)

    def waits(self, guest: Guest) -> None:
        """It has had its answer and asks for nothing now."""
        if guest in self._served:
            self._served.remove(guest)
            self._kept[guest] = None

    def left(self, guest: Guest) -> None:
        """It has ended; its file is free."""
        self._new.pop(guest, None)
        self._kept.pop(guest, None)
        self._served.discard(guest)
        self._turned_away.pop(guest, None)

    def _taken(self) -> int:
        return len(self._new) + len(self._kept) + len(self._served)


def _dismiss_first(guests: dict[Guest, float] | dict[Guest, None]) -> None:
    first = next(iter(guests))
    del guests[first]
    first.leave()
