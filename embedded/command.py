"""`wattline up`: its options, and what the file system refuses as one line."""

from __future__ import annotations

import argparse
from pathlib import Path

from config.arguments import number, port, whole_number
from config.running import DATA_DIR, forget_other_servers
from config.settings import load_settings

DEVICES_MAX = 1_000_000
INTERVAL_SECONDS_MIN = 0.1
INTERVAL_SECONDS_MAX = 86_400.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Everything listens on this machine only. Data survives in the data directory, and so do the logs. "
        "Settings (environment, .env) other than addresses and ports are passed on. "
        "Exit status: 0 stopped by Ctrl-C or SIGTERM, 1 something could not start, 2 bad usage."
    )
    add = parser.add_argument
    count = whole_number(0, DEVICES_MAX)
    add("--meters", type=count, default=100, metavar="N", help="simulated meters; 0 = none (default %(default)s)")
    add("--vehicles", type=count, default=100, metavar="N", help="simulated vehicles; 0 = none (default %(default)s)")
    add(
        "--interval",
        type=number(INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX, or_zero=True),
        default=5.0,
        metavar="SECONDS",
        help="time between two readings of a simulated device; 0 = no simulated fleet (default %(default)g)",
    )
    free = "0 = any free port"
    add("--http-port", type=port, default=3000, metavar="PORT", help=f"the API's; {free} (default %(default)s)")
    add("--mqtt-port", type=port, metavar="PORT", help=f"the broker's; {free} (default 1883, with --secure 8883)")
    add(
        "--pg-port",
        type=port,
        default=0,
        metavar="PORT",
        help="PostgreSQL's; 0 = the last one, else any free (default)",
    )
    add("--metrics-port", type=port, default=9464, metavar="PORT", help=f"the ingestor's; {free} (default %(default)s)")
    add(
        "--secure",
        action="store_true",
        help="the broker as in production: TLS, and an account for each of wattline's parts and each simulated device",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=f"where data and logs live (WATTLINE_DATA_DIR, {DATA_DIR}); the other commands take the same option",
    )


def run(args: argparse.Namespace) -> int:
    """Run until asked to stop. Raises WattlineError."""
    from embedded.errors import EmbeddedError  # noqa: PLC0415 - `--help` needs none of this
    from embedded.up import Options, up  # noqa: PLC0415 - same

    forget_other_servers()
    options = Options(
        meters=args.meters,
        vehicles=args.vehicles,
        interval_seconds=args.interval,
        http_port=args.http_port,
        mqtt_port=args.mqtt_port if args.mqtt_port is not None else 8883 if args.secure else 1883,
        pg_port=args.pg_port,
        metrics_port=args.metrics_port,
        data_dir=args.data_dir or load_settings().data_dir,
        secure=args.secure,
    )
    try:
        return up(options)
    except OSError as error:  # a folder that cannot be written, a full disk
        what = f"{error.filename}: " if error.filename else ""
        raise EmbeddedError(f"{what}{error.strerror}") from None
