"""`./dev bench [NAME]`: one benchmark, or all of them."""

from __future__ import annotations

import argparse
import sys

from benchmarks import drain

BENCHMARKS = {"drain": drain}


def main() -> int:
    """Run what was asked for; 0 when it came to its end."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measurements, as ratios within one run.")
    names = parser.add_subparsers(dest="name", metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        benchmark.configure(names.add_parser(name, help=benchmark.SUMMARY, description=benchmark.SUMMARY))
    args = parser.parse_args()
    chosen = [args.name] if args.name is not None else list(BENCHMARKS)
    return max(int(BENCHMARKS[name].run(parser.parse_args([name, *sys.argv[2:]]))) for name in chosen)


sys.exit(main())
