"""Which devices are known: those with a status, and those that lost it because somebody forgot them or annulled all of
their readings. What is stored of them is still answered.
"""

from __future__ import annotations

from analytics_api.http.errors import NotFoundError
from telemetry.kinds import Kind, SqlByKind

# A row for a device that is known.
KNOWN = SqlByKind("""
    SELECT 1 FROM {status} WHERE {id} = %(device_id)s
    UNION ALL
    SELECT 1 FROM forgotten_devices WHERE kind = '{kind}' AND device_id = %(device_id)s
    UNION ALL
    SELECT 1 FROM annulments WHERE kind = '{kind}' AND device_id = %(device_id)s
    LIMIT 1""")


def unknown(kind: Kind, device_id: str) -> NotFoundError:
    """To be raised where no row says that it is known."""
    return NotFoundError(f"No reading of {kind.name} {device_id} was ever stored; check the id.")
