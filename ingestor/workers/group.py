"""The process over all workers: it starts them, keeps them running, speaks for them, and stops them.

It receives no readings itself. When it was started with more workers before, those that are too many now leave the
share group, once the others are there. It ends by itself only where no worker has ever got ready.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Sequence

import psycopg

from config.event_loop import stopped_by_signals
from config.seldom import Once
from config.settings import Settings
from ingestor.health import health_app, listen, serving
from ingestor.subscription import remembered
from ingestor.workers.metrics import GroupMetrics
from ingestor.workers.names import left_behind
from ingestor.workers.worker import Worker
from postgres.connecting import connect
from postgres.words import explain
from processes.errors import ProcessError
from processes.supervisor import Supervisor

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
STOP_LOOK_SECONDS = 0.05
# A worker drains for 7 s, says its goodbyes, and then has had its time.
STOP_SECONDS = 12.0
# Between two tries to ask the database who is left behind.
ASK_AGAIN_SECONDS = 10.0


class WorkerGroup:
    """So many workers. `run` is its whole life."""

    def __init__(self, settings: Settings, workers: int, arguments: Sequence[str]) -> None:
        """`settings` are those of one ingestor; `arguments` are options of `wattline ingest` for each worker."""
        self._settings = settings
        self._arguments = arguments
        self._workers = [Worker(number, arguments) for number in range(1, workers + 1)]
        self._leavers: list[Worker] = []
        self._metrics = GroupMetrics(workers)
        self._supervisor = Supervisor([], time.monotonic())
        self._stopped = asyncio.Event()
        self._failed = False
        self._ask_at: float | None = 0.0
        """When to ask the database who is left behind; None = that is known."""
        self._said = Once()

    async def run(self) -> bool:
        """Until SIGTERM or SIGINT. False when it had to end by itself; the log says why.

        Raises SettingsError where METRICS_HOST and METRICS_PORT cannot be had, ProcessError where no worker can be
        started.
        """
        listener = listen(self._settings.metrics_host, self._settings.metrics_port)
        with stopped_by_signals(self._stopped.set):
            async with serving(health_app(self._exposition, self.problems), listener):
                try:
                    for worker in self._workers:
                        self._launch(worker)
                    self._failed = await self._ends_by_itself()
                finally:
                    await self._stop_all()
        logger.info("all workers have ended")
        return not self._failed

    def hang_up(self) -> None:
        """Let every worker read its settings again."""
        for worker in self._all:
            worker.hang_up()

    async def problems(self) -> list[str]:
        """What keeps workers from being ready."""
        found = await asyncio.gather(*(worker.problems() for worker in self._workers))
        return [
            f"{worker.label}: {problem}"
            for worker, problems in zip(self._workers, found, strict=True)
            for problem in problems
        ]

    async def _ends_by_itself(self) -> bool:
        """False once it is told to stop."""
        watching = asyncio.create_task(self._watch(), name="watch")
        stopping = asyncio.create_task(self._stopped.wait(), name="stop")
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()  # a fault of ours, if it ended by one
            return not stopping.done()
        finally:
            for task in (watching, stopping):
                task.cancel()
            await asyncio.wait([watching, stopping])

    @property
    def _all(self) -> list[Worker]:
        return [*self._workers, *self._leavers]

    async def _exposition(self) -> bytes:
        workers = self._all
        texts = await asyncio.gather(*(worker.metrics() for worker in workers))
        return self._metrics.exposition({worker.number: text for worker, text in zip(workers, texts, strict=True)})

    def _launch(self, worker: Worker) -> None:
        try:
            worker.launch()
        except OSError as error:
            raise ProcessError(f"{worker.label} cannot be started: {error.strerror}") from None
        self._supervisor.add(worker, time.monotonic())

    async def _watch(self) -> None:
        """Keep them running; ends only where that is of no use."""
        ended: set[int] = set()
        while len(ended) < len(self._workers) or any(worker.was_ready for worker in self._workers):
            await asyncio.sleep(LOOK_SECONDS)
            ended |= {worker.number for worker in self._workers if not worker.running}
            self._restart()
            await asyncio.gather(*(worker.problems() for worker in self._all if not worker.has_been_heard))
            if self._ask_at is not None and all(worker.was_ready for worker in self._workers):
                await self._let_leave()
        logger.error("none of %d workers got ready; their own lines say why", len(self._workers))

    def _restart(self) -> None:
        pids = {worker.number: worker.pid for worker in self._all}
        for news in self._supervisor.look(time.monotonic()):
            logger.warning("%s", news)
        for worker in self._all:
            if worker.pid != pids[worker.number]:
                self._metrics.restarted(worker.number)
        for worker in [worker for worker in self._leavers if worker.is_done]:
            self._leavers.remove(worker)
            worker.close()

    async def _let_leave(self) -> None:
        """Workers of an earlier, larger number leave, now that all of the present number are subscribed."""
        if self._ask_at is None or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        settings = self._settings
        try:
            async with await connect(settings.database_conninfo, autocommit=True) as connection:
                known = await remembered(connection, settings.mqtt_client_id)
        except psycopg.Error as error:
            if self._said.is_new(problem := explain(error, settings.database_label)):
                logger.warning("workers that are too many cannot leave yet: %s", problem)
            return
        self._ask_at = None
        for number in left_behind(settings.mqtt_client_id, len(self._workers), known.others):
            logger.info("worker %d is one too many now: it leaves, once what is in its session is stored", number)
            worker = Worker(number, self._arguments, leaves=True)
            self._leavers.append(worker)
            self._launch(worker)

    async def _stop_all(self) -> None:
        """All at once, under one deadline."""
        for worker in self._all:
            worker.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(worker.running for worker in self._all):
            await asyncio.sleep(STOP_LOOK_SECONDS)
            if time.monotonic() > deadline:
                self._kill_all()
        for worker in self._all:
            worker.close()

    def _kill_all(self) -> None:
        for worker in self._all:
            if worker.running:
                logger.error("%s did not end within %.0f s and is killed", worker.label, STOP_SECONDS)
                self._failed = True
                worker.kill()
