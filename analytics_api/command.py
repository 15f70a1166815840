"""`wattline api`: serve HTTP until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
from functools import partial

from config.settings import load_settings


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline api`; each wins over the setting of its name."""
    parser.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (PORT, 3000); 0 = any free port")
    parser.add_argument("--certfile", metavar="FILE", help="serve by TLS, with this certificate (API_TLS_CERT)")
    parser.add_argument("--keyfile", metavar="FILE", help="and its key (API_TLS_KEY)")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal says stop. Raises WattlineError, also where the port cannot be had."""
    from analytics_api.server import serve  # noqa: PLC0415 - `--help` needs none of it

    options = {"host": args.host, "port": args.port, "api_tls_cert": args.certfile, "api_tls_key": args.keyfile}
    serve(partial(load_settings, beside_up=True, data_dir=args.data_dir, **options))
    return 0
