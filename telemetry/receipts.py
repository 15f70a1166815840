"""Receipts of the contract: what a device is told once its readings are committed, and on which topics.

A device asks with a Response Topic under `v1/receipts/{its own id}/`. We publish where it says, with our own account,
so what it may say is narrow: what a broker takes for a fault of ours would cost everybody's connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

RECEIPT_ROOT = "v1/receipts"

# Up to 8 levels of 1 to 100 visible ASCII characters, without + and #. Mosquitto ends the connection of who publishes
# on more than 200 levels, other brokers for characters of their choice.
_RECEIPT_TOPIC = re.compile(rf"{RECEIPT_ROOT}/([A-Za-z0-9._:-]{{1,100}})(?:/[!-\"$-*,-.0-~]{{1,100}}){{1,8}}")

# A receipt lists so many refused readings, each with so much of its reason: 30 kB, where a payload of 1 MB can hold
# half a million of them. The others are counted in `omitted`.
REFUSED_LISTED_MAX = 100
REASON_CHARACTERS_MAX = 200


def is_receipt_topic(response_topic: str, device_id: str) -> bool:
    """Whether a Response Topic is one on which this device may have its receipts."""
    found = _RECEIPT_TOPIC.fullmatch(response_topic)
    return found is not None and found[1] == device_id


def receipt_topic(device_id: str, rest: str) -> str:
    """Where a device asks for its receipts; `rest` is its own choice."""
    return f"{RECEIPT_ROOT}/{device_id}/{rest}"


def receipt_payload(
    stored: int, repeated: int, conflict: int, refused: Sequence[tuple[int, str, str]] = (), omitted: int = 0
) -> bytes:
    """What the device reads. `refused` are (place in the array from 0, code, reason), `omitted` those that are not
    listed; with these all add up to the readings of the message.
    """
    if not refused and not omitted:
        return b'{"stored":%d,"repeated":%d,"conflict":%d,"refused":[]}' % (stored, repeated, conflict)
    receipt: dict[str, Any] = {
        "stored": stored,
        "repeated": repeated,
        "conflict": conflict,
        "refused": [
            {"index": index, "code": code, "reason": reason[:REASON_CHARACTERS_MAX]} for index, code, reason in refused
        ],
    }
    if omitted:
        receipt["omitted"] = omitted
    return json.dumps(receipt, separators=(",", ":")).encode()
