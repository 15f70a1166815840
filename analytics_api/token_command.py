"""`wattline token`: make a token for a client, and what the settings list for it."""

from __future__ import annotations

import argparse
import sys

from config.errors import UsageError
from config.output import say
from config.tokens import NAME, NAME_RULE, entry_of, is_token, new_token


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline token`."""
    parser.epilog = (
        "The token is shown once and kept nowhere: give it to the client. The entry goes into API_READ_TOKENS or "
        "API_WRITE_TOKENS; who reads it there cannot use it."
    )
    parser.add_argument("name", nargs="?", type=_name, metavar="NAME", help="how logs call it (the start of its hash)")
    parser.add_argument("--stdin", action="store_true", help="no new token, but the entry of one that stdin has")


def run(args: argparse.Namespace) -> int:
    """Print them. Raises UsageError for something on stdin that is no token."""
    if args.stdin:
        token = sys.stdin.readline().strip()
        if not is_token(token):
            raise UsageError("--stdin: a token of visible ASCII characters without spaces and commas is expected")
        say([entry_of(token, args.name)])
        return 0
    token = new_token()
    say([f"token {token}", f"entry {entry_of(token, args.name)}"])
    return 0


def _name(given: str) -> str:
    if not NAME.fullmatch(given):
        raise argparse.ArgumentTypeError(f"a name has {NAME_RULE}")
    return given
