"""When a device is silent: the one definition, for metrics, stream, lists and page.

That is after three of its usual intervals, so that a meter which reports every 15 minutes is not silent in between, and
after SILENT_AFTER_SECONDS at least. Any reading is a sign of life, a late one too.
"""

from __future__ import annotations

from typing import LiteralString

INTERVALS = 3

# Of a row of a status table; GREATEST takes no notice of an interval that is not known. %(silent_after)s are seconds.
_SECONDS = f"greatest(%(silent_after)s::float8, {INTERVALS} * usual_interval_seconds)"
SILENT: LiteralString = f"last_updated < now() - make_interval(secs => {_SECONDS})"
