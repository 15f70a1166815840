"""`wattline ingest`."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial

from config.arguments import whole_number
from config.errors import FAILED, OK, UsageError
from config.event_loop import loop_factory
from config.logging import configure_logging, name_worker
from config.open_files import raise_limit
from config.reread import Rereading
from config.settings import Settings, load_settings
from ingestor.workers.names import WORKERS_MAX, settings_of_worker


def configure(parser: argparse.ArgumentParser) -> None:
    """How many there are, and how one goes; everything else is a setting (see the table in README.md)."""
    parser.epilog = "Everything else is set by environment variables or .env; see the table in README.md."
    parser.add_argument(
        "--workers",
        type=whole_number(1, WORKERS_MAX),
        metavar="N",
        help="so many processes share the load, under one that keeps them running and has the metrics of all",
    )
    parser.add_argument(
        "--leave",
        action="store_true",
        help="leave the share group for good: store what the session of MQTT_CLIENT_ID holds, unsubscribe, end",
    )
    # What a group starts: which one it is, and the open socket for its health and metrics.
    parser.add_argument("--worker", nargs=2, type=int, metavar=("NUMBER", "SOCKET"), help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 after SIGTERM or SIGINT, 1 when it had to give up; the log says why."""
    if args.workers and not args.worker:
        return _group(args)
    return _one(args)


def _one(args: argparse.Namespace) -> int:
    number, descriptor = args.worker or (1, None)
    if args.worker:
        name_worker(number)

    def load() -> Settings:
        metrics_port = 0 if args.leave else None  # one that leaves may stand beside one that stays
        settings = load_settings(beside_up=True, data_dir=args.data_dir, metrics_port=metrics_port)
        return settings_of_worker(settings, number, args.workers or 1)

    rereading = Rereading(load, _check, apply=lambda _: None)
    settings = rereading.settings
    configure_logging(settings.log_level, settings.log_format)
    raise_limit()
    from ingestor.health import handed_over  # noqa: PLC0415 - `--help` needs none of it
    from ingestor.service import Ingestor  # noqa: PLC0415 - same

    async def ingest() -> bool:
        rereading.listen()
        listener = None if descriptor is None else handed_over(descriptor)
        return await Ingestor(settings, leaves=args.leave).run(listener)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return OK if runner.run(ingest()) else FAILED


def _group(args: argparse.Namespace) -> int:
    """`--workers`."""
    if args.leave:
        raise UsageError("--leave is for one ingestor by itself, --workers for several that stay: choose one")
    from ingestor.workers.group import WorkerGroup  # noqa: PLC0415 - `--help` needs none of it

    load = partial(load_settings, beside_up=True, data_dir=args.data_dir)
    groups: list[WorkerGroup] = []

    def check(settings: Settings) -> None:
        for number in range(1, args.workers + 1):
            settings_of_worker(settings, number, args.workers)
        _check(settings)

    def tell_workers(_: Settings) -> None:
        for group in groups:
            group.hang_up()

    rereading = Rereading(load, check, apply=tell_workers)
    check(rereading.settings)
    configure_logging(rereading.settings.log_level, rereading.settings.log_format)
    arguments = ("--workers", str(args.workers), *(("--data-dir", str(args.data_dir)) if args.data_dir else ()))

    async def supervise() -> bool:
        groups.append(WorkerGroup(rereading.settings, args.workers, arguments))
        rereading.listen()
        return await groups[0].run()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return OK if runner.run(supervise()) else FAILED


def _check(settings: Settings) -> None:
    """Raises SettingsError for certificate files that cannot be used, and for limits of no kind of reading."""
    from mqtt.options import LinkOptions  # noqa: PLC0415 - `--help` needs none of it
    from telemetry.rules import Rules  # noqa: PLC0415 - same

    LinkOptions.from_settings(settings, client_id="")
    LinkOptions.from_settings(settings.connecting_by(settings.mqtt_monitor_url), client_id="")
    Rules.from_settings(settings)
