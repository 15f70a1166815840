"""`./dev bench [NAME]`: one benchmark, or all of them."""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks import citus, drain, outage, queries, scale, steady, window, workers
from benchmarks.machine import hopeless, shortcomings, this_machine
from config.errors import FAILED, WattlineError

BENCHMARKS = {
    "drain": drain,
    "steady": steady,
    "outage": outage,
    "scale": scale,
    "workers": workers,
    "queries": queries,
    "window": window,
    "citus": citus,
}
INTERRUPTED = 130


def main() -> int:
    """Run what was asked for; 0 when each came to its end and nothing was lost."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measurements, as ratios within one run.")
    names = parser.add_subparsers(dest="name", metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        benchmark.configure(names.add_parser(name, help=benchmark.SUMMARY, description=benchmark.SUMMARY))
    args = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):  # what we started ends before us
        signal.signal(ending, signal.default_int_handler)  # SIGINT too: a shell's background job is born deaf to it
    try:
        machine = this_machine()
        if hopeless(machine):
            print(f"bench: this machine is too small: {'; '.join(shortcomings(machine))}", file=sys.stderr)
            return FAILED
        if args.name is not None:
            return int(BENCHMARKS[args.name].run(args))
        # All of them, one after another; what one finds does not keep the next from running.
        return max(_one(name, parser.parse_args([name])) for name in BENCHMARKS)
    except WattlineError as error:
        print(f"bench: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is left running", file=sys.stderr)
        return INTERRUPTED


def _one(name: str, args: argparse.Namespace) -> int:
    try:
        return int(BENCHMARKS[name].run(args))
    except WattlineError as error:
        print(f"bench: {name}: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
