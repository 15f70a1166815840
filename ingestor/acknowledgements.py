"""PUBACKs: sent once a batch is settled, that is after COMMIT, and in the order of receiving (MQTT-4.6.0-2).

What is sent, and over which connection, travels with the batch (`ingestor.source`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from ingestor.batch import Batch
from ingestor.window import BrokerWindow

logger = logging.getLogger(__name__)


class Acknowledgements:
    """Those that are owed."""

    def __init__(self, window: BrokerWindow, monotonic: Callable[[], float]) -> None:
        self.owed: deque[Batch] = deque()
        """Batches that are stored, all or in part, in the order of receiving."""
        self._window = window
        self._window_said: int | None = None
        self._monotonic = monotonic

    def send(self) -> None:
        """For what is settled, up to the first batch that is not."""
        left, now = 0, self._monotonic()
        while self.owed and self.owed[0].settled:
            batch = self.owed.popleft()
            ended = batch.acknowledge()
            self._window.acknowledged(batch.unacknowledged - ended, now)
            left += ended
        if self._window.is_sure and self._window.learned != self._window_said:
            self._say_window()
        if left:
            logger.info(
                "%d committed messages came over a connection that has ended; the broker sends them again", left
            )

    def _say_window(self) -> None:
        """Once for each window that was found out: a person may want a larger one."""
        self._window_said = self._window.learned
        logger.info(
            "the broker sends %d messages ahead of our acknowledgement, MAX_INFLIGHT would allow %d: each such lot "
            "is written at once. For larger batches raise its own limit (Mosquitto: max_inflight_messages, EMQX: "
            "mqtt.max_inflight, RabbitMQ: mqtt.prefetch, VerneMQ: receive_max_client; HiveMQ CE: 50 by design)",
            self._window.messages,
            self._window.asked,
        )
