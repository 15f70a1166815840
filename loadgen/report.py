"""The final report of a run, for a person and as JSON: what was sent, what became of it, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadgen.committed import Committed
from loadgen.counts import Counts
from loadgen.histogram import Histogram
from loadgen.verify import Findings


@dataclass
class Report:
    """Filled in as the run goes on, so that it is true however the run ends."""

    counts: Counts = field(default_factory=Counts)
    latency: Histogram = field(default_factory=Histogram)
    """Due → PUBACK."""
    committed: Committed | None = None
    findings: Findings | None = None
    error: str | None = None
    answer: str = "PUBACK"
    """What answers a message: a PUBACK, or a receipt."""

    def lines(self) -> list[str]:
        """All but the findings, a line a fact."""
        counts = self.counts
        lines = counts.report()
        if self.latency.count:
            lines.append(f"publish → {self.answer}: {self.latency.line()}")
        if self.committed is not None:
            lines += self.committed.lines()
        if counts.messages:
            lines.append(
                f"loadgen itself: {counts.cpu_microseconds:,.1f} µs of CPU a message, {counts.core_percent:,.0f} % of "
                "one core"
            )
        return lines

    def as_json(self, exit_status: int) -> dict[str, Any]:
        """Durations of latencies in milliseconds."""
        counts, findings = self.counts, self.findings
        return {
            "published": counts.published,
            "acknowledged": counts.acknowledged,
            "unacknowledged": counts.unacknowledged,
            "refused": dict(counts.refused),
            "publishedAgain": counts.published_again,
            "repeated": counts.repeated,
            "leftOut": counts.left_out,
            "notSent": counts.not_sent,
            "late": counts.late,
            "duplicates": counts.duplicates,
            "malformed": counts.malformed,
            "messages": counts.messages,
            "seconds": round(counts.seconds, 3),
            "acknowledgedPerSecond": round(counts.rate, 1),
            "cpuMicrosecondsPerMessage": round(counts.cpu_microseconds, 2),
            "corePercent": round(counts.core_percent, 1),
            f"{self.answer.lower()}Milliseconds": self.latency.milliseconds(),
            "committedMilliseconds": None if self.committed is None else self.committed.as_json(),
            "verified": None
            if findings is None
            else {
                "acknowledged": findings.acknowledged,
                "lost": findings.lost,
                "duplicated": findings.duplicated,
                "wrong": findings.wrong,
                "examples": findings.examples,
            },
            "error": self.error,
            "exitStatus": exit_status,
        }
