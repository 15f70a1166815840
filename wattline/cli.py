"""The `wattline` command: one program, piece by piece.

Each room brings a `command.py` with `configure(parser)` and `run(args) -> exit status`; it is imported only when it
is asked for, so that `wattline --help` stays quick and a migration does not load a web server. What a person can mend
is raised as a WattlineError, and becomes a line and an exit status here and nowhere else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from config.errors import FAILED, WattlineError
from config.logging import tell
from config.version import wattline_version

COMMANDS = {
    "up": (
        "embedded.command",
        "run everything here: PostgreSQL, Mosquitto, ingestor, API and a simulated fleet",
    ),
    "migrate": ("ingestor.schema.command", "bring the database schema up to date"),
    "ingest": ("ingestor.command", "take readings from MQTT into PostgreSQL"),
    "api": ("analytics_api.command", "serve status and analytics over HTTP"),
    "token": ("analytics_api.token_command", "make a token for a client of the API, and its entry for the settings"),
    "licences": ("wattline.licences_command", "what is shipped and under which licence, also as CycloneDX"),
    "loadgen": ("loadgen.command", "publish as a simulated fleet, and verify what was stored"),
    "rebuild-hourly": ("ingestor.rebuild", "sum the hours of a stretch of time again"),
    "retention": ("ingestor.housekeeping.retention_command", "show or drop what is past RETENTION_DAYS"),
    "readings": ("ledger.readings_command", "take readings out of every answer, and put them back"),
    "device": ("ledger.device_command", "forget devices that are gone"),
    "secure": ("access.secure_command", "make the secrets, certificates and accounts of a set-up of one's own"),
    "devices": ("access.command", "the broker's accounts: add, remove, give a new secret, list"),
    "rejected": ("ingestor.rejected.command", "list or replay the messages in quarantine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 ok, 1 failed, 2 bad usage or settings."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="wattline", description="Energy telemetry from MQTT into PostgreSQL.")
    parser.add_argument("--version", action="version", version=f"wattline {wattline_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked_for = next((word for word in arguments if word in COMMANDS), None)
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == asked_for:
            room = importlib.import_module(module)
            room.configure(subparser)
            if name != "up":  # which has one of its own
                _add_data_dir(subparser)
                subparser.set_defaults(data_dir=None)
            subparser.set_defaults(run=room.run)
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except WattlineError as error:
        tell(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return FAILED


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    """`--data-dir` for a command and for each of its own commands, so that it may stand anywhere on the line."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=argparse.SUPPRESS,  # else the default of an inner command would hide what was given before it
        metavar="DIR",
        help="use broker and database of the `wattline up` with this data directory (WATTLINE_DATA_DIR, .wattline)",
    )
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to find them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for inner in action.choices.values():
                _add_data_dir(inner)
