"""PostgreSQL goes away under load and comes back: how long until wattline has caught up, and is anything lost or twice?

Devices go on publishing all the time; the broker keeps what the ingestor cannot take. Afterwards every reading that was
acknowledged is looked for in the tables by its key.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from benchmarks.errors import BenchmarkError
from benchmarks.messages import Plan
from benchmarks.publishing import published, start_publishing
from benchmarks.report import BLUE, GREY, ORANGE, Report, add_output, report_for, say
from benchmarks.servers import Ingestor, Servers, servers

SUMMARY = "PostgreSQL away under load: time to catch up, nothing lost, nothing twice"
DEVICES = 20_000
START_SECONDS = 2.0
LOOK_SECONDS = 0.25
SETTLE_SECONDS_MAX = 60.0
# Caught up: what is not committed yet is less than a second of the load.
CAUGHT_UP_SECONDS = 1.0
KEYS = """
    SELECT meter_id, (extract(epoch FROM ts) * 1000000)::bigint FROM meter_readings_history
    UNION ALL
    SELECT vehicle_id, (extract(epoch FROM ts) * 1000000)::bigint FROM vehicle_readings_history
"""


@dataclass
class Story:
    """What was seen, in seconds since the first message."""

    rate: float
    count: int
    began: float
    down_at: float = 0.0
    up_at: float = 0.0
    caught_up_at: float | None = None
    looks: list[tuple[float, int]] = field(default_factory=list)
    """(when, readings committed)"""

    def due(self, at: float) -> int:
        """Messages that devices have sent by then."""
        return min(self.count, max(0, int(at * self.rate)))

    def look(self, ingestor: Ingestor) -> None:
        """See how far it is."""
        if not ingestor.child.running:
            raise BenchmarkError("wattline ingest has ended")
        books = ingestor.books()
        if books is None:
            return
        at = time.time() - self.began
        self.looks.append((at, books.committed))
        behind = self.due(at) - books.committed
        if self.up_at and self.caught_up_at is None and behind <= CAUGHT_UP_SECONDS * self.rate:
            self.caught_up_at = at


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=5000.0, help="messages a second (default %(default)s)")
    parser.add_argument("--away", type=float, default=60.0, help="seconds without PostgreSQL (default %(default)s)")
    parser.add_argument("--before", type=float, default=10.0, help="seconds before (default %(default)s)")
    parser.add_argument("--after", type=float, default=30.0, help="seconds of load afterwards (default %(default)s)")
    parser.add_argument("--kill", action="store_true", help="kill -9 instead of a fast stop")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the story; 0 when nothing was lost and nothing was stored twice."""
    report = report_for("outage", args)
    with servers() as both:
        ingestor = both.ingestor()
        began = time.time() + START_SECONDS
        count = int(args.rate * (args.before + args.away + args.after))
        plan = Plan(count, DEVICES, int(began * 1_000_000), 1_000_000 / args.rate)
        story = Story(args.rate, count, began)
        child = start_publishing(both, plan, paced=True)
        _tell(both, ingestor, story, args)
        acknowledged = published(both, child, SETTLE_SECONDS_MAX)
        keys = _keys(both)
    stored, sent = set(keys), set(plan.keys())
    lost, twice, strange = len(sent - stored), len(keys) - len(stored), len(stored - sent)
    # A refused message may be missing; nothing that the broker acknowledged may.
    lost_acknowledged = max(0, lost - acknowledged.refused)
    behind = story.due(story.up_at) - _committed_at(story.looks, story.up_at)
    seconds = -1.0 if story.caught_up_at is None else story.caught_up_at - story.up_at
    row: dict[str, str | float | int] = {
        "messages/s": args.rate,
        "away s": story.up_at - story.down_at,
        "acknowledged": acknowledged.acknowledged,
        "behind at return": behind,
        "caught up after s": seconds if story.caught_up_at is not None else "never",
        "lost": lost_acknowledged,
        "twice": twice,
        "strange": strange,
    }
    formats = {"messages/s": ",.0f", "away s": ".1f", "acknowledged": ",", "behind at return": ","}
    if story.caught_up_at is not None:
        formats["caught up after s"] = ".1f"
    report.table("outage of PostgreSQL", [row], formats)
    if seconds > 0:
        rate = behind / seconds + args.rate
        report.note(f"while catching up: {rate:,.0f} messages/s committed, {args.rate:,.0f}/s of them new")
    _draw(report, story)
    report.write()
    return 0 if not (lost_acknowledged or twice or strange or acknowledged.refused) else 1


def _tell(both: Servers, ingestor: Ingestor, story: Story, args: argparse.Namespace) -> None:
    _watch(ingestor, story, args.before)
    say(f"outage: PostgreSQL is away for {args.away:g} s")
    story.down_at = time.time() - story.began
    if args.kill:
        both.database.kill()
    else:
        both.database.stop()
    _watch(ingestor, story, story.down_at + args.away)
    say("outage: PostgreSQL comes back")
    both.database.start()
    story.up_at = time.time() - story.began
    deadline = story.up_at + args.after + SETTLE_SECONDS_MAX
    while not story.looks or story.looks[-1][1] < story.count:
        if time.time() - story.began > deadline:
            break
        _watch(ingestor, story, time.time() - story.began + LOOK_SECONDS)


def _watch(ingestor: Ingestor, story: Story, until: float) -> None:
    while (left := until - (time.time() - story.began)) > 0:
        time.sleep(min(LOOK_SECONDS, left))
        story.look(ingestor)


def _keys(both: Servers) -> list[tuple[str, int]]:
    with psycopg.connect(both.database.url) as connection:
        return [(str(device), int(at)) for device, at in connection.execute(KEYS)]


def _committed_at(looks: Sequence[tuple[float, int]], at: float) -> int:
    return max((committed for when, committed in looks if when <= at), default=0)


def _draw(report: Report, story: Story) -> None:
    times = [at for at, _ in story.looks]
    with report.picture(1) as (axes,):
        axes.axvspan(story.down_at, story.up_at, color=GREY, alpha=0.3, label="PostgreSQL away")
        axes.plot(times, [story.due(at) for at in times], color=ORANGE, label="sent by devices")
        axes.plot(times, [committed for _, committed in story.looks], color=BLUE, label="committed")
        axes.set(xlabel="seconds", ylabel="messages")
        axes.legend(fontsize=8, frameon=False)
