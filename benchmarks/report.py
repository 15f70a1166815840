"""What a benchmark leaves behind: a table for the terminal, the same as JSON, and a picture.

The bars of the project are shown beside what was measured, reached or not: a benchmark reports, it does not judge.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.machine import Machine, shortcomings, this_machine

mpl.use("Agg")
RESULTS = Path(__file__).parent / "results"
PANEL_INCHES = (5.2, 3.8)
BLUE, ORANGE, GREEN, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#a0aec0"

Row = Mapping[str, str | float | int]
Columns = Mapping[str, tuple[str, str]]
"""For each column of a table the attribute that it shows, and a format for the terminal."""


@dataclass(frozen=True)
class Bar:
    """A target, and what was measured."""

    what: str
    measured: float
    target: float
    at_least: bool

    @property
    def reached(self) -> bool:
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def line(self) -> str:
        """For a person."""
        verdict = "reached" if self.reached else "missed"
        return f"{self.what}: {self.measured:,.3g} (bar {'≥' if self.at_least else '≤'} {self.target:g}: {verdict})"


@dataclass
class Report:
    """One benchmark's results."""

    name: str
    output: Path
    options: dict[str, Any]
    machine: Machine = field(default_factory=this_machine)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    bars: list[Bar] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, rows: Sequence[Row], units: Mapping[str, str] | None = None) -> None:
        """Show rows and keep them; `units` holds a format for each column that is a number."""
        self.tables[title] = list(rows)
        columns = list(rows[0])
        formats = units or {}
        cells = [[format(row[column], formats.get(column, "")) for column in columns] for row in rows]
        widths = [max(len(column), *(len(line[at]) for line in cells)) for at, column in enumerate(columns)]
        print(f"\n{title}")
        for line in (columns, *cells):
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))

    def show(self, title: str, columns: Columns, results: Sequence[object]) -> None:
        """A table with a line for each result."""
        rows = [{column: getattr(result, name) for column, (name, _) in columns.items()} for result in results]
        self.table(title, rows, {column: how for column, (_, how) in columns.items()})

    def bar(self, what: str, measured: float, target: float, *, at_least: bool = False) -> None:
        """Show a target beside its figure, and keep both."""
        self.bars.append(Bar(what, measured, target, at_least))
        print(self.bars[-1].line())

    def note(self, text: str) -> None:
        """A line for the terminal and for the JSON."""
        self.notes.append(text)
        print(text)

    @contextmanager
    def picture(self, panels: int) -> Iterator[list[Axes]]:
        """So many drawings side by side; saved at the end."""
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * panels, height), layout="constrained")
        axes = [figure.add_subplot(1, panels, at + 1) for at in range(panels)]
        for one in axes:
            one.grid(axis="y", color="#e2e8f0")
            one.set_axisbelow(True)
            one.spines[["top", "right"]].set_visible(False)
        yield axes
        self.output.mkdir(parents=True, exist_ok=True)
        figure.suptitle(f"wattline bench {self.name} · {self.machine.cores:g} cores, {self.machine.cpu}", fontsize=9)
        figure.savefig(self.output / f"{self.name}.png", dpi=130)

    def write(self) -> None:
        """The JSON; says where everything is."""
        self.output.mkdir(parents=True, exist_ok=True)
        file = self.output / f"{self.name}.json"
        seconds = (datetime.now(UTC) - self.began).total_seconds()
        content = {
            "benchmark": self.name,
            "began": self.began.isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "options": self.options,
            "machine": asdict(self.machine),
            "shortcomings": shortcomings(self.machine),
            "bars": [{**asdict(bar), "reached": bar.reached} for bar in self.bars],
            "notes": self.notes,
            "tables": self.tables,
        }
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{self.name}: {seconds:.0f} s; {file}, {file.with_suffix('.png').name}")


def add_output(parser: argparse.ArgumentParser) -> None:
    """The option that all benchmarks share."""
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="folder for JSON and PNG (default benchmarks/results)",
    )


def report_for(name: str, args: argparse.Namespace) -> Report:
    """A report that knows its options; says on what it is measured, and what the machine lacks."""
    options = {key: value for key, value in vars(args).items() if key not in ("name", "output")}
    report = Report(name, args.output, options)
    print(f"{name}: {report.machine.line()}", flush=True)
    for text in shortcomings(report.machine):
        print(f"{name}: this machine is too small: {text}; the figures say little", flush=True)
    return report


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
