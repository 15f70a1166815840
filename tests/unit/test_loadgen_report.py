"""What a person sees of a run: the progress, the log beside it, the report."""

from __future__ import annotations

import io
import logging

from config.live_line import CLEAR_LINE
from loadgen.counts import Counts
from loadgen.log import BesideProgress
from loadgen.progress import Progress, progress_line


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn_twice(stream: io.StringIO) -> Progress:
    """A progress line that was shown, changed and shown again."""
    counts = Counts(published=7, acknowledged=5)
    progress = Progress(counts, 60.0, stream)
    progress.start()
    progress.show()
    counts.published = 8
    progress.show()
    return progress


def test_the_line_has_what_one_wants_to_know() -> None:
    counts = Counts(published=12_000, acknowledged=11_000)
    assert progress_line(counts, 333.4, 36.0, 60.0) == (
        "loadgen: published 12,000, acknowledged 11,000 (333/s), unacknowledged 1,000, 36 s, 24 s left"
    )
    counts.refused["no"] += 400
    assert progress_line(counts, 0.0, 61.0, None) == (
        "loadgen: published 12,000, acknowledged 11,000 (0/s), unacknowledged 600, refused 400, 61 s"
    )
    assert progress_line(counts, 0.0, 61.0, 60.0).endswith("61 s, 0 s left")


def test_on_a_terminal_the_line_is_drawn_anew_and_taken_away_at_the_end() -> None:
    screen = Screen()
    progress = drawn_twice(screen)
    assert "\n" not in screen.getvalue()
    _, first, second = screen.getvalue().split(CLEAR_LINE)
    assert first.startswith("[....................]   0% loadgen: published 7")
    assert "loadgen: published 8" in second
    progress.clear()
    progress.clear()
    assert screen.getvalue().endswith(second + CLEAR_LINE)


def test_elsewhere_lines_are_plain() -> None:
    pipe = io.StringIO()
    drawn_twice(pipe).clear()
    first, second = pipe.getvalue().splitlines()
    assert first.startswith("loadgen: published 7")
    assert second.startswith("loadgen: published 8")
    assert not {"\r", "\x1b"} & set(pipe.getvalue())


def test_the_report_says_everything_that_happened_and_nothing_else() -> None:
    counts = Counts(published=1000, acknowledged=1000, seconds=2.0)
    assert counts.report() == [
        "published 1,000 readings in 2.0 s: acknowledged 1,000 (500/s), refused 0, unacknowledged 0"
    ]
    counts.refused["nobody is subscribed"] += 30
    counts.acknowledged, counts.published_again, counts.left_out = 960, 12, 40
    lines = counts.report()
    assert lines[0].endswith("acknowledged 960 (480/s), refused 30, unacknowledged 10")
    assert "published again after a lost connection: 12" in lines
    assert any(line.startswith("turns left out: 40 ") for line in lines)
    assert "refused 30: nobody is subscribed" in lines


def test_the_same_event_is_logged_once_whatever_the_number_of_connections() -> None:
    beside = BesideProgress(Progress(Counts(), None, io.StringIO()))

    def shown(text: str) -> bool:
        return bool(beside.filter(logging.makeLogRecord({"msg": "%s; trying again", "args": (text,)})))

    assert [shown("cut"), shown("cut"), shown("refused"), shown("cut"), shown("refused")] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_a_log_line_never_ends_up_in_the_progress_line() -> None:
    screen = Screen()
    progress = drawn_twice(screen)
    assert not screen.getvalue().endswith(CLEAR_LINE)
    BesideProgress(progress).filter(logging.makeLogRecord({"msg": "cut"}))
    assert screen.getvalue().endswith(CLEAR_LINE)
