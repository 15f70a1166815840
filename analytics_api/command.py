"""`wattline api`: serve HTTP until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from config.settings import load_settings

OK, FAILED = 0, 1


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline api`; each wins over the setting of its name."""
    parser.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (PORT, 3000); 0 = any free port")


def run(args: argparse.Namespace) -> int:
    """Exit status 0 after a stop, 1 where the port cannot be had."""
    from analytics_api.http.listening import ListenError  # noqa: PLC0415 - `--help` needs none of it
    from analytics_api.server import serve  # noqa: PLC0415

    load = partial(load_settings, beside_up=True, data_dir=args.data_dir, host=args.host, port=args.port)
    try:
        serve(load)
    except ListenError as error:
        sys.stderr.write(f"wattline: {error}\n")
        return FAILED
    return OK
