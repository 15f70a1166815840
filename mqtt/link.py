"""The link to the broker: a `Connection` that comes back.

Connects, subscribes, and after every loss connects and subscribes again, with exponential backoff and jitter. It never
repeats a publish: only the caller knows whether twice is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from types import TracebackType
from typing import Self

from config.backoff import backoff_seconds
from config.seldom import Once
from mqtt.connection import Connection, OnPublish
from mqtt.errors import LinkError, LinkLost, LinkRefused, unfit
from mqtt.granted import session_lost, shortcomings, why_unfit
from mqtt.options import LinkOptions

__all__ = ["Connection", "Link", "LinkOptions"]

logger = logging.getLogger(__name__)

# First a quick try (a broker that restarts is back within a second), then ever more patient; the cap bounds how long
# the fleet waits for us after an outage. Full jitter, so that a hundred ingestors do not come back as one.
BACKOFF_SECONDS_MIN = 0.2
BACKOFF_SECONDS_MAX = 10.0
# A connection that lasted this long was a good one: the next loss starts over with a quick try.
GOOD_CONNECTION_SECONDS = 5.0
# A broker that stays away is worth a line a minute, not one every ten seconds.
REPEAT_LOG_SECONDS = 60.0
# A broker that went away refuses the next connection. One that takes it and cuts it again, over and over, has most
# likely given our session to somebody else: Mosquitto says so (0x8E) only from 2.0.15 on, and Debian 12 has 2.0.11.
SUSPICIOUS_CUTS = 3
# The other one, cut by us in turn, is back within its own backoff.
SUSPICIOUS_SECONDS = 2 * BACKOFF_SECONDS_MAX
# A refused or unanswered UNSUBSCRIBE is tried again after this long: meanwhile messages come twice, which is harmless.
UNSUBSCRIBE_RETRY_SECONDS = 60.0


async def _nothing_before() -> None:
    pass


async def _nothing_to_forget(topic_filter: str) -> None:
    pass


@dataclass(eq=False)
class Link:
    """A connection to the broker that is kept up: `async with Link(...) as link`, or `await link.run()`."""

    options: LinkOptions
    _: KW_ONLY
    subscribe: Sequence[str] = ()
    """Topic filters, subscribed on every connect, session present or not: a broker may say that it kept a session and
    have forgotten its shared subscriptions (Mosquitto 2.0 does)."""
    unsubscribe: Sequence[str] = ()
    """Those to leave, once the others are granted, so that nothing falls in between."""
    known_to_broker: bool = False
    """An earlier process had a session under this client id; it is missed from the start."""
    on_publish: OnPublish | None = None
    on_reconnect: Callable[[], None] = lambda: None
    on_session_lost: Callable[[], None] = lambda: None
    on_unsubscribed: Callable[[str], Awaitable[None]] = _nothing_to_forget
    before_connect: Callable[[], Awaitable[None]] = _nothing_before
    """Awaited before each attempt to connect; it must be quick, and raise nothing."""
    before_subscribe: Callable[[], Awaitable[None]] = _nothing_before
    """Awaited once the broker has accepted us; a LinkError of it costs the attempt."""

    def __post_init__(self) -> None:
        self._to_leave = list(self.unsubscribe)
        self._session_expected = self.known_to_broker
        self._shortcomings: list[str] = []
        self._connection: Connection | None = None
        self._changed = asyncio.Condition()
        self._reason: LinkError = LinkLost(f"not connected to the broker at {self.options.broker} yet")
        self._task: asyncio.Task[None] | None = None
        self._said = Once(REPEAT_LOG_SECONDS)

    @property
    def connection(self) -> Connection | None:
        """The present connection, subscribed and open; None between two."""
        return self._connection if self._connection is not None and self._connection.is_open else None

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """As `Connection.publish`; raises LinkLost at once while not connected, with the reason."""
        if self._connection is None:
            raise self._why_not()
        await self._connection.publish(topic, payload, qos=qos)

    async def wait_connected(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - reads better at the caller
        """Raises the latest LinkError when the time (seconds) is over, LinkRefused as soon as it is final."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self.connection or isinstance(self._reason, LinkRefused))
        except TimeoutError:
            raise self._why_not() from None
        if self._connection is None:
            raise self._why_not()

    async def run(self) -> None:
        """Keep the link up until cancelled; then disconnect. Raises LinkRefused when only a person can help."""
        failures = cuts = 0
        connected_before = False
        while True:
            started = time.monotonic()
            try:
                connection = await self._connect()
                leaving = asyncio.create_task(self._leave_old_filters(connection), name="leave old filters")
                try:
                    await self._set(connection, None)
                    if connected_before:
                        self.on_reconnect()
                    connected_before = True
                    error = await connection.closed()
                except BaseException:
                    self._connection, self._reason = None, LinkLost("we closed the link to the broker")
                    raise
                finally:
                    leaving.cancel()
                    await connection.disconnect()
                    await asyncio.wait([leaving])
                lasted = time.monotonic() - started
                failures = 0 if lasted > GOOD_CONNECTION_SECONDS else failures
                cuts = cuts + 1 if lasted < SUSPICIOUS_SECONDS else 0
            except LinkError as refused:
                error = refused
                cuts = 0
            await self._set(None, error)
            if isinstance(error, LinkRefused):
                raise error
            failures += 1
            await self._wait_before_retry(failures, error, cuts)

    async def _connect(self) -> Connection:
        await self.before_connect()
        connection = await Connection.open(self.options, self.on_publish)
        try:
            self._weigh(connection)
            await self.before_subscribe()
            for topic_filter in self.subscribe:
                await connection.subscribe(topic_filter)
        except LinkError as error:
            connection.abort(error)
            raise
        except BaseException:
            # A resumed session delivers, and is acknowledged, before its subscription is confirmed.
            await connection.disconnect()
            raise
        session = "session resumed" if connection.session_present else "new session"
        logger.info("connected to the broker at %s as %s (%s)", self.options.broker, self.options.client_id, session)
        self._said.forget()
        return connection

    def _weigh(self, connection: Connection) -> None:
        """Whether the broker grants what we need, and still has our session. Raises LinkError where it cannot work."""
        options, broker = self.options, str(self.options.broker)
        if (why := why_unfit(connection.granted, options, self.subscribe)) is not None:
            raise unfit(broker, why)
        if options.session_expiry_seconds > 0:
            if self._session_expected and not connection.session_present:
                logger.warning("%s", session_lost(broker, options.client_id))
                self.on_session_lost()
            self._session_expected = True
        lines = shortcomings(connection.granted, options)
        for line in lines:
            if line not in self._shortcomings:
                logger.warning("the broker at %s grants less than was asked for: %s", broker, line)
        self._shortcomings = lines

    async def _leave_old_filters(self, connection: Connection) -> None:
        """Unsubscribe what is not wanted any more; what the broker refuses is kept in mind and tried again."""
        said: set[str] = set()
        while self._to_leave and connection.is_open:
            for topic_filter in tuple(self._to_leave):
                try:
                    refusal = await connection.unsubscribe(topic_filter)
                except LinkError as error:
                    refusal = f"{topic_filter} is not unsubscribed yet: {error}"
                if refusal is None:
                    self._to_leave.remove(topic_filter)
                    logger.info("unsubscribed %s", topic_filter)
                    try:
                        await self.on_unsubscribed(topic_filter)
                    except Exception:
                        logger.exception("could not note down that %s is unsubscribed", topic_filter)
                elif connection.is_open and refusal not in said:
                    said.add(refusal)
                    logger.warning("%s; its messages come twice, which is harmless; trying again", refusal)
            if self._to_leave:
                await asyncio.sleep(UNSUBSCRIBE_RETRY_SECONDS)

    async def _wait_before_retry(self, failures: int, error: LinkError, cuts: int) -> None:
        delay = backoff_seconds(failures, least=BACKOFF_SECONDS_MIN, most=BACKOFF_SECONDS_MAX)
        if self._said.is_new(str(error)):
            suspicion = (
                f" (cut {cuts} times in a row: does another client use the client id {self.options.client_id!r}?)"
                if cuts >= SUSPICIOUS_CUTS
                else ""
            )
            logger.warning("%s; trying again%s", error, suspicion)
        await asyncio.sleep(delay)

    def _why_not(self) -> LinkError:
        # Without its traceback, to which every raise would add: publishers may ask thousands of times a second.
        return self._reason.with_traceback(None)

    async def _set(self, connection: Connection | None, reason: LinkError | None) -> None:
        async with self._changed:
            self._connection = connection
            self._reason = reason or self._reason
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run_quietly(), name=f"mqtt link {self.options.client_id}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()  # None, or a fault of ours that nobody has seen yet

    async def _run_quietly(self) -> None:
        """A refusal reaches those who wait for the connection or publish, not the event loop's error log."""
        try:
            await self.run()
        except LinkRefused as error:
            logger.debug("the link has ended: %s", error)
