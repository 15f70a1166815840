from embedded.books import Books, Sample, read_sample

METRICS = """\
# HELP wattline_readings_committed_total Readings stored
# TYPE wattline_readings_committed_total counter
wattline_readings_committed_total{kind="meter"} 120.0
wattline_readings_committed_total{kind="vehicle"} 80.0
wattline_readings_committed_created{kind="meter"} 1.7e+09
wattline_readings_rejected_total{reason="invalid_json"} 3.0
wattline_readings_rejected_total{reason="too_old"} 4.0
wattline_readings_duplicate_total{kind="meter"} 5.0
wattline_readings_pending 6.0
"""


def test_a_sample_adds_up_kinds_and_reasons() -> None:
    assert read_sample(METRICS) == Sample(committed=200, duplicate=5, rejected=7, pending=6)


def test_an_ingestor_that_has_counted_nothing_yet_is_all_zero() -> None:
    assert read_sample("") == Sample(0, 0, 0, 0)


def test_totals_survive_a_restart_of_the_ingestor() -> None:
    books = Books()
    books.enter(Sample(100, 1, 0, 0), now=0.0)
    books.enter(Sample(150, 1, 0, 0), now=1.0)
    books.enter(Sample(30, 0, 2, 4), now=2.0)
    assert books.committed == 180
    assert books.line() == "committed 180 readings (40/s), pending 4, rejected 2, duplicate 1"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    books = Books()
    for second in range(20):
        books.enter(Sample(1000 if second > 2 else 0, 0, 0, 0), now=float(second))
    assert "committed 1,000 readings (0/s)" in books.line()
