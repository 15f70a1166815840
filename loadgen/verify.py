"""The verdict: every reading that the broker acknowledged, held against the tables.

Waits until all of them are stored, then compares row by row: lost, duplicated, wrong. It judges only the run's own
devices within the run's own timestamps, so that other runs and fleets do not matter to it; what was sent and never
acknowledged may be stored or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psycopg

from config.errors import WattlineError
from loadgen.evidence import ACKNOWLEDGED, MALFORMED, DeviceEvidence, Evidence
from loadgen.fleet import timestamp_text
from loadgen.stored import (
    Reader,
    Scope,
    StoredReading,
    Tables,
    connect,
    count_history,
    history,
    missing_tables,
    status,
    why_unreadable,
)
from telemetry.kinds import BY_NAME

EXAMPLES_MAX: Final = 10
POLL_SECONDS: Final = 0.25


class VerifyError(WattlineError):
    """The tables cannot be read; the message is one line for a person."""


@dataclass(slots=True)
class Findings:
    """What the comparison found, in readings, and the first few findings as sentences."""

    acknowledged: int
    lost: int = 0
    """Acknowledged by the broker, and not in the history."""
    duplicated: int = 0
    """Rows too many: of a reading stored before, or of a timestamp at which the device sent nothing."""
    wrong: int = 0
    """Rows of history or status with other values than were sent, and status rows that are too old or missing."""
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether all is as it should be."""
        return not (self.lost or self.duplicated or self.wrong)

    def example(self, text: str) -> None:
        """Keep a sentence about one finding, if there is room."""
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(text)

    def line(self) -> str:
        return (
            f"verified {self.acknowledged} acknowledged readings: "
            f"lost {self.lost}, duplicated {self.duplicated}, wrong {self.wrong}"
        )


def check_tables(tables: Tables) -> None:
    """Before a run: raises VerifyError if it could not be verified afterwards."""
    try:
        with connect(tables.conninfo) as connection:
            missing = missing_tables(connection)
    except psycopg.Error as error:
        raise VerifyError(why_unreadable(tables, error)) from None
    if missing:
        raise VerifyError(f"the database at {tables.label} lacks {missing}; run `wattline migrate` first")


def check_nothing_there(tables: Tables, prefix: str, first_us: int) -> None:
    """Before a run that sends older readings: those of an earlier run would be taken for its own.

    Raises VerifyError.
    """
    scope = Scope(prefix, first_us, time.time_ns() // 1000)
    try:
        with connect(tables.conninfo) as connection:
            there = sum(count_history(connection, kind, scope) for kind in BY_NAME)
    except psycopg.Error as error:
        raise VerifyError(why_unreadable(tables, error)) from None
    if there:
        raise VerifyError(
            f"the tables hold {there:,} readings of devices named {prefix!r} in the time this run is about, so its own "
            "could not be told apart; choose another --prefix"
        )


def verify(
    tables: Tables,
    evidence: Evidence,
    prefix: str,
    timeout_seconds: float,
    on_wait: Callable[[int, int], None],
) -> Findings:
    """Compare once no acknowledged reading is missing, or when the time is over.

    `on_wait` hears, while waiting, how many rows are stored and how many readings were acknowledged. Raises VerifyError
    when the database cannot be read, or is still away when the time is over.
    """
    scope = scope_of(evidence, prefix)
    acknowledged = _acknowledged(evidence)
    if scope is None:
        return Findings(acknowledged)
    deadline = time.monotonic() + timeout_seconds
    while True:
        started = time.monotonic()
        last_try = started >= deadline
        try:
            with connect(tables.conninfo) as connection:
                stored = sum(count_history(connection, kind, scope) for kind in BY_NAME)
                if stored >= acknowledged or last_try:
                    findings = compare(connection, evidence, scope)
                    if not findings.lost or last_try:
                        return findings
            on_wait(stored, acknowledged)
        except psycopg.Error as error:
            # A database that restarts is worth waiting for; a missing table or permission is not.
            if last_try or not isinstance(error, psycopg.OperationalError):
                raise VerifyError(why_unreadable(tables, error)) from None
        # Looking must not be all that the database does.
        pause = max(POLL_SECONDS, 2 * (time.monotonic() - started))
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))


def scope_of(evidence: Evidence, prefix: str) -> Scope | None:
    """Which rows of the tables are about this run; None when nothing was sent."""
    window = evidence.window()
    return None if window is None else Scope(prefix, *window)


def compare(connection: Reader, evidence: Evidence, scope: Scope) -> Findings:
    """Hold the evidence against history and status, as one snapshot shows them."""
    findings = Findings(_acknowledged(evidence))
    with connection.transaction():
        for kind in BY_NAME:
            devices = evidence.devices[kind]
            seen = {device_id: bytearray(len(device.stamps)) for device_id, device in devices.items()}
            for row in history(connection, kind, scope):
                # Another fleet's ids may begin the same (LOAD-METER-001 beside LOAD-METER-0001).
                if row.device_id in devices:
                    _judge_row(row, devices[row.device_id], seen[row.device_id], findings)
            newest = {row.device_id: row for row in status(connection, kind, scope)}
            for device_id, device in devices.items():
                _count_lost(kind, device_id, device, seen[device_id], findings)
                fault = _status_fault(newest.get(device_id), device, seen[device_id], scope)
                if fault is not None:
                    findings.wrong += 1
                    findings.example(f"wrong: {BY_NAME[kind].status} of {device_id} {fault}")
    return findings


def _judge_row(row: StoredReading, device: DeviceEvidence, seen: bytearray, findings: Findings) -> None:
    """One row of the history: a reading that was sent, once, with the values that were sent? 1 µs."""
    index = device.find(row.ts_us)
    if index is None:
        findings.duplicated += 1
        findings.example(
            f"duplicated: {_name(row)} is stored and was never sent by this run (one run at a time per prefix?)"
        )
        return
    if seen[index]:
        findings.duplicated += 1
        findings.example(f"duplicated: {_name(row)} is stored more than once")
    seen[index] = 1
    if device.acknowledged[index] == MALFORMED:
        findings.wrong += 1
        findings.example(f"wrong: {_name(row)} is stored, and its payload was one to be refused")
        return
    sent = device.values(index)
    if row.values != sent:
        findings.wrong += 1
        findings.example(f"wrong: {_name(row)} is stored as {row.values}, sent as {sent}")


def _count_lost(kind: str, device_id: str, device: DeviceEvidence, seen: bytearray, findings: Findings) -> None:
    for ts_us, state, stored in zip(device.stamps, device.acknowledged, seen, strict=True):
        if state == ACKNOWLEDGED and not stored:
            findings.lost += 1
            findings.example(
                f"lost: {device_id} at {timestamp_text(ts_us)} was acknowledged and is not in {BY_NAME[kind].history}"
            )


def _status_fault(row: StoredReading | None, device: DeviceEvidence, seen: bytearray, scope: Scope) -> str | None:
    """What is wrong with a status row, which shows the newest reading stored: ours, or that of a later run."""
    newest = device.newest_acknowledged()
    if row is None:
        return None if newest is None else f"is missing; {timestamp_text(newest)} was acknowledged"
    shown = timestamp_text(row.ts_us)
    if newest is not None and row.ts_us < newest:
        return f"shows {shown}, older than {timestamp_text(newest)}, which was acknowledged"
    index = device.find(row.ts_us)
    if index is None:
        in_this_run = scope.first_us <= row.ts_us <= scope.last_us
        return f"shows {shown}, when nothing was sent" if in_this_run else None
    if not seen[index]:
        return f"shows {shown}, which is not in the history"
    if row.values != device.values(index):
        return f"shows {row.values} for {shown}, sent as {device.values(index)}"
    return None


def _acknowledged(evidence: Evidence) -> int:
    return sum(evidence.acknowledged(kind) for kind in BY_NAME)


def _name(row: StoredReading) -> str:
    return f"{row.device_id} at {timestamp_text(row.ts_us)}"
