"""Refused messages as text for a person and as JSON for a program.

Topics and payloads come from strangers: nothing of them reaches a terminal but printable ASCII, the rest is escaped.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

from ingestor.rejected.quarantine import Quarantined

SHOWN_BYTES = 160  # of a payload, in text


def as_text(refused: Quarantined) -> str:
    """Three lines: what and when, why, and the start of the payload."""
    fate = "" if refused.refused_again_at is None else f"  refused again {_time(refused.refused_again_at)}"
    fate += "" if refused.replayed_at is None else f"  replayed {_time(refused.replayed_at)}"
    shown = refused.payload[:SHOWN_BYTES]
    rest = refused.payload_bytes - len(shown)
    more = "" if not rest else f" ... and {rest:,} bytes more"
    cut = " (cut: cannot be replayed)" if refused.cut else ""
    return (
        f"{refused.id}  {_time(refused.received_at)}  {refused.reason_code}  {printable(refused.topic)}{fate}\n"
        f"    {printable(refused.reason)}\n"
        f"    {printable(shown.decode('utf-8', 'backslashreplace')) or '(empty)'}{more}{cut}"
    )


def as_json(refused: Quarantined) -> str:
    """One line; the payload is text where it is UTF-8, else `payloadBase64`."""
    try:
        payload = {"payload": refused.payload.decode("utf-8")}
    except UnicodeDecodeError:
        payload = {"payloadBase64": base64.b64encode(refused.payload).decode("ascii")}
    return json.dumps(
        {
            "id": refused.id,
            "receivedAt": _time(refused.received_at),
            "topic": refused.topic,
            "code": refused.reason_code,
            "reason": refused.reason,
            "replayedAt": refused.replayed_at and _time(refused.replayed_at),
            "refusedAgainAt": refused.refused_again_at and _time(refused.refused_again_at),
            "payloadBytes": refused.payload_bytes,
            "cut": refused.cut,
            **payload,
        }
    )


def printable(text: str) -> str:
    """`text` with everything but printable ASCII escaped, as Python writes it."""
    return "".join(
        character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
