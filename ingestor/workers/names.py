"""Which worker is who at the broker: names that stay the same, however many are started, and how often.

The first one is the ingestor that would run alone: it has MQTT_CLIENT_ID as it is, and so its session with all that
waits there. The others are named as nobody names one by hand, so it is certain what a larger number has left behind.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from config.broker import INGESTOR_ACCOUNT
from config.errors import SettingsError
from config.settings import Settings

logger = logging.getLogger(__name__)

WORKERS_MAX = 64
CLIENT_ID_MAX = 200
_GROUP = re.compile(r"[^/+#\s]{1,100}")


def settings_of_worker(settings: Settings, number: int, workers: int) -> Settings:
    """The settings for one of so many, counted from 1. Raises SettingsError where no name can be made."""
    if workers > 1 and settings.broker.username == INGESTOR_ACCOUNT:
        raise SettingsError(
            f"--workers {workers}: the account {INGESTOR_ACCOUNT} of MQTT_URL is one client at the broker, and so many "
            "would end each other's connections; run so many `wattline ingest` instead, each with an account of its "
            "own (wattline devices add --as ingestor)"
        )
    group = settings.mqtt_share_group
    if group is None and workers > 1:
        group = settings.mqtt_client_id
        if not _GROUP.fullmatch(group):
            raise SettingsError(
                f"MQTT_SHARE_GROUP must be set for --workers {workers}: it is MQTT_CLIENT_ID otherwise, and "
                f"{group!r} holds what no share group may (/ + # or a space), or is too long"
            )
    client_id = client_id_of(settings.mqtt_client_id, number)
    if len(client_id) > CLIENT_ID_MAX:
        raise SettingsError(f"MQTT_CLIENT_ID: {client_id!r} is too long for a worker; take a shorter one")
    return settings.model_copy(update={"mqtt_client_id": client_id, "mqtt_share_group": group})


def client_id_of(client_id: str, number: int) -> str:
    """The client id of a worker, `client_id` being MQTT_CLIENT_ID."""
    return client_id if number == 1 else f"{client_id}-worker-{number}"


def warn_of_left_behind(client_id: str, known: Iterable[str]) -> None:
    """For one that runs alone: what workers of before left at the broker is nobody's."""
    if numbers := left_behind(client_id, 1, known):
        logger.warning(
            "%s: of `--workers`, which is not used any more; readings may wait in their sessions at the broker. "
            "`wattline ingest --workers 1` instead of `wattline ingest` stores them and ends those sessions",
            ", ".join(client_id_of(client_id, number) for number in numbers),
        )


def left_behind(client_id: str, workers: int, known: Iterable[str]) -> list[int]:
    """The numbers of workers beyond `workers`, of those that the client ids `known` name."""
    names = {client_id_of(client_id, number): number for number in range(2, WORKERS_MAX + 1)}
    numbers = {names[name] for name in known if name in names}
    return sorted(number for number in numbers if number > workers)
