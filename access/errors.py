"""What goes wrong with the broker's accounts, for a person."""

from __future__ import annotations

from config.errors import WattlineError


class AccessError(WattlineError):
    """Nothing was changed, unless the message says so."""
