"""`wattline ingest`."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial

from config.errors import FAILED, OK
from config.event_loop import loop_factory
from config.logging import configure_logging
from config.open_files import raise_limit
from config.reread import Rereading
from config.settings import Settings, load_settings


def configure(parser: argparse.ArgumentParser) -> None:
    """What is done once; everything else is a setting (see the table in README.md)."""
    parser.epilog = "Everything else is set by environment variables or .env; see the table in README.md."
    parser.add_argument(
        "--leave",
        action="store_true",
        help="leave the share group for good: store what the session of MQTT_CLIENT_ID holds, unsubscribe, end",
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 0 after SIGTERM or SIGINT, 1 when it had to give up; the log says why."""
    metrics_port = 0 if args.leave else None  # one that leaves may stand beside one that stays
    load = partial(load_settings, beside_up=True, data_dir=args.data_dir, metrics_port=metrics_port)
    rereading = Rereading(load, _check, apply=lambda _: None)
    settings = rereading.settings
    configure_logging(settings.log_level, settings.log_format)
    raise_limit()
    from ingestor.service import Ingestor  # noqa: PLC0415 - `--help` needs none of it

    async def ingest() -> bool:
        rereading.listen()
        return await Ingestor(settings, leaves=args.leave).run()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return OK if runner.run(ingest()) else FAILED


def _check(settings: Settings) -> None:
    """Raises SettingsError for certificate files that cannot be used, and for limits of no kind of reading."""
    from mqtt.options import LinkOptions  # noqa: PLC0415 - `--help` needs none of it
    from telemetry.rules import Rules  # noqa: PLC0415 - same

    LinkOptions.from_settings(settings, client_id="")
    Rules.from_settings(settings)
